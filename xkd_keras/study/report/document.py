"""The report of a study: what was compared, how sure that is, and what did not work.

Everything is computed from `study`, what study.json holds; nothing here trains.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from xkd_keras import files
from xkd_keras.console import many
from xkd_keras.report import page
from xkd_keras.report.page import both, escape, grid, picture
from xkd_keras.study import statistics, together
from xkd_keras.study.report import appendix, calibration, figures, paper, words
from xkd_keras.study.report.words import difference, mean, p_value

_WILCOXON = 6  # pairs; of fewer, its smallest p is above 0.05
_RESAMPLED = 5  # pairs; of fewer, a bootstrap interval says nothing
_BOOTSTRAP = 10  # pairs; of fewer, its intervals are visibly too narrow


def write(study_dir: str | os.PathLike, study: Mapping) -> Path:
    """Write STUDY/plots, STUDY/report.md, STUDY/report.html, each whole or not at all.

    Args:
        study_dir: The study's directory.
        study: What STUDY/study.json holds.

    Returns:
        The path of report.html.
    """
    study_dir = Path(study_dir)
    summary = _summary(study)
    pictures = figures.draw(study, summary)
    for name, data in pictures.items():
        with files.whole(study_dir / "plots" / name) as beside:
            beside.write_bytes(data)
    parts = words.opening(study, summary)
    if summary["runs"]["done"]:
        parts += [
            *_result(study, summary, pictures),
            *_together(study, summary),
            *_kd(study, summary),
            *_ablations(study, summary, pictures),
            *_cost(study, summary, pictures),
            *_diversity(pictures),
            *calibration.parts(study, summary),
        ]
    parts += appendix.parts(study)
    text = "\n\n".join(parts) + "\n"
    files.write(study_dir / "report.md", text)
    files.write(study_dir / "report.html", page.whole(study["title"], text, pictures))
    return study_dir / "report.html"


def table(study: Mapping) -> str:
    """Return the result as aligned plain text: one line per network and method."""
    rows = [["network", "method", "seeds", "top-1 %", "ECE %", "vs. solo (95 %)", "Holm p"]]
    summary = _summary(study)
    for network, by in summary["networks"].items():
        for method, values in by.items():
            to_solo = values["against"].get("solo")
            ece = (values.get("ece") or {}).get("mean")  # older studies have none
            cells = [mean(values), "–" if ece is None else f"{100 * ece:.1f}"]
            cells += [difference(to_solo), p_value(to_solo and to_solo["holm"])]
            rows.append([network, method, str(values["n"]), *cells])
    if "solo" not in study["methods"]:
        rows = [row[:5] for row in rows]
    return page.aligned(rows, words=2)


def _summary(study: Mapping) -> Mapping:
    """Return the statistics that study.json holds, or make them."""
    return study.get("summary") or statistics.summarize(study)


def _result(study: Mapping, summary: Mapping, pictures: Mapping) -> list[str]:
    """Return the differences to solo as a picture, and one table per network."""
    parts = ["## Result"]
    if "forest.svg" in pictures:
        alt = "Difference of each method from solo in points, with 95 % intervals"
        parts += ["Test accuracy (top-1) compared with solo:", picture("forest.svg", alt)]
    for network, by in summary["networks"].items():
        claim = _claim(study, network)
        known = claim and "error_reduction" in claim
        headings = ["", "top-1 %"]
        if "solo" in study["methods"]:
            headings += _headings("solo")
            headings += ["paper %"] if known and "mcod" in study["main"] else []
        best = _best(study, by)
        rows = []
        for method in study["main"]:
            row = [escape(method), mean(by[method], best=method == best)]
            row += _cells(by[method]["against"].get("solo"))
            row += [f"{100 * claim['error_reduction']:.1f}" if known and method == "mcod" else "–"]
            rows.append(row[: len(headings)])
        of = " of all networks" if network == "ensemble" else ""
        parts += [f"### {escape(network)}{of}", grid(headings, rows)]
    return [*parts, _explained(study, summary), *_robust(study, summary)]


def _together(study: Mapping, summary: Mapping) -> list[str]:
    """Return a table of the geometric mean of all networks' errors, and who makes fewer."""
    found = summary["together"] if "together" in summary else together.compared(study)
    if not found or not found["against"]:
        return []
    ours = statistics.subject(study)
    rows = []
    for method, error in found["error"].items():
        result = found["against"].get(method)
        seeds = "{wins} / {ties} / {losses}".format(**result) if result else "–"
        holm = escape(p_value(result and result["holm"]))
        rows.append([escape(method), f"{100 * error:.2f}", difference(result, 1), holm, seeds])
    return [
        "## All networks together",
        "The geometric mean of the networks' error rates, over all finished seeds of a method;"
        f" and the share of these errors that {ours} avoids, in %, over the seeds that both have,"
        " with the t-interval of the mean logarithm, paired by seed. Holm p: adjusted over the"
        f" main methods, and separately over the variants. W / T / L: number of seeds that {ours}"
        " wins, ties, loses.",
        grid(["", "error %", f"fewer errors with {ours} %", "Holm p", "W / T / L"], rows),
    ]


