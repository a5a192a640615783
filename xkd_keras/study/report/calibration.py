"""How far the probabilities of a study's networks can be trusted, and what its method changes."""

from collections.abc import Mapping

from xkd_keras.report.page import escape, grid
from xkd_keras.study import statistics
from xkd_keras.study.report.words import difference, mean

_SHOWN = {  # heading, factor, digits
    "ece": ("ECE %", 100, 2),
    "cross_entropy": ("cross-entropy, nats", 1, 3),
    "brier": ("Brier score", 1, 3),
}


def parts(study: Mapping, summary: Mapping) -> list[str]:
    """Return the section as Markdown: each measure of every method, and the differences to solo."""
    table = summary["networks"]
    text = [
        "## Calibration",
        "Expected calibration error (ECE, 15 equal-width bins; Guo et al. 2017), cross-entropy"
        " and Brier score (Brier 1950, the sum over the classes) on the test images, mean ± half"
        " of the 95 % interval; lower is better.",
    ]
    for key, (heading, factor, digits) in _SHOWN.items():
        rows = [
            [escape(method), *(mean(by[method][key], factor, digits) for by in table.values())]
            for method in study["methods"]
        ]
        text.append(grid([heading, *map(escape, table)], rows))
    return text + _to_solo(study, table)


def _to_solo(study: Mapping, table: Mapping) -> list[str]:
    """Return what the method that the study is about changes, compared with solo."""
    ours = statistics.subject(study)
    if ours == "solo" or "solo" not in study["methods"]:
        return []
    rows = [
        [
            escape(network),
            *(
                difference(by[ours][key]["to_solo"], digits, factor)
                for key, (_, factor, digits) in _SHOWN.items()
            ),
        ]
        for network, by in table.items()
    ]
    return [
        f"Differences of {ours} from solo, paired by seed, with their 95 % t-intervals, not"
        " adjusted for multiple comparisons. Below zero, the probabilities are better; if an"
        " interval reaches above zero, they may also be worse.",
        grid([f"{ours} vs. solo", *(heading for heading, *_ in _SHOWN.values())], rows),
    ]
