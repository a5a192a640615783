"""Pictures of a study: differences with intervals, accuracy against cost, diversity over epochs.

A method has one colour and marker in all of them; solo is black. Like those of a run, every Figure
must be made and rendered inside `with plots.style():`; `draw` does so.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from xkd_keras.report import plots
from xkd_keras.study import statistics

_ROW, _HEAD = 0.3, 0.42  # inches: one method of a forest plot, the heading of a network
_PALE = "#8FA3B8"  # of ablations
_DIVERSITY = {"disagreement": "disagreement\n(% of images)", "pairwise_kl": "pairwise KL\n(nats)"}


def draw(study: Mapping, summary: Mapping) -> dict[str, bytes]:
    """Return the pictures by file name, those for which there are numbers."""
    variants = statistics.ablations(study)
    with plots.style():
        figures = {
            "forest": forest(study, summary, study["main"], "solo"),
            "ablations": forest(study, summary, variants, statistics.subject(study)),
            "cost": cost(study, summary),
            "diversity": diversity(study),
        }
        return {
            f"{name}.svg": plots.render(figure, "svg") for name, figure in figures.items() if figure
        }


def look(study: Mapping, method: str) -> dict:
    """Return the colour and marker of a method, the same in every picture."""
    if method == "solo":
        return {"color": "black", "marker": ".", "markersize": 14, "markeredgecolor": "white"}
    i = [name for name in study["methods"] if name != "solo"].index(method)
    markers, colours = plots.MARKERS, plots.COLOURS
    marker = markers[i % len(markers)]
    size = {"P": 10, "X": 10, "*": 14}.get(marker, 8)  # their white edges leave little inside
    shape = {"marker": marker, "markersize": size, "markeredgecolor": "white"}
    return {"color": colours[i % len(colours)], **shape}


def name_of(study: Mapping, method: str) -> str:
    """Return a method's name as a picture can show it."""
    return plots.label(method, 24, f"method {list(study['methods']).index(method) + 1}")


