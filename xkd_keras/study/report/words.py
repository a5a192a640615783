"""A study in words: its numbers as text, and the sentences that open its report.

Whatever comes from the user is escaped for Markdown.
"""

from collections.abc import Mapping

from xkd_keras.console import many
from xkd_keras.report import findings
from xkd_keras.report.page import both, escape
from xkd_keras.study import statistics
from xkd_keras.study.report import reach
from xkd_keras.study.report.figures import signed
from xkd_keras.study.statistics import BETTER, SAME, UNKNOWN, WORSE

_ALONE, _UNIT = "training alone", " points, 95 % interval"
_SAID = {
    BETTER: "is better than {} for",
    SAME: "shows no detectable difference from {} for",
    WORSE: "is worse than {} for",
    UNKNOWN: "cannot be compared yet with {} for",
}
_STANDS = {
    BETTER: "is better than",
    SAME: "shows no detectable difference from",
    UNKNOWN: "cannot be compared yet with",
}
_WEAKEST = {
    BETTER: "with {} it is better",
    SAME: "{} makes no detectable difference to it",
    WORSE: "with {} it is worse",
    UNKNOWN: "too few seeds to say whether {} changes it",
}


def mean(values: Mapping, factor: float = 100, digits: int = 2, best: bool = False) -> str:
    """Return mean ± half of the interval, the mean bold if it is the best; a dash for none."""
    if values["mean"] is None:
        return "–"
    text = f"{factor * values['mean']:.{digits}f}"
    text = f"**{text}**" if best else text
    if values["low"] is None:
        return text
    return f"{text} ± {factor * (values['high'] - values['mean']):.{digits}f}"


def difference(result: Mapping | None, digits: int = 2, factor: float = 100) -> str:
    """Return a paired difference in points (times `factor`), its interval; a dash for none."""
    if not result or result["mean"] is None:
        return "–"
    text = signed(factor * result["mean"], digits)
    if result["low"] is None:
        return text
    low, high = (signed(factor * result[key], digits) for key in ("low", "high"))
    return f"{text} ({low} … {high})"


