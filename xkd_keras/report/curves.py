"""Curves of a run over its epochs, shaded where the teacher's weight changes.

Every Figure must be made and rendered inside `with plots.style():`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from xkd_keras.report.plots import COLOURS, MARKERS, WIDTH, label, spans

_SHADE = "#5B6B82"
_LEVELS = 8  # shades of lambda
_LONG = 20  # epochs, of which the first may be left out of a picture


class Panel(NamedTuple):
    """What one pair of axes shows; `curves` maps a network to its key in the history."""

    label: str
    curves: Mapping[str, str]
    scale: float = 1.0
    log: bool = False
    height: float = 3.4  # inches


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
    agreement = Panel("networks'\nagreement (%)", {"agreement": "agreement"}, scale=100, height=2.2)
    rates = Panel("learning rate", keys(peers, "learning_rate"), log=True, height=2.6)
    heard = Panel("teacher heard\n(%)", keys(peers, "heard"), scale=100, height=2.2)
    weight = Panel("λ, weight\nof the teacher", {}, height=1.5)
    teaching = [
        *([distillation] if any(map(any, run.values(distillation))) else []),
        *([heard] if any(map(any, run.values(heard))) else []),
        *([weight] if varies(run.weights) else []),
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


def varies(weights: np.ndarray) -> bool:
    """Whether a teacher taught, but not always at the same weight: only that is worth a shade."""
    return bool(np.any(np.diff(weights)))


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
    """Draw one curve per network, validation solid and training dashed; return the later values.

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
            late.extend(dashed[_early(dashed) :])
        epochs, values = validation if validation[0] else train
        values = np.multiply(values, panel.scale)
        every = max(1, len(epochs) // 8)
        axes.plot(epochs, values, markevery=(i % every, every), zorder=3, **look)
        late.extend(values[_early(values) :])
    return late


def _early(values: Sequence[float]) -> int:
    """Return how many values may lie outside of the axes; of a short run, none."""
    return len(values) // 5 if len(values) >= _LONG else 0


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
    if not varies(weights):
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
    if varies(run.weights):
        handles.append(Patch(color=_SHADE, alpha=0.25, label="teacher on (darker: stronger)"))
    return handles
