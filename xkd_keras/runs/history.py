"""RUN/logs/history.csv: one row per epoch."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from xkd_keras import files


def path(run_dir: Path) -> Path:
    """Return where the history of a run is."""
    return run_dir / "logs" / "history.csv"


def write(run_dir: Path, rows: Sequence[dict]) -> None:
    """Write the rows, whole or not at all; what only a later version measured is empty before."""
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write(path(run_dir), text.getvalue())


def read(run_dir: Path) -> list[dict]:
    """Return the rows; epoch and step are int, all else float; empty cells are left out."""
    with open(path(run_dir), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    whole = ("epoch", "step")
    return [{k: int(v) if k in whole else float(v) for k, v in row.items() if v} for row in rows]