def _best(study: Mapping, by: Mapping) -> str | None:
    """Return the main method with the highest mean."""
    means = {m: by[m]["mean"] for m in study["main"] if by[m]["mean"] is not None}
    return max(means, key=means.get) if len(means) > 1 else None


def _family(study: Mapping, network: str) -> str | None:
    return paper.family(study["peers"].get(network, {}).get("builder", ""))


def _claim(study: Mapping, network: str) -> Mapping | None:
    """Return what the paper reports for a network's family; nothing beside a user's own images."""
    own = study["dataset"].startswith(("folder:", "tfds:"))
    return None if own else paper.PAPER.get(_family(study, network))


def _pairs(summary: Mapping) -> int:
    """Return the most seeds that a comparison with solo has."""
    compared = (
        row["against"].get("solo") for by in summary["networks"].values() for row in by.values()
    )
    return max((result["n"] for result in compared if result), default=0)


def _headings(reference: str) -> list[str]:
    return [f"vs. {reference}, points", "Holm p", "W / T / L", "fewer errors %"]


def _cells(result: Mapping | None) -> list[str]:
    """Return the cells on a comparison: difference, p, seeds, errors."""
    if not result:
        return ["–"] * 4
    fewer = result["error_reduction"]
    fewer = {**fewer, "low": None} if fewer and result["n"] < _RESAMPLED else fewer
    fewer = difference(fewer, 1)  # both are percent: of images, of errors
    seeds = f"{result['wins']} / {result['ties']} / {result['losses']}"
    return [difference(result), escape(p_value(result["holm"])), seeds, fewer]


def _explained(study: Mapping, summary: Mapping) -> str:
    """Return what the columns mean."""
    text = "± and brackets are 95 % intervals over seeds (Student's t). Bold: the highest mean."
    if "solo" not in study["methods"]:
        return text
    text += (
        " Holm p: paired t-test, adjusted over all networks and methods compared with solo; the"
        " ensemble is not tested, nor is a difference that is the same for every seed. W / T / L:"
        " seeds won, tied, lost. Fewer errors: the share of solo's errors that is avoided"
    )
    pairs = _pairs(summary)
    text += ", with a bootstrap interval (BCa, pairs resampled)." if pairs >= _RESAMPLED else "."
    if _RESAMPLED <= pairs < _BOOTSTRAP:
        text += (
            " With so few seeds, that interval is too narrow; trust the interval of the difference."
        )
    families = [_family(study, peer) for peer in study["peers"] if _claim(study, peer)]
    if "mcod" in study["main"] and families:
        share = " “Paper %” is AlexNet's share in the paper." if "alexnet" in families else ""
        text += (
            f" On CIFAR-100, {paper.SOURCE}, reports gains in points:"
            f" {both(_gains(families))}.{share}"
            + (
                " The paper's learning options are not fully known."
                if study["dataset"] == "cifar100"
                else " Data and learning options differ, so absolute values cannot be compared."
            )
        )
    return text


def _gains(families: Iterable[str]) -> list[str]:
    """Return the paper's gains of families of networks, each once."""
    return [f"+{paper.PAPER[name]['points']} for {name}" for name in dict.fromkeys(families)]