def forest(
    study: Mapping, summary: Mapping, methods: Sequence[str], reference: str
) -> Figure | None:
    """Return differences to `reference` with intervals: a panel per network, a row per method.

    None if no method shares a seed with the reference.
    """
    table = summary["networks"]
    rows = [
        method
        for method in methods
        if any(reference in by[method]["against"] for by in table.values() if method in by)
    ]
    if not rows:
        return None
    heights = [_ROW * len(rows)] * len(table)
    figure = Figure(
        figsize=(plots.WIDTH, sum(heights) + _HEAD * len(table) + 0.55), layout="constrained"
    )
    panels = figure.subplots(len(table), 1, sharex=True, squeeze=False)[:, 0]
    for i, (axes, (network, by)) in enumerate(zip(panels, table.items(), strict=True)):
        axes.set_title(_title(network, i, 70), weight="bold")
        axes.axvline(0, color="#555555", linewidth=1.2, zorder=1)
        axes.grid(visible=True, axis="x")
        axes.set_axisbelow(True)
        for y, method in enumerate(rows):
            if result := by[method]["against"].get(reference):
                _difference(axes, y, result, _row_look(study, method))
        axes.set_yticks(range(len(rows)), [name_of(study, method) for method in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    panels[-1].set_xlabel(f"←  worse than {reference}      top-1, points      better  →")
    panels[-1].xaxis.set_major_locator(MaxNLocator(7, min_n_ticks=3))
    return figure


def _title(network: str, i: int, width: int) -> str:
    if network == "ensemble":
        return "ensemble of all networks"
    return plots.label(network, width, f"peer {i + 1}")


def _row_look(study: Mapping, method: str) -> dict:
    shown = look(study, method)
    return shown if method in study["main"] else {**shown, "color": _PALE}


def _difference(axes: Axes, y: float, result: Mapping, shown: Mapping) -> None:
    """Draw one row: the interval, the mean, and at the right both as numbers."""
    mean, low, high = (
        None if v is None else 100 * v for v in (result["mean"], result["low"], result["high"])
    )
    words = signed(mean)
    if low is not None:
        axes.plot([low, high], [y, y], color=shown["color"], linewidth=2.2, solid_capstyle="butt")
        words += f"  ({signed(low)} … {signed(high)})"
    axes.plot(mean, y, zorder=3, **shown)
    place = {"transform": axes.get_yaxis_transform(), "va": "center", "size": 10}
    axes.text(1.02, y, words, color="#333333", **place)


def signed(value: float, digits: int = 2) -> str:
    """Return a difference with its sign, a real minus; nothing has none."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else text[1:]


def cost(study: Mapping, summary: Mapping) -> Figure | None:
    """Return mean top-1 against the seconds of a run, a panel a network; None without a run."""
    methods = [method for method in study["main"] if method in summary["cost"]]
    if not methods:
        return None
    table = summary["networks"]
    columns = min(2, len(table))
    lines = -(-len(table) // columns)
    figure = Figure(figsize=(plots.WIDTH, 2.9 * lines + 0.6), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, squeeze=False)
    for axes in grid.flat[len(table) :]:
        axes.set_axis_off()
    for i, (axes, (network, by)) in enumerate(zip(grid.flat, table.items(), strict=False)):
        axes.set_title(_title(network, i, 34), weight="bold")
        axes.grid(visible=True)
        axes.set_axisbelow(True)
        for method in methods:
            _place(axes, by[method], summary["cost"][method], look(study, method))
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0), min(high, 101))  # an interval of few seeds knows no end
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.tick_params(labelbottom=True)
        if i % columns == 0:
            axes.set_ylabel("top-1 on test (%)")
        if i + columns >= len(table):
            axes.set_xlabel("seconds per run")
    grid[0, 0].set_xlim(left=0, right=1.08 * max(summary["cost"][m]["high"] for m in methods))
    _legend(figure, study, methods, "")
    return figure


def _place(axes: Axes, values: Mapping, seconds: Mapping, shown: Mapping) -> None:
    """Draw a method at its cost and accuracy, with quartiles across and the interval upright."""
    x, y = seconds["median"], 100 * values["mean"]
    across = [[x - seconds["low"]], [seconds["high"] - x]]
    upright = None
    if values["low"] is not None:
        upright = [[y - 100 * values["low"]], [100 * values["high"] - y]]
    axes.errorbar(x, y, xerr=across, yerr=upright, linestyle="", elinewidth=1.6, zorder=3, **shown)


def diversity(study: Mapping) -> Figure | None:
    """Return how much peers differ over the epochs, a curve per method; None if not measured."""
    measured = {key: statistics.curves(study, key) for key in _DIVERSITY}
    measured = {
        key: {method: rows for method, rows in curves.items() if method in study["main"]}
        for key, curves in measured.items()
    }
    measured = {key: curves for key, curves in measured.items() if curves}
    if not measured:
        return None
    height = 2.7 * len(measured) + 0.6
    figure = Figure(figsize=(plots.WIDTH, height), layout="constrained")
    panels = figure.subplots(len(measured), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (key, curves) in zip(panels, measured.items(), strict=True):
        for i, (method, rows) in enumerate(curves.items()):
            scale = 100 if key == "disagreement" else 1
            _curve(axes, rows, scale, (i, len(curves)), look(study, method))
        axes.set_ylabel(_DIVERSITY[key])
        if key == "disagreement":
            axes.set_ylim(0, min(axes.get_ylim()[1], 100))  # an interval of few seeds knows no end
            axes.yaxis.set_major_locator(MaxNLocator(5))
        elif min(row["mean"] for rows in curves.values() for row in rows) > 0:
            axes.set_yscale("log")  # untrained networks differ by a hundred times as much
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(visible=True, axis="y")
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.align_ylabels()
    shown = [m for m in study["main"] if any(m in curves for curves in measured.values())]
    _legend(figure, study, shown, "-")
    return figure


def _curve(
    axes: Axes, rows: Sequence[Mapping], scale: float, turn: tuple[int, int], shown: Mapping
) -> None:
    """Draw a mean over the epochs and its interval shaded; `turn` (i of n) staggers the markers."""
    epochs = [row["epoch"] for row in rows]
    columns = ([row[key] for row in rows] for key in ("mean", "low", "high"))
    mean, low, high = (scale * np.array(column, dtype=np.float64) for column in columns)
    axes.fill_between(epochs, low, high, color=shown["color"], alpha=0.15, linewidth=0)
    every = max(1, len(epochs) // 6)
    start = turn[0] * every // turn[1]  # markers of curves that coincide stay apart
    axes.plot(epochs, mean, markevery=(start, every), linewidth=1.7, **shown)


def _legend(figure: Figure, study: Mapping, methods: Sequence[str], line: str) -> None:
    handles = [
        Line2D([], [], ls=line, lw=1.7, label=name_of(study, method), **look(study, method))
        for method in methods
    ]
    longest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), 92 // (longest + 6)))
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, borderaxespad=0.2)
