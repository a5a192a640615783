"""Pictures of a run: curves over the epochs, a confusion matrix, images the networks disagree on.

Plain arrays in, matplotlib Figures out; `render` makes bytes of them. Nothing here keeps state or
touches files, and every Figure must be made and rendered inside `with style():`.
"""

import io
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

# Okabe and Ito's colours, which colour-blind people tell apart; their yellow cannot be seen as a
# thin line on white, so a darker one stands in. Black is kept for the ensemble.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
    *("#E69F00", "#56B4E9", "#7F7F7F", "#8C7B00"),
)
MARKERS = "os^DvPX*p"  # one more than colours, so that a ninth peer still has a look of its own
_RIGHT, _WRONG, _SHADE = "#0072B2", "#D55E00", "#5B6B82"
WIDTH = 8.0  # inches; an SVG of this width is shown at 768 px, one point is 1.33 px
_LEVELS = 8  # shades of lambda

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


class Panel(NamedTuple):
    """What one pair of axes shows; `curves` maps a network to its key in the history."""

    label: str
    curves: Mapping[str, str]
    scale: float = 1.0
    log: bool = False
    height: float = 3.4  # inches


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


def charts(
    history: Sequence[Mapping], peers: Sequence[str], weights: np.ndarray
) -> dict[str, Figure]:
    """Return the curves of a run by name: accuracy, cross_entropy, teaching, learning_rate.

    A chart with nothing to show is left out, as is the learning rate where it never changes.

    Args:
        history: One mapping an epoch, as in RUN/logs/history.csv.
        peers: Names of the peers, in their order.
        weights: [steps], lambda at every training step.
    """
    run = _Run(history, peers, np.asarray(weights, dtype=np.float64))
    everyone = [*peers, "ensemble"]

    def keys(names, suffix):
        return {name: f"{name}_{suffix}" for name in names}

    distances = keys(peers, "distillation")
    distillation = Panel("distillation term\n(nats)", distances, log=True, height=2.5)
    agreement = Panel("peers' agreement\n(%)", {"agreement": "agreement"}, scale=100, height=2.2)
    rates = Panel("learning rate", keys(peers, "learning_rate"), log=True, height=2.6)
    teaching = [
        *([distillation] if any(map(any, run.values(distillation))) else []),
        *([Panel("λ, weight\nof the teacher", {}, height=1.5)] if any(run.weights > 0) else []),
        *([agreement] if len(peers) > 1 else []),
    ]
    plan = {
        "accuracy": [Panel("top-1 accuracy (%)", keys(everyone, "top1"), scale=100)],
        "cross_entropy": [Panel("cross-entropy (nats)", keys(everyone, "cross_entropy"), log=True)],
        "teaching": teaching,
        "learning_rate": [rates] if any(len(set(v)) > 1 for v in run.values(rates)) else [],
    }
    return {
        name: _chart(panels, run)
        for name, panels in plan.items()
        if any(any(run.values(panel)) for panel in panels)
    }


