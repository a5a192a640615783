"""How far to trust the probabilities: calibration before and after, and the threshold."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from xkd_keras.console import many
from xkd_keras.report import findings, plots
from xkd_keras.report.page import both, escape, grid, picture
from xkd_keras.runs import calibration

BINS = 10
_WORSE = 0.005  # of ECE: half a point more is worth a word
PICTURE = "reliability.svg"
_KINDS = {  # heading -> key, factor, digits
    "ECE %": ("ece", 100, ".1f"),
    "cross-entropy": ("cross_entropy", 1, ".4f"),
    "Brier": ("brier", 1, ".3f"),
}


def draw(sure: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """Return the reliability diagrams by file name, if the run kept how sure its networks were.

    Args:
        sure: Each network -> float [2, n], the probability of its answers, as trained and
            calibrated.
        right: Each network -> bool [n].
    """
    if not sure:
        return {}
    with plots.style():
        return {PICTURE: plots.render(chart(sure, right), "svg")}


def bins(sure: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of each bin that has images the mean probability, the share of right answers, images.

    Bins are of equal width over 0..1, each with its upper edge (Guo et al., ICML 2017, figure 1).
    """
    number = np.clip(np.ceil(sure * BINS) - 1, 0, BINS - 1).astype(int)
    images = np.bincount(number, minlength=BINS)
    there = images > 0
    means = [np.bincount(number, values, BINS)[there] / images[there] for values in (sure, right)]
    return *means, images[there]


def chart(sure: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> Figure:
    """Return a reliability diagram of each network: how often answers are right by their score."""
    figure = Figure(figsize=(plots.WIDTH, 3.2 * -(-len(sure) // 3)), layout="constrained")
    panels = figure.subplots(-(-len(sure) // 3), min(3, len(sure)), squeeze=False).ravel()
    for axes in panels[len(sure) :]:
        axes.set_visible(False)
    for axes, (name, scores) in zip(panels, sure.items(), strict=False):
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=1)
        for kind, label, look in ((0, "as trained", "--"), (1, "as exported", "-")):
            x, y, n = bins(scores[kind], right[name])
            axes.plot(x, y, look, color=plots.COLOURS[1 - kind], label=label)
            sizes = 8 + 60 * n / n.sum()
            axes.scatter(x, y, s=sizes, color=plots.COLOURS[1 - kind], zorder=3)
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set_title(plots.label(name, 26, "network"))
        axes.grid(True)
    panels[0].set(xlabel="probability of the answer", ylabel="share that is right")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=2)
    return figure


def section(metrics: Mapping, pictures: Mapping[str, bytes]) -> list[str]:
    """Return scores as trained and as exported; nothing for a run of an earlier version."""
    networks = {**metrics["peers"], "ensemble": metrics["ensemble"]}
    if len(metrics["peers"]) == 1:
        del networks["ensemble"]
    if "calibrated" not in metrics["ensemble"]:
        return []
    rows = [[escape(name), *_scores(row)] for name, row in networks.items()]
    parts = [
        "## How far to trust the probabilities",
        "Each network's logits are divided by a temperature that was fitted on the validation"
        " images (Guo et al., 2017). This changes no answer, only its probability. Exported files"
        " contain the temperature; `peers/*.keras` do not.",
        grid(["", "temperature", *(h for kind in _KINDS for h in (kind, "exported"))], rows),
        *_doubts(networks, metrics["data"]["examples"]["validation"]),
    ]
    if PICTURE in pictures:
        parts += [
            "Of the answers with a probability of 80 %, 80 % should be right: the closer to the"
            " diagonal, the better. Larger dots stand for more images.",
            picture(PICTURE, "How often answers are right, by their probability"),
        ]
    return parts


def _doubts(networks: Mapping[str, Mapping], images: int) -> list[str]:
    """Return why a temperature may not be what a network needs, where there is a reason."""
    lines = []
    if images < findings.ENOUGH:
        lines.append(
            f"The temperatures were fitted on only {many(images, 'validation image')}."
            f" {findings.MORE}"
        )
    worse = [
        f"{escape(name)} ({100 * row['ece']:.1f} to {100 * row['calibrated']['ece']:.1f} %)"
        for name, row in networks.items()
        if row["calibrated"]["ece"] > row["ece"] + _WORSE
    ]
    if worse:
        lines.append(f"With these temperatures, ECE on the test images is worse for {both(worse)}.")
    last = [name for name, row in networks.items() if row["temperature"] > 0.99 * calibration.HIGH]
    if last:
        lines.append(
            f"{calibration.HIGH:g} is the highest temperature that is tried; the probabilities of"
            f" {both(map(escape, last))} say next to nothing."
        )
    return [" ".join(lines)] if lines else []


def _scores(row: Mapping) -> list[str]:
    """Return the temperature of a network, and each score as trained and as exported."""
    cells = [f"{row['temperature']:.2f}"]
    for key, factor, form in _KINDS.values():
        cells += [f"{factor * each[key]:{form}}" for each in (row, row["calibrated"])]
    return cells


def thresholds(manifest: Mapping) -> list[str]:
    """Return what the thresholds of exported files let through; nothing where there are none."""
    asked = [entry for entry in manifest["artifacts"] if "threshold" in entry]
    if not asked:
        return []
    n = manifest["examples"]["test"]
    rows = []
    for entry in asked:
        found = entry["threshold"]
        if found is None:
            rows.append([escape(entry["file"]), *["–"] * 6])
            continue
        taken, right = found["taken"], found["right"]
        low, high = findings.wilson(right / taken if taken else 0.0, taken)
        share = f"{100 * right / taken:.1f}" if taken else "–"
        rows.append(
            [
                *(escape(entry["file"]), f"{100 * found['precision']:g}"),
                *(f"{found['score']:.3f}", str(found.get("rests_on", "–"))),
                *(f"{100 * taken / n:.1f}", share, f"{100 * low:.0f} – {100 * high:.0f}"),
            ]
        )
    told = "No threshold reaches the requested precision."
    if any(entry["threshold"] for entry in asked):
        told = (
            "An answer below the threshold counts as none of the classes. The threshold is the"
            " lowest at which the requested share of the validation answers above it is right;"
            " “rests on” is how many answers those are. On the test images:"
        )
    headings = [
        "file",
        "requested %",
        "threshold",
        "rests on",
        "answered %",
        "of these right %",
        "95 %",
    ]
    return [told, grid(headings, rows)]
