"""Class by class: how many images, how often found, how often rightly named, of every network."""

import csv
import io
from collections.abc import Mapping, Sequence

import numpy as np

from xkd_keras.console import many
from xkd_keras.data import splits
from xkd_keras.report import findings
from xkd_keras.report.page import escape, grid

_SHOWN = 40  # classes of the table; classes.csv has all


def counts(labels: np.ndarray, answers: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how many images of each class were found, and how many got it as their answer."""
    right = np.bincount(labels[labels == answers], minlength=classes)
    return right, np.bincount(answers, minlength=classes)


def scores(images: Sequence[int], right: Sequence[int], answered: Sequence[int]) -> list[dict]:
    """Return for each class recall and precision, each with its interval, and F1.

    Recall is the share of a class's images that are found, precision the share of its answers that
    are right, F1 their harmonic mean; intervals are Wilson's, of 95 %.

    Args:
        images: int [classes], in the test split.
        right: int [classes], of these the ones that are found.
        answered: int [classes], images that got the class as their answer.
    """
    rows = []
    for n, hits, given in zip(images, right, answered, strict=True):
        recall, precision = (hits / total if total else None for total in (n, given))
        rows.append(
            {
                "images": int(n),
                "recall": recall,
                "recall_interval": findings.wilson(recall or 0.0, int(n)),
                "precision": precision,
                "precision_interval": findings.wilson(precision or 0.0, int(given)),
                "f1": 2 * hits / (n + given) if n + given else None,
            }
        )
    return rows


def table(
    labels: np.ndarray, given: Mapping[str, np.ndarray], names: Sequence[str], manifest
) -> str:
    """Return RUN/classes.csv: one line for each network, and each artifact, and class."""
    images = np.bincount(labels, minlength=len(names))
    parts = {name: counts(labels, answers, len(names)) for name, answers in given.items()}
    for entry in manifest["artifacts"] if manifest else ():
        if "right" in entry:  # one of an earlier version has no such counts
            parts[entry["file"]] = entry["right"], entry["answered"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [f"{kind}{end}" for kind in ("recall", "precision") for end in ("", " low", " high")]
    writer.writerow(["network", "class", "images", *columns, "f1"])
    for network, part in parts.items():
        for name, row in zip(names, scores(images, *part), strict=True):
            cells = []
            for kind in ("recall", "precision"):
                cells += map(_number, (row[kind], *row[f"{kind}_interval"]))
            writer.writerow([network, name, row["images"], *cells, _number(row["f1"])])
    return text.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def section(
    metrics: Mapping, labels: np.ndarray, given: Mapping[str, np.ndarray], network: str
) -> list[str]:
    """Return the table of one network's classes, those with the lowest recall first.

    Args:
        metrics: What RUN/metrics.json holds.
        labels: int [n].
        given: Each network -> int [n], its answers.
        network: Whose.
    """
    names = metrics["data"]["class_names"]
    images = np.bincount(labels, minlength=len(names))
    rows = scores(images, *counts(labels, given[network], len(names)))
    train = metrics["data"].get("class_counts", {}).get("train")  # not of earlier versions
    order = sorted(range(len(names)), key=lambda i: (rows[i]["recall"] is None, rows[i]["recall"]))
    headings = ["class", *(["training images"] if train else []), "test images"]
    cells = [
        [
            escape(names[i]),
            *([f"{train[i]:,}"] if train else []),
            f"{rows[i]['images']:,}",
            *_shares(rows[i], "recall"),
            *_shares(rows[i], "precision"),
            _percent(rows[i]["f1"]),
        ]
        for i in order[:_SHOWN]
    ]
    more = f" The table shows {_SHOWN} of {len(names):,} classes." if len(names) > _SHOWN else ""
    return [
        "## Class by class",
        *_balance(metrics),
        f"Answers of {escape(network)} on the test images, the class with the lowest recall"
        f" first.{more} Recall is the share of a class's images that are recognised, precision"
        " the share of the answers naming the class that are right, F1 their harmonic mean."
        " `classes.csv` lists every class for every network and file.",
        grid([*headings, "recall %", "95 %", "precision %", "95 %", "F1 %"], cells),
    ]


def _shares(row: Mapping, kind: str) -> list[str]:
    low, high = row[f"{kind}_interval"]
    return [
        _percent(row[kind]),
        "–" if row[kind] is None else f"{100 * low:.0f} – {100 * high:.0f}",
    ]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _balance(metrics: Mapping) -> list[str]:
    """Return what is to be said of classes that have very different numbers of images."""
    data = metrics["data"]
    train = data.get("class_counts", {}).get("train", [])
    if not splits.uneven(train):
        return []
    most, least = int(np.argmax(train)), int(np.argmin(train))
    names, config = data["class_names"], metrics["config"]
    text = (
        f"**The classes are uneven:** {many(train[most], 'training image')} of"
        f" {escape(names[most])}, {train[least]:,} of {escape(names[least])}. Top-1 says little"
        " about rare classes; balanced accuracy, the mean of the recalls, counts all classes"
        " alike."
    )
    helped = config.get("class_weights", "none") != "none" or config.get("sampling") == "balanced"
    if not helped:
        text += " `--class_weights=balanced` or `--sampling=balanced` make rare classes count more."
    return [text]
