"""What so many seeds and test images can show, and how many would show what was seen.

It is about differences to solo, or where that is not compared to the first other method, in points.
Text for the report escapes names for Markdown.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from xkd_keras.console import many
from xkd_keras.report.page import both, escape
from xkd_keras.study import power, statistics
from xkd_keras.study.report.figures import signed

_POINT = 0.01
_FEW = 0.02  # test images that may add more than this to a difference
ONE_SEED = "one seed proves nothing; five can show differences of a few points"
# Student's t at 97.5 %, over the root of the number: 8.98 for two seeds, 1.24 for five.
TWO_SEEDS = (
    "two seeds give intervals about seven times as wide as five; plan five (--seeds=5 keeps these"
    " two), and report it if you add seeds after seeing the result"
)


def bullets(study: Mapping, summary: Mapping, said: Mapping) -> list[str]:
    """Return what the report says of it, if anything is compared with solo over seeds."""
    able = [
        f"{100 * power.least(spread, result['n']):.1f} points for {escape(peer)}"
        for peer, result, spread in _spread(said)
        if spread
    ]
    if not able:
        return []
    few = f" ({TWO_SEEDS})" if len(study["seeds"]) == 2 else ""
    text = (
        f"**What these seeds can show:** a difference from {escape(_rival(said))} of at least"
        f" {both(able)} is detected with a power of 80 %, before Holm's correction{few}."
    )
    if more := _seeds(said):
        text += (
            " At the same spread and power, after Holm's correction, the observed difference"
            f" would need {both(more)}. Plan them in advance: adding seeds until a difference"
            " shows makes p-values too small."
        )
    if more := _images(study, summary, said):
        text += (
            " Ruling out that the choice of test images caused the difference would take"
            f" {both(more)}."
        )
    return [text]


def of_images(study: Mapping, summary: Mapping) -> str:
    """Return how much other test images may add to a difference, in brackets; empty if unknown."""
    said = statistics.verdict(study, summary)
    alone = _accuracies(study, summary, _rival(said)).values()
    moved = alone and _moved(study["data"]["examples"]["test"], alone)[1]
    return f" (they may add {moved})" if alone else ""


def few_images(images: int, accuracies: Iterable[float]) -> list[str]:
    """Return a warning if test images are so few that their choice may add two points or more.

    Args:
        images: How many.
        accuracies: Of the networks, fractions.
    """
    moved, text = _moved(images, accuracies)
    if moved <= _FEW:
        return []
    return [f"warning: {many(images, 'test image')}: their choice alone may add {text}"]


def _moved(images: int, accuracies: Iterable[float]) -> tuple[float, str]:
    """Return how much other test images may add to a difference, as a fraction and in words."""
    accuracies = list(accuracies)
    moved = max(power.of_images(mean, images) for mean in accuracies)
    text = f"up to {100 * moved:.1f} points to a difference"
    if moved > _POINT:
        needed = max(power.images_for(_POINT, mean) for mean in accuracies)
        text += f"; {_rounded(needed):,} images would add one point at most"
    return moved, text


def warnings(study: Mapping, summary: Mapping) -> list[str]:
    """Return a line for each reason why the differences that were seen are not shown."""
    said = statistics.verdict(study, summary)
    seeds, images = len(study["seeds"]), study["data"]["examples"]["test"]
    what = f"the observed difference of {said['subject']} from {_rival(said)}"
    few = {1: ONE_SEED, 2: TWO_SEEDS}
    lines = [few[seeds]] if seeds in few and said["against"] else []
    if more := _seeds(said, named=str):
        lines.append(
            f"{seeds} seeds do not show {what}; at the same spread, showing it would need"
            f" {both(more)}"
        )
    if more := _images(study, summary, said, named=str):
        lines.append(
            f"{many(images, 'test image')} are few for {what}; ruling out that their choice"
            f" caused it would take {both(more)}"
        )
    return lines


def _rival(said: Mapping) -> str:
    """Return the method that the subject is measured against."""
    return "solo" if "solo" in said["against"] else next(iter(said["against"]), "")


def _measured(said: Mapping) -> Mapping[str, Mapping]:
    """Return by the peer the comparisons with that method that have a result."""
    found = said["against"].get(_rival(said), {})
    return {peer: result for peer, result in found.items() if result["mean"] is not None}


def _spread(said: Mapping) -> Iterator[tuple[str, Mapping, float]]:
    """Yield peer, comparison, and the deviation of the differences over seeds, if there are."""
    for peer, result in _measured(said).items():
        if result["n"] > 1 and result["low"] is not None:
            yield peer, result, power.deviation(result["high"] - result["mean"], result["n"])


def _differs(result: Mapping) -> bool:
    """Whether a difference is not 0.00 points, which no seeds or images would show."""
    return bool(round(100 * result["mean"], 2))


def _seeds(said: Mapping, named: Callable = escape) -> list[str]:
    """Return how many seeds the differences need that are not shown, in a family of tests."""
    lines = []
    for peer, result, spread in _spread(said):
        if result["answer"] == statistics.SAME and _differs(result):
            alpha = statistics.ALPHA / (result["family"] or 1)  # Holm's for the smallest p
            needed = power.seeds_for(result["mean"], spread, alpha)
            needed = needed and max(needed, result["n"] + 1)
            amount = _amount(needed, power.MOST)
            lines.append(f"{amount} seeds for {named(peer)} ({_points(result)})")
    return lines


def _images(study: Mapping, summary: Mapping, said: Mapping, named: Callable = escape) -> list[str]:
    """Return how many test images the differences need that other images may undo."""
    images, alone = study["data"]["examples"]["test"], _accuracies(study, summary, _rival(said))
    needed = {
        peer: (_rounded(power.images_for(result["mean"], alone[peer])), result)
        for peer, result in _measured(said).items()
        if _differs(result) and abs(result["mean"]) < power.of_images(alone[peer], images)
    }
    return [
        f"{_amount(count, power.MOST_IMAGES, 'up to ')} test images for"
        f" {named(peer)} ({_points(result)})"
        for peer, (count, result) in needed.items()
    ]


def _accuracies(study: Mapping, summary: Mapping, method: str) -> dict[str, float]:
    """Return the mean accuracy of every peer by a method, where it was measured."""
    means = {p: summary["networks"][p].get(method, {}).get("mean") for p in study["peers"]}
    return {peer: mean for peer, mean in means.items() if mean is not None}


def _amount(count: int | None, most: int, bound: str = "") -> str:
    return f"{bound}{count:,}" if count else f"more than {most:,}"


def _points(result: Mapping) -> str:
    return f"{signed(100 * result['mean'])} points"


def _rounded(count: int | None) -> int | None:
    """Round up to two digits: no more is known."""
    step = 10 ** max(0, len(str(count or 0)) - 2)
    return count and -(-count // step) * step
