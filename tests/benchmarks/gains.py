"""Keep what studies measured; write what the method gains into README and RESULTS.md; draw it.

python tests/benchmarks/gains.py --studies=runs/study

The finished runs of DIRECTORY/NAME/study.json join those of configs/study/runs/NAME.json, for
every study here. From these are written: README's rows after `<!-- gains -->`, and its comparison
with other methods after `<!-- rivals -->`, for the studies of photographs; the tables of RESULTS.md
after `<!-- NAME networks -->` and `<!-- NAME together -->`; the picture, .github/gains.svg, of
README's table. What no run is kept of stays as it is.
"""

import json
from pathlib import Path

import kept
import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

from xkd_keras.report import plots
from xkd_keras.study import statistics, together
from xkd_keras.study.report import figures

flags.DEFINE_string("studies", "runs/study", "The directory of the studies' directories.")
flags.DEFINE_bool("write", True, "Write the tables; else only keep what was measured.")
HOME = Path(__file__).parents[2]
NAMES = {"alexnet": "AlexNet", "resnet20": "ResNet-20", "densenet-bc-40-12": "DenseNet-BC"}
PHOTOGRAPHS = {
    "cifar10_2000": "CIFAR-10, 2,000 images, 80 epochs",
    "cifar10_4000": "CIFAR-10, 4,000 images, 24 epochs",
    "cifar10_10000": "CIFAR-10, 10,000 images, 12 epochs",
    "imagenet100": "Tiny ImageNet, 10,000 images, 30 epochs",
}
STUDIES = (*PHOTOGRAPHS, "digits_xkd", "glyphs_xkd")
RIVALS = {
    "solo": "training alone",
    "ensemble": "the plain ensemble (`ensemble`)",
    "mcod": "the ensemble in growing windows (`mcod`)",
    "dml": "mutual learning (`dml`)",
    "dml_t1": "mutual learning at T = 1",
    "dcm": "mutual learning with heads on early layers",
    "kd": "traditional distillation (`kd`; it trains twice)",
}
HEAD = """\
| training | network | alone | `xkd` | difference, points | ECE, % |
|---|---|---|---|---|---|"""


def draw(rows: list[list[str]]) -> Figure:
    """Return the picture of README's rows: a panel per training; alone in black, and taught."""
    panels = {title: [row for row in rows if row[0] == title] for title in PHOTOGRAPHS.values()}
    panels = {title: of for title, of in panels.items() if of}
    heights = [len(of) for of in panels.values()]
    figure = Figure(figsize=(plots.WIDTH, 0.42 * sum(heights) + 0.62 * len(panels) + 0.4))
    figure.set_layout_engine("constrained")
    all_axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, of) in zip(all_axes, panels.items(), strict=True):
        axes.set_title(title, weight="bold")
        axes.grid(visible=True, axis="x")
        axes.set_axisbelow(True)
        for y, row in enumerate(of):
            _row(axes, y, row)
        axes.set_yticks(range(len(of)), [row[1] for row in of])
        axes.set_ylim(len(of) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    all_axes[-1].set_xlabel("top-1 on test images (%)")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles[:2], labels[:2], loc="outside upper right", ncols=2)
    return figure


def _row(axes, y: float, row: list[str]):
    """Draw one network alone and taught, and write the difference at the right."""
    looks = (("alone", "black", "o", -0.14), ("taught", plots.COLOURS[0], "D", 0.14))
    for cell, (label, colour, marker, offset) in zip(row[2:4], looks, strict=True):
        mean, half = map(float, cell.split(" ± "))
        ends = [mean - half, mean + half]
        axes.plot(ends, [y + offset] * 2, color=colour, linewidth=2, solid_capstyle="butt")
        look = {"color": colour, "marker": marker, "markeredgecolor": "white", "linestyle": ""}
        axes.plot(mean, y + offset, markersize=8, zorder=3, label=label, **look)
    place = {"transform": axes.get_yaxis_transform(), "va": "center", "size": 10}
    axes.text(1.02, y, row[4], color="#333333", **place)


def points(gain: dict | None) -> str:
    """Return a paired difference of fractions in points, with its interval if it has one."""
    if not gain:
        return "–"
    mean, low, high = (
        None if gain[key] is None else figures.signed(100 * gain[key])
        for key in ("mean", "low", "high")
    )
    return mean if low is None else f"{mean} ({low} … {high})"


def p_value(result: dict) -> str:
    """Return a p-value after Holm's correction as it is written."""
    holm = result["holm"]
    return "–" if holm is None else "< 0.001" if holm < 0.001 else f"{holm:.3f}"


def gained(name: str, study: dict) -> list[list[str]]:
    """Return README's rows of a study: one for each network."""
    rows = []
    for network, by in statistics.summarize(study)["networks"].items():
        both = by["solo"], by["xkd"]
        top1 = [f"{100 * e['mean']:.2f} ± {100 * (e['high'] - e['mean']):.2f}" for e in both]
        ece = " → ".join(f"{100 * each['ece']['mean']:.0f}" for each in both)
        gain = points(by["xkd"]["against"]["solo"])
        rows.append([PHOTOGRAPHS[name], NAMES.get(network, network), *top1, gain, ece])
    return rows


