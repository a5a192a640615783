"""What the networks get wrong: confusions, and the images on which they differ."""

from collections.abc import Mapping

import numpy as np

from xkd_keras.console import many
from xkd_keras.report import findings, plots
from xkd_keras.report.page import escape, grid, picture
from xkd_keras.runs import answers

_PAIRS = 10  # shown of confusions


def gallery(
    metrics: Mapping, answered: answers.Answers, given: Mapping[str, np.ndarray]
) -> dict[str, bytes]:
    """Return the picture of the first disputed images by file name, if there are any."""
    some = answered.disputed
    if not some.size:
        return {}
    chosen = {name: answer[some] for name, answer in given.items()}
    names = metrics["data"]["class_names"]
    with plots.style():
        figure = plots.gallery(answered.images, answered.labels[some], chosen, names)
        return {"disagreements.png": plots.render(figure, "png")}


def matrices(metrics: Mapping, labels, given: Mapping, network: str) -> dict[str, bytes]:
    """Return the confusion matrices of the network that is shipped and of the ensemble."""
    names, drawn = metrics["data"]["class_names"], {}
    files = {"confusion.svg": network}
    if len(metrics["peers"]) > 1:
        files["confusion_ensemble.svg"] = "ensemble"
    with plots.style():
        for file, name in files.items():
            counts = findings.confusion(labels, given[name], len(names))
            if shown := findings.classes_shown(counts):
                part = counts[np.ix_(shown, shown)]
                figure = plots.confusion(part, [names[i] for i in shown], name)
                drawn[file] = plots.render(figure, "svg")
    return drawn


def confusions(
    metrics: Mapping,
    labels: np.ndarray,
    given: Mapping[str, np.ndarray],
    network: str,
    pictures: Mapping,
) -> list[str]:
    """Return a network's confusion matrix and its most frequent confusions, the others' beside."""
    counts = findings.confusion(labels, given[network], len(metrics["data"]["class_names"]))
    names = [escape(name) for name in metrics["data"]["class_names"]]
    pairs = findings.confused_pairs(counts)
    parts = [f"## What {escape(network)} confuses"]
    if "confusion.svg" in pictures:
        if len(names) > findings.MATRIX:
            shown = len(findings.classes_shown(counts))
            parts.append(f"The {shown} most often confused of {len(names):,} classes:")
        parts.append(picture("confusion.svg", f"Confusion matrix of {escape(network)}"))
    if not pairs:
        return [*parts, f"It confuses nothing: all {len(labels):,} test images are right."]
    rows = []
    for true, answer, _ in pairs[:_PAIRS]:
        same = [np.sum((labels == true) & (answer_of == answer)) for answer_of in given.values()]
        rows.append([names[true], names[answer], *map(str, same)])
    return [
        *parts,
        f"The most frequent of its {many(sum(pair[2] for pair in pairs), 'mistake')}, and how"
        " often each network makes the same mistake:",
        grid(["true", "answered", *map(escape, given)], rows, words=2),
        *_of_ensemble(pictures),
    ]


def _of_ensemble(pictures: Mapping) -> list[str]:
    name = "confusion_ensemble.svg"
    words = "Confusion matrix of the ensemble"
    return ["For comparison, the ensemble:", picture(name, words)] if name in pictures else []


def disputes(labels: np.ndarray, given: Mapping[str, np.ndarray]) -> list[str]:
    """Return where the peers and the ensemble differ, and who is right then."""
    parts = ["## Where the networks differ"]
    disputed = answers.disagreements(labels, given)
    if not disputed.size:
        return [*parts, "Nowhere: every network gives the ensemble's answer on every test image."]
    teacher = given["ensemble"]
    rows = []
    for name, answer in given.items():
        if name != "ensemble":
            differs = answer != teacher
            right, taught = differs & (answer == labels), differs & (teacher == labels)
            counts = (differs, right, taught, differs & ~right & ~taught)
            rows.append([escape(name), *(f"{count.sum():,}" for count in counts)])
    return [
        *parts,
        f"On {disputed.size:,} of {len(labels):,} test images a network differs from the ensemble.",
        grid(["", "differs", "network right", "ensemble right", "both wrong"], rows),
        "The images on which the most networks differ (✓ right, ✗ wrong):",
        picture("disagreements.png", "Test images with the answer of every network"),
    ]
