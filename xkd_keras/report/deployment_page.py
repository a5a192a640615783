"""What a person needs to choose a file to ship: a table, a picture, and one line of advice.

Everything is computed from what RUN/export/manifest.json holds; nothing here needs TensorFlow.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from xkd_keras.report import findings, headline, page, plots, trust
from xkd_keras.report.page import escape, grid, picture

SHOWN = 15  # points below the best that the picture shows
_EXPLAINED = (
    " “Zeros %” is the share of zero weights in convolutions and dense layers; “values” is the"
    " largest number of distinct weights in an output channel."
)
PICTURE = "deployment.svg"
_HEADINGS = (
    *("file", "MB", "gzip MB", "top-1 %", "ECE %", "same as Keras %", "largest difference"),
    *("ms min", "ms median"),
)


def table(manifest: Mapping) -> str:
    """Return the artifacts as aligned plain text."""
    return page.aligned(_rows(manifest))


def _rows(manifest: Mapping) -> list[list[str]]:
    """Return headings and cells; what pruning and clustering did, only if there was any."""
    entries = ordered(manifest)
    compressed = any("taught" in entry for entry in entries)
    uneven = findings.uneven(manifest)
    rows = [[*_HEADINGS, *(["balanced %"] * uneven), *(["zeros %", "values"] * compressed)]]
    for entry in entries:
        balanced = entry.get("balanced_accuracy")
        more = ["–" if balanced is None else f"{100 * balanced:.2f}"] * uneven
        rows.append([*_cells(entry), *more, *(_weights(entry) if compressed else ())])
    return rows


def _weights(entry: Mapping) -> list[str]:
    if "sparsity" not in entry:  # no TFLite file
        return ["–", "–"]
    return [f"{100 * entry['sparsity']:.0f}", f"{entry['unique_weights']:,}"]


def ordered(manifest: Mapping) -> list[Mapping]:
    """Return the artifacts network by network: TFLite files, then ONNX files, then SavedModels."""
    kinds = ("tflite", "onnx", "savedmodel")
    return sorted(manifest["artifacts"], key=lambda e: (e["network"], kinds.index(e["kind"])))


def _cells(entry: Mapping) -> list[str]:
    return [
        entry["file"],
        f"{entry['bytes'] / 1e6:.2f}",
        f"{entry['gzip_bytes'] / 1e6:.2f}",
        f"{100 * entry['top1']:.2f}",
        f"{100 * entry['ece']:.1f}" if "ece" in entry else "–",
        f"{100 * entry['agreement']:.2f}",
        f"{entry['max_difference']:.1e}",
        *(_milliseconds(entry, key) for key in ("min", "median")),
    ]


def _milliseconds(entry: Mapping, key: str = "median") -> str:
    """Return a file's latency as text; a dash where it could not be measured."""
    return f"{entry['latency_ms'][key]:.2f}" if "latency_ms" in entry else "–"


def advice(manifest: Mapping) -> str:
    """Return one line: which file to take, and why; or why none is named; empty without files."""
    entry, n = findings.advised(manifest), manifest["examples"]["validation"]
    if not any(each["kind"] == "tflite" for each in manifest["artifacts"]):
        return ""
    if not findings.timed(manifest["artifacts"]):
        return "No file is recommended, because no latency could be measured."
    if entry is None:
        return (
            f"No file is recommended: {n:,} validation images are too few to compare files that"
            f" differ little; at least {findings.ENOUGH} are needed. {findings.MORE}"
        )
    if findings.guesses(entry["top1"], manifest):
        return (
            f"No file is recommended: {entry['file']}, the fastest of the most accurate files,"
            f" has a top-1 of {100 * entry['top1']:.2f} %, not clearly better than"
            f" {headline.guess(manifest)}."
        )
    return (
        f"Take {entry['file']}: {100 * entry['top1']:.2f} % top-1 in {entry['bytes'] / 1e6:.2f}"
        f" MB and {_milliseconds(entry)} ms. It is the fastest of the TFLite files within"
        f" {100 * findings.NEAR:g} points of the most accurate one on the {n:,} validation"
        f" images{_where(manifest)}; measure on your own device, where another file may be the"
        " fastest."
    )


