"""RUN/predictions.csv: what every network answered to every held-out image."""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from xkd_keras import data as datasets
from xkd_keras import files
from xkd_keras.runs import calibration, evaluation


def write(
    run_dir: Path,
    data: datasets.Dataset,
    parts: Mapping[str, evaluation.Predictions],
    temperatures: Mapping[str, float],
) -> None:
    """Write one line per image: split, file, label, the ensemble's answer, each peer's.

    Args:
        run_dir: Of the run.
        data: Its images; those of a folder have file names, others their position in the split.
        parts: What the networks answered, by split.
        temperatures: By network; probabilities are the calibrated ones, as of what is exported.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [name for name in temperatures if name != "ensemble"]
    own = [column for name in names for column in (name, f"{name} probability")]
    writer.writerow(["split", "file", "label", "prediction", "probability", *own])
    for split, predictions in parts.items():
        rows = _rows(data, predictions, ["ensemble", *names], temperatures)
        places = datasets.places(getattr(data, split))
        writer.writerows([split, place, *row] for place, row in zip(places, rows, strict=True))
    files.write(run_dir / "predictions.csv", text.getvalue())


def _rows(data, predictions, names, temperatures) -> Iterator[list[str]]:
    """Yield the label, and each network's answer and its probability."""
    classes, columns = data.class_names, []
    for name in names:
        logits = predictions.logits[name]
        sure = calibration.confidence(logits, temperatures[name])
        columns += [[classes[i] for i in logits.argmax(-1)], [f"{each:.4f}" for each in sure]]
    for label, *row in zip(predictions.labels, *columns, strict=True):
        yield [classes[label], *row]
