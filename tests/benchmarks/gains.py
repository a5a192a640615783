"""Draw what a method gains, study by study: every network alone and taught, with 95 % intervals.

python tests/benchmarks/gains.py --out=.github/gains.svg "--study=2,000 images=STUDY" ...

STUDY is the directory of a study that compared `solo` with the method. The README's table of gains
is printed.
"""

import json
from pathlib import Path

from absl import app, flags
from matplotlib.figure import Figure

from xkd_keras.report import plots
from xkd_keras.study import statistics
from xkd_keras.study.report import figures

flags.DEFINE_multi_string("study", [], "TITLE=DIRECTORY, in the order of the picture.")
flags.DEFINE_string("method", "xkd", "The method that is shown beside solo.")
flags.DEFINE_string("out", "", "The SVG to write.")
NAMES = {"alexnet": "AlexNet", "resnet20": "ResNet-20", "mobilenet_v2": "MobileNetV2"}


def read(text: str) -> tuple[str, dict]:
    """Return the title of a study, and its numbers by network and method."""
    title, directory = text.rsplit("=", 1)
    study = json.loads((Path(directory) / "study.json").read_text())
    return title, statistics.summarize(study)["networks"]


def draw(studies: list[tuple[str, dict]], method: str) -> Figure:
    """Return the picture: a panel per study, a row per network, solo in black."""
    heights = [len(table) for _, table in studies]
    figure = Figure(figsize=(plots.WIDTH, 0.42 * sum(heights) + 0.62 * len(studies) + 0.4))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(len(studies), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, table) in zip(panels, studies, strict=True):
        axes.set_title(title, weight="bold")
        axes.grid(visible=True, axis="x")
        axes.set_axisbelow(True)
        for y, by in enumerate(table.values()):
            _row(axes, y, by, method)
        axes.set_yticks(range(len(table)), [NAMES.get(name, name) for name in table])
        axes.set_ylim(len(table) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    panels[-1].set_xlabel("top-1 on test images (%)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles[:2], labels[:2], loc="outside upper right", ncols=2)
    return figure


def _row(axes, y: float, by: dict, method: str):
    """Draw one network alone and taught, and write the difference at the right."""
    looks = {
        "solo": ("alone", "black", "o", -0.14),
        method: ("taught", plots.COLOURS[0], "D", 0.14),
    }
    for name, (label, colour, marker, offset) in looks.items():
        mean, low, high = (100 * by[name][key] for key in ("mean", "low", "high"))
        axes.plot([low, high], [y + offset] * 2, color=colour, linewidth=2, solid_capstyle="butt")
        look = {"color": colour, "marker": marker, "markeredgecolor": "white", "linestyle": ""}
        axes.plot(mean, y + offset, markersize=8, zorder=3, label=label, **look)
    place = {"transform": axes.get_yaxis_transform(), "va": "center", "size": 10}
    axes.text(1.02, y, difference(by, method), color="#333333", **place)


def difference(by: dict, method: str) -> str:
    """Return the difference to solo in points with its interval, paired by seed."""
    mean, low, high = (100 * by[method]["against"]["solo"][key] for key in ("mean", "low", "high"))
    return f"{figures.signed(mean)} ({figures.signed(low)} … {figures.signed(high)})"


def table(studies: list[tuple[str, dict]], method: str) -> str:
    """Return the README's table: a row per study and network."""
    lines = [
        f"| images | network | alone | `{method}` | difference, points |",
        "|---|---|---|---|---|",
    ]
    for title, networks in studies:
        for name, by in networks.items():
            alone, taught = (
                f"{100 * each['mean']:.2f} ± {100 * (each['high'] - each['mean']):.2f}"
                for each in (by["solo"], by[method])
            )
            cells = [title, NAMES.get(name, name), alone, taught, difference(by, method)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(_):
    """Draw and print."""
    values = flags.FLAGS
    studies = [read(text) for text in values.study]
    with plots.style():
        Path(values.out).write_bytes(plots.render(draw(studies, values.method), "svg"))
    print(table(studies, values.method))


if __name__ == "__main__":
    app.run(main)