def rivals(studies: dict[str, dict]) -> str:
    """Return README's comparison: per method and training, how many errors fewer `xkd` makes."""
    of = {name: studies[name] for name in PHOTOGRAPHS if name in studies}
    found = {name: together.compared(study)["against"] for name, study in of.items()}
    titles = [PHOTOGRAPHS[name].rpartition(",")[0] for name in of]
    lines = [
        f"| fewer errors with `xkd`, %, than with | {' | '.join(titles)} |",
        f"|---|{'---|' * len(titles)}",
    ]
    for method, title in RIVALS.items():
        each = [against.get(method) for against in found.values()]
        cells = [f"**{points(it)}**" if it and it["holm"] < 0.05 else points(it) for it in each]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def written(path: Path) -> list[list[str]]:
    """Return the rows that README has."""
    table = path.read_text().split(f"{HEAD}\n")[1].partition("\n\n")[0]
    return [line.strip("| ").split(" | ") for line in table.splitlines()]


def by_network(study: dict) -> str:
    """Return a study's table: a row per method and network, over the seeds that solo shares."""
    lines = [
        "| method | network | seeds | `solo` | method | to `solo`, points | Holm p | to `xkd`,"
        " points | cross-entropy, `solo` / method | ECE %, `solo` / method |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    table = statistics.summarize(study)["networks"]
    for method in study["methods"]:
        if method != "solo" and table["ensemble"][method]["n"]:
            lines += [_line(study, method, network, by) for network, by in table.items()]
    return "\n".join(lines)


def _line(study: dict, method: str, network: str, by: dict) -> str:
    kinds = {kind: statistics.scores(study, network, kind) for kind in ("top1", *_CALIBRATION)}
    top1 = kinds["top1"]
    seeds = sorted(set(top1["solo"]) & set(top1[method]))
    means = {
        kind: [float(np.mean([each[of][seed] for seed in seeds])) for of in ("solo", method)]
        for kind, each in kinds.items()
    }
    against = by[method]["against"]
    alone = against.get("solo") or statistics.compare(top1[method], top1["solo"])
    ours = None if method == "xkd" else statistics.compare(top1[method], top1["xkd"])
    scores = [
        " / ".join(f"{scale * value:.{digits}f}" for value in means[kind])
        for kind, (scale, digits) in _CALIBRATION.items()
    ]
    accuracies = [f"{100 * value:.2f}" for value in means["top1"]]
    told = [points(alone), p_value(alone), points(ours), *scores]
    cells = [f"`{method}`", NAMES.get(network, network), span(seeds), *accuracies, *told]
    return f"| {' | '.join(cells)} |"


_CALIBRATION = {"cross_entropy": (1, 2), "ece": (100, 1)}  # -> factor, digits


def all_together(study: dict) -> str:
    """Return a study's comparison of xkd with every other method, all networks together."""
    lines = [
        "| to | seeds | fewer errors with `xkd`, % | Holm p | seeds won, tied, lost |",
        "|---|---|---|---|---|",
    ]
    for method, each in together.compared(study)["against"].items():
        counts = f"{each['wins']}, {each['ties']}, {each['losses']}"
        cells = [f"`{method}`", str(each["n"]), points(each), p_value(each), counts]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def span(seeds: list[int]) -> str:
    """Return seeds as they are written: 0-4, or one by one."""
    whole = len(seeds) > 1 and seeds == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]}-{seeds[-1]}" if whole else ", ".join(map(str, seeds))


def fill(path: Path, tables: dict[str, str]) -> None:
    """Put each table after its mark, in place of what stands there up to an empty line."""
    text = path.read_text()
    for mark, table in tables.items():
        before, after = text.split(f"<!-- {mark} -->\n")
        text = f"{before}<!-- {mark} -->\n{table}" + after[after.index("\n\n") :]
    path.write_text(text)


def main(_):
    """Keep what the studies have measured; write."""
    studies = {}
    for name in STUDIES:
        new = Path(flags.FLAGS.studies) / name / "study.json"
        if new.exists():
            kept.save(name, kept.merged(kept.load(name), json.loads(new.read_text())))
        if study := kept.load(name):
            studies[name] = study
    if flags.FLAGS.write:
        write(studies)


def write(studies: dict[str, dict]) -> None:
    """Write README's rows, the picture of them, and the tables of RESULTS.md."""
    readme = HOME / "README.md"
    rows = {name: gained(name, study) for name, study in studies.items() if name in PHOTOGRAPHS}
    there = written(readme)
    for name, title in PHOTOGRAPHS.items():
        rows.setdefault(name, [row for row in there if row[0] == title])
    ordered = [row for name in PHOTOGRAPHS for row in rows[name]]
    table = "\n".join([HEAD, *(f"| {' | '.join(row)} |" for row in ordered)])
    fill(readme, {"gains": table, "rivals": rivals(studies)})
    with plots.style():
        (HOME / ".github" / "gains.svg").write_bytes(plots.render(draw(ordered), "svg"))
    makers = {"networks": by_network, "together": all_together}
    tables = {f"{name} {kind}": f(s) for name, s in studies.items() for kind, f in makers.items()}
    fill(HOME / "configs" / "study" / "RESULTS.md", tables)


if __name__ == "__main__":
    app.run(main)