def _robust(study: Mapping, summary: Mapping) -> list[str]:
    """Return whether Wilcoxon's test, which does not assume normality, agrees with the t-test."""
    apart, tested = [], 0
    for peer in study["peers"]:
        for method in study["main"]:
            result = summary["networks"][peer][method]["against"].get("solo")
            if not result or result["n"] < _WILCOXON:
                continue
            if result["p"] is not None and result["wilcoxon"] is not None:
                tested += 1
                if (result["p"] < statistics.ALPHA) != (result["wilcoxon"] < statistics.ALPHA):
                    pair = f"{p_value(result['p'])} and {p_value(result['wilcoxon'])}"
                    apart.append(f"{escape(method)} for {escape(peer)} ({escape(pair)})")
    if not tested:
        return []
    text = f"Robustness, with unadjusted p: of {many(tested, 'comparison')} with solo, the t-test"
    text += " and Wilcoxon's signed-rank test are on the same side of 0.05 in"
    return [f"{text} {f'all but {len(apart)}: ' + '; '.join(apart) if apart else 'all'}."]


def _compared(summary: Mapping, methods: Sequence[str], reference: str) -> str:
    """Return a table of differences to a reference, one row per method and network."""
    rows = [
        [escape(method), escape(network), *_cells(by[method]["against"].get(reference))]
        for method in methods
        for network, by in summary["networks"].items()
    ]
    return grid(["", "network", *_headings(reference)], rows, words=2)


def _kd(study: Mapping, summary: Mapping) -> list[str]:
    methods = [method for method in study["main"] if method not in ("solo", "kd")]
    if "kd" not in study["methods"] or not methods:
        return []
    return [
        "## Compared with a trained teacher (kd)",
        "kd trains the teacher first, then freezes it."
        + (" solo and kd are compared above." if "solo" in study["methods"] else ""),
        _compared(summary, methods, "kd"),
    ]


def _ablations(study: Mapping, summary: Mapping, pictures: Mapping) -> list[str]:
    """Return variants of our methods compared with the subject and with solo."""
    ours = statistics.subject(study)
    variants = [method for method in statistics.ablations(study) if method != ours]
    if not variants:
        return []
    parts = [
        f"## Which parts of {ours} help",
        "These are variants, with the settings chosen for their method. They form a family of"
        " their own in Holm's correction.",
    ]
    if "ablations.svg" in pictures:
        alt = f"Difference of each variant from {ours} in points, with 95 % intervals"
        parts.append(picture("ablations.svg", alt))
    for reference in dict.fromkeys((ours, "solo")):
        if reference in study["methods"]:
            alone = [ours] if reference != ours and ours not in study["main"] else []
            parts.append(_compared(summary, [*alone, *variants], reference))
    table = summary["networks"]
    shown = [m for m in study["methods"] if m == ours or m in variants]
    rows = [[escape(m), *(mean(by[m]) for by in table.values())] for m in shown]
    return [*parts, "Top-1 %:", grid(["", *map(escape, table)], rows)]


def _cost(study: Mapping, summary: Mapping, pictures: Mapping) -> list[str]:
    """Return accuracy against seconds, and the seconds."""
    rows = []
    for method, cost in summary["cost"].items():
        ratio = f"{cost['ratio']:.2f}" if cost["ratio"] else "–"
        teacher = f"{cost['teacher']:,.1f}" if cost["teacher"] else "–"
        spread = f"{cost['low']:,.1f} … {cost['high']:,.1f}"
        rows.append([escape(method), f"{cost['median']:,.1f}", spread, teacher, ratio])
    shown = "cost.svg" in pictures
    return [
        "## Accuracy against cost",
        "Seconds to train all networks of a run, without start-up but with the training of a"
        f" frozen teacher; {_beside(study)}."
        + (" Vertical bars: 95 % interval; horizontal bars: quartiles." if shown else ""),
        *([picture("cost.svg", "Top-1 against the seconds per run")] if shown else []),
        grid(["", "median s", "quartiles", "of which teacher", "times solo"], rows),
    ]


def _beside(study: Mapping) -> str:
    """Return how the runs shared the machine, which their seconds depend on."""
    jobs, shards = study.get("jobs", 1), study.get("shards", 1)
    each = f"{jobs} runs were done side by side" if jobs > 1 else "one run at a time"
    return each + (f" in each of {shards} parts (--shard)" if shards > 1 else "")


def _diversity(pictures: Mapping) -> list[str]:
    if "diversity.svg" not in pictures:
        return []
    return [
        "## Diversity",
        "How much the networks differ on the validation images: mean over seeds, with the 95 %"
        " interval shaded.",
        picture("diversity.svg", "Disagreement and pairwise KL of the networks over the epochs"),
    ]