def _where(manifest: Mapping) -> str:
    """Say on which machine latency was measured, if it is known."""
    machine = manifest.get("machine")
    return f", timed on the machine that exported ({machine})" if machine else ""


def draw(manifest: Mapping) -> dict[str, bytes]:
    """Return the picture of accuracy against size and latency by file name, if there is one."""
    files = findings.timed(ordered(manifest))
    if len(files) < 2:
        return {}
    with plots.style():
        return {PICTURE: plots.render(chart(files), "svg")}


def chart(files: Sequence[Mapping]) -> Figure:
    """Return accuracy against size and against latency, the files that nothing beats joined.

    Args:
        files: Artifacts of the manifest.
    """
    networks = list(dict.fromkeys(entry["network"] for entry in files))
    variants = list(dict.fromkeys(entry["variant"] for entry in files))
    colours = dict(zip(networks, plots.COLOURS * len(networks), strict=False))
    markers = dict(zip(variants, plots.MARKERS * len(variants), strict=False))
    figure = Figure(figsize=(plots.WIDTH, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, label, costs in (
        (panels[0], "MB", [entry["bytes"] / 1e6 for entry in files]),
        (panels[1], "ms per image, one thread", [e["latency_ms"]["median"] for e in files]),
    ):
        top1 = [100 * entry["top1"] for entry in files]
        first = front(costs, top1)
        axes.step(
            [costs[i] for i in first], [top1[i] for i in first], where="post", color="#999999"
        )
        for i, (entry, x, y) in enumerate(zip(files, costs, top1, strict=True)):
            look = {"color": colours[entry["network"]], "marker": markers[entry["variant"]]}
            look |= {"mec": "black", "zorder": 4} if i in first else {"mec": "white"}
            axes.plot(x, y, linestyle="", markersize=8, **look)
        _scale(axes, label)
    panels[0].set_ylabel("top-1 on test (%)")
    best, least = (100 * f(entry["top1"] for entry in files) for f in (max, min))
    if best - least > SHOWN:  # one that failed would press the others into a line
        panels[0].set_ylim(best - SHOWN, best + SHOWN / 20)
    handles = [Line2D([], [], color=colours[n], linewidth=5, label=n) for n in networks]
    handles += [
        Line2D([], [], color="#444444", marker=markers[v], linestyle="", label=v) for v in variants
    ]
    ring = {"markerfacecolor": "white", "markeredgecolor": "black"}
    handles.append(Line2D([], [], color="#999999", marker="o", **ring, label="Pareto front"))
    figure.legend(handles=handles, loc="outside upper left", ncols=5)
    return figure


def _scale(axes, label: str) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)
    axes.grid(True)


def front(costs: Sequence[float], gains: Sequence[float]) -> list[int]:
    """Return the positions that no other beats in both: the Pareto front, cheapest first."""
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -gains[i]))
    kept, best = [], -np.inf
    for i in order:
        if gains[i] > best:
            kept.append(i)
            best = gains[i]
    return kept


def section(manifest: Mapping, pictures: Mapping[str, bytes]) -> list[str]:
    """Return the part of a run's report about its files, as Markdown."""
    if not manifest["artifacts"] and not manifest["failed"]:
        return []
    parts = ["## Ship it"]
    if line := advice(manifest):
        parts.append(f"**{escape(line)}**")
    if PICTURE in pictures:
        parts.append(picture(PICTURE, "Accuracy against size and latency of every TFLite file"))
    headings, *rows = _rows(manifest)
    parts += [
        grid(headings, [[escape(row[0]), *row[1:]] for row in rows]),
        f"The files are in export/. Accuracy is measured on all {manifest['examples']['test']:,}"
        " test images. “Same as Keras” is the share of them on which a file gives the same answer"
        " as the trained network; “largest difference” is the largest difference between their"
        " probabilities. Latency is for one image on one thread of the machine that exported, all"
        " files measured in turn. The line joins the files that no other file beats in both"
        " accuracy and cost." + (_EXPLAINED if "values" in headings else ""),
    ]
    parts += trust.thresholds(manifest)
    if manifest["failed"]:
        rows = [[escape(e["file"]), escape(e["reason"])] for e in manifest["failed"]]
        parts += ["These files could not be made:", grid(["file", "reason"], rows, words=2)]
    return parts
