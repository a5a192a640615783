"""Pictures of a run: a confusion matrix, images that the networks disagree on; and their style.

Plain arrays in, matplotlib Figures out; `render` makes bytes of them. Nothing here keeps state or
touches files, and every Figure must be made and rendered inside `with style():`.
"""

import io
from collections.abc import Mapping, Sequence
from functools import partial

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people tell apart; their yellow cannot be seen as a
# thin line on white, so a darker one stands in. Black is kept for the ensemble.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
    *("#E69F00", "#56B4E9", "#7F7F7F", "#8C7B00"),
)
MARKERS = "os^DvPX*p"  # one more than colours, so that a ninth peer still has a look of its own
_RIGHT, _WRONG = "#0072B2", "#D55E00"
WIDTH = 8.0  # inches; an SVG of this width is shown at 768 px, one point is 1.33 px

style = partial(
    matplotlib.rc_context,
    {
        "text.parse_math": False,  # a class may be called "$5"
        "font.family": "DejaVu Sans",
        "font.size": 11,
        "axes.labelsize": 11,
        "axes.titlesize": 11.5,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#777777",
        "grid.color": "#D9D9D9",
        "grid.linewidth": 0.7,
        "legend.fontsize": 10.5,
        "legend.frameon": False,
        "svg.hashsalt": "xkd_keras",  # the same run gives the same bytes
    },
)


def render(figure: Figure, kind: str) -> bytes:
    """Return `figure` as the bytes of an "svg" or "png" file."""
    target = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    figure.savefig(target, format=kind, dpi=160, facecolor="white", metadata=metadata)
    return target.getvalue()


def spans(weights: np.ndarray) -> list[tuple[int, int, float]]:
    """Return the runs of steps that share one positive weight: (first, one past the last, weight).

    Args:
        weights: [steps], the distillation weight at every training step.
    """
    weights = np.asarray(weights, dtype=np.float64)
    edges = np.flatnonzero(np.diff(weights)) + 1
    starts = np.concatenate([[0], edges]) if weights.size else []
    ends = [*edges, weights.size]
    return [
        (int(start), int(end), float(weights[start]))
        for start, end in zip(starts, ends, strict=False)
        if weights[start] > 0
    ]


def label(text: str, width: int, fallback: str) -> str:
    """Return `text` on one line of `width` characters; `fallback` if the font cannot write it."""
    text = " ".join(str(text).split())
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    if not text or not all(font.get_char_index(ord(character)) for character in text):
        text = fallback
    if len(text) <= width:
        return text
    return f"{text[: width // 2]}…{text[-((width - 1) // 2) :]}"  # names often differ at the end


def confusion(counts: np.ndarray, names: Sequence[str], network: str) -> Figure:
    """Return the confusion matrix: right answers in blue, confusions in orange, darker where more.

    Args:
        counts: int [classes, classes], true class by answered class.
        names: The classes' names.
        network: Whose answers.
    """
    k = len(names)
    shown = [label(name, 18, f"class {i}") for i, name in enumerate(names)]
    longest = max(map(len, shown))
    side = np.clip(0.46 * k, 1.6, 6.4)
    room = 0.9 + 0.085 * longest
    figure = Figure(figsize=(max(side + room, 4.2), side + room), layout="constrained")
    axes = figure.subplots()
    diagonal = np.eye(k, dtype=bool)
    rows = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = np.where(diagonal, 0, counts)
    # The square root lifts a single confusion off the white of none.
    depth = np.where(diagonal, 0.55 * counts / rows, np.sqrt(wrong / max(wrong.max(), 1)))[
        ..., None
    ]
    colour = np.where(diagonal[..., None], to_rgb(_RIGHT), to_rgb(_WRONG))
    axes.pcolormesh(1 - depth * (1 - colour), edgecolors="#E4E4E4", linewidth=0.5)
    size = 10.5 if k <= 12 else 9 if k <= 20 else 8
    for true, answer in np.argwhere(counts):
        axes.text(
            answer + 0.5, true + 0.5, counts[true, answer], ha="center", va="center", size=size
        )
    axes.set_xticks(np.arange(k) + 0.5, shown, rotation=90 if longest > 3 else 0, size=size)
    axes.set_yticks(np.arange(k) + 0.5, shown, size=size)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(
        aspect="equal", xlabel=f"answer of {label(network, 30, 'the network')}", ylabel="true class"
    )
    axes.invert_yaxis()
    return figure


def gallery(
    images: np.ndarray, labels: np.ndarray, answers: Mapping[str, np.ndarray], names: Sequence[str]
) -> Figure:
    """Return images, each with its true class and what every network answered.

    Args:
        images: uint8 [k, height, width, channels], k > 0.
        labels: int [k], the true classes.
        answers: Network -> int [k], the classes it answered.
        names: The classes' names.
    """
    step, line = max(1.2, 0.21 * len(answers) + 0.45), 0.21  # inches
    height = -(-len(images) // 2) * step
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))  # a sheet, in inches
    axes.set_axis_off()

    def say(x, y, text, **look):
        axes.text(x, y, text, va="top", size=9.5, **look)

    for i, (image, true) in enumerate(zip(images, labels, strict=True)):
        x, y = (i % 2) * WIDTH / 2 + 0.05, (i // 2) * step + 0.08
        tall, wide, *_ = np.divide(image.shape, max(image.shape))
        place = (x, x + wide, y + tall, y)
        axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255, extent=place)
        say(x + 1.1, y, f"true: {label(names[true], 26, f'class {true}')}", weight="bold")
        for j, (name, answer) in enumerate(answers.items(), start=1):
            right = answer[i] == true
            look = {"color": _RIGHT if right else _WRONG}
            say(x + 1.1, y + line * j, "✓" if right else "✗", **look)
            say(x + 1.3, y + line * j, label(name, 15, f"peer {j}"))
            answered = label(names[answer[i]], 17, f"class {answer[i]}")
            say(x + 2.55, y + line * j, answered, **look)
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))  # imshow has moved them
    return figure