class _Run(NamedTuple):
    """What every chart needs to know."""

    history: Sequence[Mapping]
    peers: Sequence[str]
    weights: np.ndarray

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Return the epochs that have a finite value of `key`, and the values."""
        rows = [(row["epoch"], row.get(key)) for row in self.history]
        rows = [(epoch, float(v)) for epoch, v in rows if v is not None and np.isfinite(v)]
        return [epoch for epoch, _ in rows], [value for _, value in rows]

    def values(self, panel: Panel) -> list[list[float]]:
        return [self.series(key)[1] for key in panel.curves.values()]

    def look(self, name: str) -> dict:
        if name not in self.peers:
            return {"color": "black", "marker": ".", "linewidth": 2.4, "markersize": 9}
        i = list(self.peers).index(name)
        shape = {"marker": MARKERS[i % len(MARKERS)], "markersize": 6, "markeredgecolor": "white"}
        return {"color": COLOURS[i % len(COLOURS)], "linewidth": 1.8, **shape}


def _chart(panels: Sequence[Panel], run: _Run) -> Figure:
    """Return the panels, one above the other, over one axis of epochs."""
    heights = [panel.height for panel in panels]
    handles = _handles(panels, run)
    columns = max(1, 92 // (max(len(handle.get_label()) for handle in handles) + 6))
    height = sum(heights) + 0.23 * np.ceil(len(handles) / columns)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, borderaxespad=0.2)
    grid = {"sharex": True, "squeeze": False, "height_ratios": heights}
    rows = figure.subplots(len(panels), 1, **grid)[:, 0]
    last = run.history[-1]
    position = np.arange(len(run.weights) + 1) * (last["epoch"] / last["step"])  # of steps, epochs
    for axes, panel in zip(rows, panels, strict=True):
        axes.grid(visible=True, axis="y")
        axes.set_ylabel(panel.label)
        # A fixed number: automatic ticks change with the layout, which changes with the ticks.
        axes.yaxis.set_major_locator(MaxNLocator(int(2 * panel.height)))
        _shade(axes, run.weights, position)
        if panel.curves:
            _zoom(axes, panel, _draw(axes, panel, run))
        else:
            steps = [*run.weights, run.weights[-1]]
            axes.plot(position, steps, drawstyle="steps-post", color=_SHADE)
            axes.set_ylim(0, 1.1 * max(steps))
    rows[-1].set(xlabel="epoch", xlim=(0, last["epoch"] * 1.015))
    rows[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.align_ylabels()
    return figure


def _draw(axes: Axes, panel: Panel, run: _Run) -> list[float]:
    """Draw a curve a network, validation solid and training dashed; return the later values.

    Where there is no validation, training is drawn solid.
    """
    late = []
    for i, (name, key) in enumerate(panel.curves.items()):
        look = run.look(name)
        train, validation = run.series(key), run.series(f"val_{key}")
        if validation[0]:
            thin = {"color": look["color"], "linewidth": 1, "alpha": 0.8}
            dashed = np.multiply(train[1], panel.scale)
            axes.plot(train[0], dashed, "--", **thin)
            late.extend(dashed[len(dashed) // 5 :])
        epochs, values = validation if validation[0] else train
        values = np.multiply(values, panel.scale)
        every = max(1, len(epochs) // 8)
        axes.plot(epochs, values, markevery=(i % every, every), zorder=3, **look)
        late.extend(values[len(values) // 5 :])
    return late


def _zoom(axes: Axes, panel: Panel, late: Sequence[float]) -> None:
    """Give the room to the later values: the first epochs of every run look alike."""
    if panel.log and min(late, default=0) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif panel.scale == 100 and late:
        low, high = min(late), max(late)
        margin = max(0.06 * (high - low), 0.5)
        axes.set_ylim(max(low - margin, -margin), min(high + margin, 100 + margin))


def _shade(axes: Axes, weights: np.ndarray, position: np.ndarray) -> None:
    """Shade where the teacher taught, darker where it counted more."""
    if not np.any(weights > 0):
        return
    # A ramp has another weight at every step; a few levels look the same and keep the file small.
    for start, end, level in spans(np.ceil(weights / weights.max() * _LEVELS)):
        alpha = 0.04 + 0.24 * level / _LEVELS
        axes.axvspan(position[start], position[end], color=_SHADE, alpha=alpha, linewidth=0)


def _handles(panels: Sequence[Panel], run: _Run) -> list[Line2D | Patch]:
    """Return the entries of the legend."""
    names = [n for n in [*run.peers, "ensemble"] if any(n in panel.curves for panel in panels)]
    handles = [
        Line2D([], [], label=label(name, 32, f"peer {i + 1}"), **run.look(name))
        for i, name in enumerate(names)
    ]
    keys = [key for panel in panels for key in panel.curves.values()]
    if any(run.series(f"val_{key}")[0] for key in keys):
        handles.append(Line2D([], [], color="#777777", label="validation"))
        handles.append(Line2D([], [], ls="--", color="#777777", lw=1, label="training"))
    if np.any(run.weights > 0):
        handles.append(Patch(color=_SHADE, alpha=0.25, label="teacher on (darker: stronger)"))
    return handles


def confusion(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """Return the confusion matrix: right answers in blue, confusions in orange, darker where more.

    Args:
        counts: int [classes, classes], true class by answered class.
        names: The classes' names.
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
    axes.set(aspect="equal", xlabel="answer of the ensemble", ylabel="true class")
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
