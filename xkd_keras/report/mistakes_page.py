"""RUN/mistakes.html: the mistakes that the ensemble is surest of, where wrong labels show."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from xkd_keras.report import page, plots
from xkd_keras.report.page import escape, grid, picture
from xkd_keras.runs.answers import Mistakes

PICTURE = "mistakes.png"
_ACROSS = 4


def write(metrics: Mapping, mistakes: Mistakes) -> str:
    """Return the page as HTML that needs no other file.

    Args:
        metrics: What RUN/metrics.json holds.
        mistakes: The surest of the validation and test images.
    """
    names = metrics["data"]["class_names"]
    title = f"Surest mistakes on {metrics['dataset']}"
    if not mistakes.files:
        text = f"# {escape(title)}\n\nThere are none: every held-out image got the right answer."
        return page.whole(title, text, {})
    held = sum(metrics["data"]["examples"][split] for split in ("validation", "test"))
    peers = [name for name in mistakes.given if name != "ensemble"]
    rows = []
    for i, file in enumerate(mistakes.files):
        answers = [mistakes.given[name][i] for name in ("ensemble", *peers)]
        labels = [escape(names[k]) for k in (mistakes.labels[i], *answers)]
        rows.append([str(i + 1), escape(file), *labels, f"{100 * mistakes.sure[i]:.1f} %"])
    headings = ["", "file", "label", "ensemble", *map(escape, peers), "confidence"]
    parts = [
        f"# {escape(title)}",
        "These are the held-out images that the ensemble gets wrong, the most confident mistakes"
        " first. Some of the labels may be wrong; then correct the label, or move the file."
        " Confidence is the probability of the answer, calibrated on the validation images.",
        f"There are {held:,} held-out images, for validation and test; wrong labels among the"
        " training images do not show here. All answers to held-out images are in"
        " `predictions.csv`.",
        picture(PICTURE, "The images with label and answer"),
        grid(headings, rows, words=3 + len(peers) + 1),
    ]
    with plots.style():
        pictures = {PICTURE: plots.render(chart(mistakes, names), "png")}
    return page.whole(title, "\n\n".join(parts) + "\n", pictures)


def chart(mistakes: Mistakes, names) -> Figure:
    """Return the images, numbered, each with file, label and answer."""
    count = len(mistakes.files)
    down = -(-count // _ACROSS)
    figure = Figure(figsize=(plots.WIDTH, 2.55 * down), layout="constrained")
    panels = figure.subplots(down, _ACROSS, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for i, axes in zip(range(count), panels, strict=False):
        axes.imshow(np.squeeze(mistakes.images[i]), cmap="gray", vmin=0, vmax=255)
        said, answered = (
            plots.label(names[k], 15, f"class {k}")
            for k in (mistakes.labels[i], mistakes.given["ensemble"][i])
        )
        file = plots.label(mistakes.files[i].rpartition("/")[2], 20, f"image {i + 1}")
        axes.set_title(
            f"{i + 1}. {file}\nlabel: {said}\nanswer: {answered}, {100 * mistakes.sure[i]:.0f} %",
            size=9,
        )
    return figure
