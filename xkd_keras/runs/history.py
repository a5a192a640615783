"""RUN/logs/history.csv: one row per epoch; which of them were the best."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
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


def best(rows: Sequence[Mapping], names: Iterable[str]) -> dict[str, int]:
    """Return by name the epoch (from 1) in which a network was best on the validation images.

    Best is the largest top-1; of equals the smallest cross-entropy; of equals the first.

    Args:
        rows: Of the history, one or more, with val_NAME_top1 and val_NAME_cross_entropy.
        names: Of the networks.
    """
    epochs = range(1, len(rows) + 1)
    return {name: max(epochs, key=lambda e, n=name: _merit(rows[e - 1], n)) for name in names}


def _merit(row: Mapping, name: str) -> tuple[float, float]:
    """Return what is to be large; of an epoch that was not finite, the least there is."""
    top1, cross_entropy = row[f"val_{name}_top1"], row[f"val_{name}_cross_entropy"]
    return (top1, -cross_entropy) if math.isfinite(cross_entropy) else (-1.0, 0.0)
