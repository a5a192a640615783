"""What so many seeds and test images can show, and how many would show what was seen.

It is about differences to solo, in points. Text for the report escapes names for Markdown.
"""

from collections.abc import Callable, Iterator, Mapping

from xkd_keras.console import many
from xkd_keras.report.page import both, escape
from xkd_keras.study import power, statistics
from xkd_keras.study.report.figures import signed

_POINT = 0.01


def bullets(study: Mapping, summary: Mapping, said: Mapping) -> list[str]:
    """Return what the report says of it, if anything is compared with solo over seeds."""
    able = [
        f"{100 * power.least(spread, result['n']):.1f} points for {escape(peer)}"
        for peer, result, spread in _measured(said)
        if spread
    ]
    if not able:
        return []
    text = (
        f"**What these seeds can show:** a difference to solo of at least {both(able)} is found"
        " with a probability of 80 %, before Holm's correction."
    )
    if more := _seeds(said):
        text += f" At the same spread, the difference that was seen would need {both(more)}."
    if more := _images(study, summary, said):
        text += f" To rule out that the choice of images made the difference takes {both(more)}."
    return [text]


def of_images(study: Mapping, summary: Mapping) -> str:
    """Return how much other test images may add to a difference, in brackets; empty if unknown."""
    images, alone = study["data"]["examples"]["test"], _alone(study, summary).values()
    if not alone:
        return ""
    moved = max(power.of_images(mean, images) for mean in alone)
    text = f"up to {100 * moved:.1f} points to a difference"
    if moved > _POINT:
        needed = max(power.images_for(_POINT, mean) for mean in alone)
        text += f"; {_rounded(needed):,} images would add no more than one"
    return f" ({text})"


def warnings(study: Mapping, summary: Mapping) -> list[str]:
    """Return a line for each reason why the differences that were seen are not shown."""
    said = statistics.verdict(study, summary)
    seeds, images = len(study["seeds"]), study["data"]["examples"]["test"]
    lines = []
    if seeds < 2 and said["against"]:
        lines.append("one seed proves nothing; five show differences of some points")
    if more := _seeds(said, named=str):
        lines.append(
            f"{seeds} seeds do not show the difference of {said['subject']} to solo that was seen;"
            f" at the same spread, it would need {both(more)}"
        )
    if more := _images(study, summary, said, named=str):
        lines.append(
            f"{many(images, 'test image')} are few for the difference of {said['subject']} to solo"
            f" that was seen; to rule out that their choice made it takes {both(more)}"
        )
    return lines


def _measured(said: Mapping) -> Iterator[tuple[str, Mapping, float]]:
    """Yield peer, its comparison with solo, and the deviation of the differences over seeds."""
    for peer, result in said["against"].get("solo", {}).items():
        if result["n"] > 1 and result["low"] is not None:
            yield peer, result, power.deviation(result["high"] - result["mean"], result["n"])


def _differing(said: Mapping) -> Iterator[tuple[str, Mapping, float]]:
    """Yield of `_measured` what is not 0.00 points: no seeds or images would show that."""
    return (each for each in _measured(said) if round(100 * each[1]["mean"], 2))


def _seeds(said: Mapping, named: Callable = escape) -> list[str]:
    """Return how many seeds the differences need that are not shown."""
    return [
        f"{_amount(power.seeds_for(result['mean'], spread), power.MOST)} seeds for"
        f" {named(peer)} ({_points(result)})"
        for peer, result, spread in _differing(said)
        if result["answer"] == statistics.SAME
    ]


def _images(study: Mapping, summary: Mapping, said: Mapping, named: Callable = escape) -> list[str]:
    """Return how many test images the differences need that other images may undo."""
    images, alone = study["data"]["examples"]["test"], _alone(study, summary)
    needed = {
        peer: (_rounded(power.images_for(result["mean"], alone[peer])), result)
        for peer, result, _ in _differing(said)
        if abs(result["mean"]) < power.of_images(alone[peer], images)
    }
    return [
        f"{_amount(count, power.MOST_IMAGES, 'up to ')} test images for"
        f" {named(peer)} ({_points(result)})"
        for peer, (count, result) in needed.items()
    ]


def _alone(study: Mapping, summary: Mapping) -> dict[str, float]:
    """Return the mean accuracy of every peer alone, where it was measured."""
    means = {p: summary["networks"][p].get("solo", {}).get("mean") for p in study["peers"]}
    return {peer: mean for peer, mean in means.items() if mean is not None}


def _amount(count: int | None, most: int, bound: str = "") -> str:
    return f"{bound}{count:,}" if count else f"more than {most:,}"


def _points(result: Mapping) -> str:
    return f"{signed(100 * result['mean'])} points"


def _rounded(count: int | None) -> int | None:
    """Round up to two digits: no more is known."""
    step = 10 ** max(0, len(str(count or 0)) - 2)
    return count and -(-count // step) * step