def p_value(value: float | None) -> str:
    """Return a p-value as text; a dash for none."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def options(method: Mapping) -> str:
    """Return the options of a method (or setting) as flags, escaped; a dash for none."""
    return escape(" ".join(f"--{k}={v}" for k, v in method["options"].items()) or "–")


def opening(study: Mapping, summary: Mapping) -> list[str]:
    """Return the title, the answer in one sentence, and what to know about it as a list."""
    said, title = statistics.verdict(study, summary), f"# {escape(study['title'])}"
    if not summary["runs"]["done"]:
        answer = f"None of {summary['runs']['expected']:,} runs has finished: no result yet."
        points = [_compared(study), _failures(study, summary, said)]
    else:
        answer = _answer(study, summary, said)
        points = [
            _compared(study),
            _sure(study, summary),
            *reach.bullets(study, summary, said),
            _failures(study, summary, said),
            *_rivals(said),
            *_weakest(study, summary, said),
        ]
    return [title, f"**{answer}**", "\n".join(f"- {point}" for point in points)]


def _answer(study: Mapping, summary: Mapping, said: Mapping) -> str:
    """Return one sentence: the subject against training alone, or against what there is."""
    runs, ours = summary["runs"], said["subject"]
    place = f"On {escape(study['dataset'])}"
    if runs["done"] < runs["expected"]:
        place += f", so far ({runs['done']:,} of {many(runs['expected'], 'run')})"
    if said["against"]:
        rival = "solo" if "solo" in said["against"] else next(iter(said["against"]))
        name = _ALONE if rival == "solo" else escape(rival)
        text = f"{place}, {ours} {'; it '.join(_clauses(said['against'][rival], name))}."
        first, unit, rest = text.partition(_UNIT)  # to say once what the numbers are is enough
        return first + unit + rest.replace(_UNIT, ",")
    tops = []
    for network, by in summary["networks"].items():
        means = {m: by[m]["mean"] for m in study["main"] if by[m]["mean"] is not None}
        if means:
            best = max(means, key=means.get)
            tops.append(f"{escape(best)} for {escape(network)} ({100 * means[best]:.2f} %)")
    return f"{place}, no method is compared with {ours}; the highest means: {both(tops)}."


def _clauses(judged: Mapping[str, Mapping], rival: str) -> list[str]:
    """Return a clause for each kind of answer, with the peers that have it."""
    clauses = []
    for answer, phrase in _SAID.items():
        peers = [
            escape(peer) + _amount(result)
            for peer, result in judged.items()
            if result["answer"] == answer
        ]
        if peers:
            clauses.append(f"{phrase.format(rival)} {both(peers)}")
    return clauses


def _amount(result: Mapping) -> str:
    if not result["n"]:
        return ""
    if result["low"] is None:
        return f" ({signed(100 * result['mean'])} points, but one seed proves nothing)"
    low, high = signed(100 * result["low"]), signed(100 * result["high"])
    return f" ({signed(100 * result['mean'])}{_UNIT} {low} … {high})"


def _compared(study: Mapping) -> str:
    variants, config = statistics.ablations(study), study["config"]
    also = f", and {many(len(variants), 'variant')}" if variants else ""
    recipe = f", {many(config['epochs'], 'epoch')}" if "epochs" in config else ""
    return (
        f"**Compared:** {both(map(escape, study['main']))}{also}; with"
        f" {many(len(study['seeds']), 'seed')} each, {both(map(escape, study['peers']))} trained"
        f" on {study['data']['examples']['train']:,} images{recipe}. For each seed, all methods"
        " share the initial weights, the order of the images and the learning options; only the"
        f" way in which the networks teach each other differs.{_from_elsewhere(study)}"
    )


def _from_elsewhere(study: Mapping) -> str:
    """Say that a teacher was given which has seen what the others may not have."""
    teacher = study["config"].get("teacher_run")
    if not teacher or not any(each["method"] == "kd" for each in study["methods"].values()):
        return ""
    return f" The teacher of kd is `{escape(teacher)}`; it may have been trained on other images."


def _sure(study: Mapping, summary: Mapping) -> str:
    n = study["data"]["examples"]["test"]
    images = (
        f"All numbers are measured on the same {n:,} test images; one image is {100 / n:.2g}"
        " points. Intervals cover the spread over seeds only; other test images would widen"
        f" them{reach.of_images(study, summary)}."
    )
    if len(study["seeds"]) < 2:
        return f"**How sure:** not at all, because one seed proves nothing. {images}"
    peers = [summary["networks"][peer] for peer in study["peers"]]
    comparisons = [by[m]["against"].get("solo", {}) for by in peers for m in study["main"]]
    sizes = {result["family"] for result in comparisons if "family" in result}
    number = f", here {many(max(sizes), 'comparison')} with solo" if sizes else ""
    return (
        "**How sure:** differences are paired by seed. “Better” and “worse” are said only where"
        " their 95 % t-interval excludes zero and the paired t-test has p < 0.05 after"
        f" Holm's correction for the number of comparisons{number}; “no detectable difference” does"
        f" not mean equal. {images}"
    )


def _failures(study: Mapping, summary: Mapping, said: Mapping) -> str:
    """Return what did not work: where the subject is not better or behind; unfinished runs."""
    runs, ours, items = summary["runs"], said["subject"], _nothing_learned(study, summary)
    alone = said["against"].get("solo", {}) if runs["done"] else {}
    if unshown := [escape(p) for p, result in alone.items() if result["answer"] in (SAME, UNKNOWN)]:
        which = "any network" if len(unshown) == len(alone) > 1 else both(unshown)
        items.append(f"{ours} is not shown to be better than {_ALONE} for {which}")
    if runs["done"] and ours != "solo" and "solo" not in said["against"]:
        items.append(
            f"whether {ours} is better than {_ALONE} is unknown, because it was not measured"
        )
    for rival, judged in [*said["against"].items(), *said["variants"].items()]:
        behind = {p: result for p, result in judged.items() if result["answer"] == WORSE}
        name = _ALONE if rival == "solo" else escape(rival)
        items += [f"{ours} {clause}" for clause in _clauses(behind, name)]
    for count, what in ((runs["failed"], "failed"), (runs["missing"], "not there yet")):
        if count:
            verb = "are " if what != "failed" and count > 1 else "is " if what != "failed" else ""
            items.append(f"{count:,} of {many(runs['expected'], 'run')} {verb}{what}")
    if left := study.get("left_out"):
        items.append(
            f"left out: {many(left, 'finished run')} of methods or seeds that were not requested"
        )
    return f"**What did not work:** {'; '.join(items) or 'nothing, as far as these runs show'}."


def _nothing_learned(study: Mapping, summary: Mapping) -> list[str]:
    """Return the networks that only guess, and the methods in which nobody was ever taught."""
    items = []
    for peer in study["peers"]:
        means = [by["mean"] for by in summary["networks"][peer].values() if by["mean"] is not None]
        if means and findings.guesses(max(means), study["data"]):
            items.append(
                f"{escape(peer)} is not clearly better than guessing with any method; train"
                " longer, or change the learning rates"
            )
    done = statistics.finished(study)
    for method, about in study["methods"].items():
        strengths = [run.get("lambda_max") for (of, _), run in done.items() if of == method]
        if about["method"] != "solo" and strengths and set(strengths) == {0.0}:
            items.append(
                f"no network was taught in {escape(method)}, because its weight lambda was 0"
                " throughout (a shorter --distill_period or --distill_start helps)"
            )
    return items


def _rivals(said: Mapping) -> list[str]:
    """Return where the subject stands to others than solo; where it is behind is said elsewhere."""
    clauses = []
    for answer, start in _STANDS.items():
        rivals = {}  # which networks -> the rivals with this answer for just these
        for rival, judged in said["against"].items():
            peers = [peer for peer, result in judged.items() if result["answer"] == answer]
            if peers and rival != "solo":
                every = len(peers) == len(judged) > 1
                key = "every network" if every else ", ".join(map(escape, peers))
                rivals.setdefault(key, []).append(escape(rival))
        if rivals:
            named = [f"{both(names)} ({which})" for which, names in rivals.items()]
            clauses.append(f"{start} {', '.join(named)}")
    if not clauses:
        return []
    return [f"**Against the other methods:** {said['subject']} {'; it '.join(clauses)}."]


def _weakest(study: Mapping, summary: Mapping, said: Mapping) -> list[str]:
    weakest, alone = said["weakest"], said["against"].get("solo")
    if not weakest or not alone or len(study["peers"]) < 2:
        return []
    value = 100 * summary["networks"][weakest]["solo"]["mean"]
    answer = _WEAKEST[alone[weakest]["answer"]].format(said["subject"])
    return [f"**The weakest network** alone is {escape(weakest)}, with {value:.2f} %; {answer}."]
