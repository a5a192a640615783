"""What the runs of a study say, and how surely: means, paired differences, tests, a verdict.

Accuracies and their differences are fractions, not percent; times are seconds. An interval is of
95 %. What too few runs leave open is None, so that all of it can be written as JSON.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy import stats

LEVEL, ALPHA = 0.95, 0.05
BETTER, SAME, WORSE = "better", "no detectable difference", "worse"
UNKNOWN = "too few seeds"
CALIBRATION = ("ece", "cross_entropy", "brier")  # of each of them, less is better
_JUDGED = ("mean", "low", "high", "holm", "family")
_RESAMPLES = 9999
_EQUAL = 1e-9  # accuracies are counts of images over their number: closer than this is the same


def networks(study: Mapping) -> list[str]:
    """Return the peers, then "ensemble"; of one peer, the ensemble would be itself."""
    peers = list(study["peers"])
    return [*peers, "ensemble"] if len(peers) > 1 else peers


def ablations(study: Mapping) -> list[str]:
    """Return the methods that are variants of ours, not rivals."""
    return [method for method in study["methods"] if method not in study["main"]]


def subject(study: Mapping) -> str:
    """Return the method that a study is about: xkd or mcod where compared, else the last named.

    Training alone is what others are measured by: a study is about it only where there is no other.
    """
    methods = [method for method in study["methods"] if method != "solo"] or ["solo"]
    return next((method for method in ("xkd", "mcod") if method in methods), methods[-1])


def finished(study: Mapping) -> dict[tuple[str, int], Mapping]:
    """Return the finished runs by method and seed; of two for one pair, the later."""
    last = {(run["method"], run["seed"]): run for run in study["runs"]}
    return {key: run for key, run in last.items() if run["status"] == "done"}


def scores(study: Mapping, network: str, metric: str) -> dict[str, dict[int, float]]:
    """Return `metric` of a network on the test images: method -> seed -> value."""
    values = {method: {} for method in study["methods"]}
    for (method, seed), run in finished(study).items():
        result = run["ensemble"] if network == "ensemble" else run["peers"][network]
        if method in values and result.get(metric) is not None:
            values[method][seed] = float(result[metric])
    return values


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return p-values adjusted for their number by the step-down method.

    Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979):
    the smallest of m is multiplied by m, the next by m - 1 and so on; none falls below one before.

    Args:
        p_values: [m].
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1)
    return adjusted


def interval(values: Sequence[float]) -> dict[str, float | None]:
    """Return the mean and its Student-t interval; no interval of fewer than two values."""
    values = np.asarray(values, dtype=np.float64)
    mean = float(np.mean(values)) if values.size else math.nan
    low = high = math.nan
    if values.size > 1:
        error = stats.sem(values)  # of no spread, scipy's interval is undefined; its limit is not
        low, high = (
            stats.t.interval(LEVEL, values.size - 1, loc=mean, scale=error)
            if error > 0
            else (mean, mean)
        )
    return {"mean": _number(mean), "low": _number(low), "high": _number(high)}


def compare(mine: Mapping[int, float], other: Mapping[int, float]) -> dict | None:
    """Return `paired` of accuracies (fractions by seed), and the part of errors that went away."""
    result, seeds = paired(mine, other), sorted(set(mine) & set(other))
    errors = (1 - np.array([values[seed] for seed in seeds]) for values in (mine, other))
    return result and {**result, "error_reduction": error_reduction(*errors)}


def paired(mine: Mapping[int, float], other: Mapping[int, float]) -> dict | None:
    """Return the paired comparison of two methods by seed, or None if they share none.

    Returns:
        Over the n seeds of both: mean difference (mine - other) and its interval; p of the paired
        t-test and of Wilcoxon's signed-rank test (None where nothing varies); wins, ties, losses.
    """
    seeds = sorted(set(mine) & set(other))
    if not seeds:
        return None
    a, b = (np.array([values[seed] for seed in seeds]) for values in (mine, other))
    difference = np.round(a - b, 12)  # floating point would break the ties that Wilcoxon looks for
    p = wilcoxon = None
    limits = {"mean": float(difference.mean()), "low": None, "high": None}
    if len(seeds) > 1:
        limits = interval(difference)
    if len(seeds) > 1 and np.ptp(difference) > _EQUAL:
        test = stats.ttest_rel(a, b)
        low, high = test.confidence_interval(LEVEL)
        limits |= {"low": float(low), "high": float(high)}
        p = _number(test.pvalue)
    if len(seeds) > 1 and np.any(difference):
        wilcoxon = _number(stats.wilcoxon(difference).pvalue)
    won, lost = int(np.sum(difference > _EQUAL)), int(np.sum(difference < -_EQUAL))
    return {
        "n": len(seeds),
        **limits,
        "p": p,
        "wilcoxon": wilcoxon,
        "holm": None,  # known when the whole family is
        **{"wins": won, "ties": len(seeds) - won - lost, "losses": lost},
    }


def adjust(family: Sequence[dict]) -> None:
    """Write Holm's p-values, and their number, into comparisons that have a p-value."""
    tested = [result for result in family if result["p"] is not None]
    for result, adjusted in zip(tested, holm([t["p"] for t in tested]), strict=True):
        result |= {"holm": float(adjusted), "family": len(tested)}


def _reduction(mine: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may have no error at all
        return 1 - np.mean(mine, axis=axis) / np.mean(other, axis=axis)


def error_reduction(mine: np.ndarray, other: np.ndarray) -> dict[str, float | None]:
    """Return 1 - mean(mine) / mean(other) and its paired bootstrap interval (BCa, fixed seed).

    Args:
        mine: [seeds], errors of the method, fractions.
        other: [seeds], errors of the reference for the same seeds.
    """
    low = high = math.nan
    for method in ("BCa", "percentile"):  # BCa is undefined where leaving a seed out changes little
        if len(mine) < 2 or (math.isfinite(low) and math.isfinite(high)):
            break
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            low, high = stats.bootstrap(
                (mine, other),
                _reduction,
                paired=True,
                vectorized=True,
                confidence_level=LEVEL,
                n_resamples=_RESAMPLES,
                method=method,
                rng=np.random.default_rng(0),
            ).confidence_interval
    mean = _number(_reduction(mine, other))
    return {"mean": mean, "low": _number(low), "high": _number(high)}


def _families(study: Mapping) -> Iterator[tuple[str, list[str]]]:
    """Yield (reference, methods compared with it); every pair of methods is in one family only."""
    earlier, variants = [], ablations(study)
    for reference in dict.fromkeys(("solo", "kd", subject(study))):
        if reference in study["methods"]:
            earlier.append(reference)
            yield reference, [method for method in study["main"] if method not in earlier]
            if reference != "kd":
                yield reference, [method for method in variants if method not in earlier]


def summarize(study: Mapping) -> dict:
    """Return the numbers of a study, JSON-serialisable.

    Returns:
        networks: network -> method -> n, mean, sd, low, high, min, max of top-1; against: reference
            -> `compare` with it. Holm's adjustment is over the peers and all main methods (or all
            ablations) compared with one reference. Each of CALIBRATION -> mean, low, high; to_solo:
            n, mean, low, high and p of `paired` with solo; None of solo itself, or without it.
        cost: method -> median, low and high quartile of the seconds of a run, its teacher's
            included; the teacher's own median; ratio of the median to that of solo.
        runs: how many are expected, done, failed and missing.
    """
    table = {}
    for network in networks(study):
        top1 = scores(study, network, "top1")
        table[network] = {method: _describe(list(top1[method].values())) for method in top1}
        for metric in CALIBRATION:
            for method, values in _calibration(study, network, metric).items():
                table[network][method][metric] = values
        for reference, methods in _families(study):
            for method in methods:
                result = compare(top1[method], top1[reference])
                if result:
                    table[network][method]["against"][reference] = result
    for reference, methods in _families(study):
        pairs = [table[peer][method]["against"] for peer in study["peers"] for method in methods]
        adjust([pair[reference] for pair in pairs if reference in pair])
    return {"networks": table, "cost": _cost(study), "runs": _progress(study)}


def _describe(values: Sequence[float]) -> dict:
    return {
        "n": len(values),
        **interval(values),
        "sd": _number(np.std(values, ddof=1)) if len(values) > 1 else None,
        "min": min(values, default=None),
        "max": max(values, default=None),
        "against": {},
    }


def _calibration(study: Mapping, network: str, metric: str) -> dict[str, dict]:
    """Return one of CALIBRATION by method: its interval, and its paired difference to solo."""
    values, found = scores(study, network, metric), {}
    for method, by in values.items():
        result = paired(by, values.get("solo", {})) if method != "solo" else None
        # (Without the seeds won: they would be those with the larger value, which is worse.)
        to_solo = result and {key: result[key] for key in ("n", "mean", "low", "high", "p")}
        found[method] = {**interval(list(by.values())), "to_solo": to_solo}
    return found


def _cost(study: Mapping) -> dict[str, dict]:
    cost = {}
    for method in study["methods"]:
        runs = [run for (of, _), run in finished(study).items() if of == method]
        if runs:
            teacher = np.array([run.get("teacher_seconds") or 0.0 for run in runs])
            total = teacher + [run["seconds"] for run in runs]
            low, median, high = map(float, np.percentile(total, (25, 50, 75)))
            cost[method] = {"median": median, "low": low, "high": high}
            cost[method]["teacher"] = float(np.median(teacher))
    alone = cost.get("solo", {}).get("median")
    for values in cost.values():
        values["ratio"] = values["median"] / alone if alone else None
    return cost


def _progress(study: Mapping) -> dict[str, int]:
    wanted = {(method, seed) for method in study["methods"] for seed in study["seeds"]}
    done = wanted & set(finished(study))
    failed = {(r["method"], r["seed"]) for r in study["runs"] if r["status"] == "failed"}
    failed = (failed & wanted) - done
    counts = {"expected": len(wanted), "done": len(done), "failed": len(failed)}
    return {**counts, "missing": len(wanted) - len(done) - len(failed)}


def curves(study: Mapping, key: str) -> dict[str, list[dict]]:
    """Return `key` of the histories: method -> [{"epoch", "mean", "low", "high"}], over seeds."""
    gathered = {method: {} for method in study["methods"]}
    for (method, _), run in finished(study).items():
        for row in run.get("history", ()):
            if method in gathered and _number(row.get(key)) is not None:
                gathered[method].setdefault(row["epoch"], []).append(row[key])
    return {
        method: [{"epoch": epoch, **interval(values)} for epoch, values in sorted(by.items())]
        for method, by in gathered.items()
        if by
    }


def verdict(study: Mapping, summary: Mapping) -> dict:
    """Return what can be said of the subject without claiming too much.

    BETTER and WORSE need both an interval of the difference without zero and Holm's p below ALPHA.

    Returns:
        subject: As `subject` has it.
        against: each other main method -> peer -> {"answer", and of the subject minus the other:
            "n", "mean", "low", "high", "holm", and "family": among how many tests Holm's was}.
        variants: The same for each ablation.
        weakest: The peer with the lowest mean top-1 alone, or None.
    """
    table, peers = summary["networks"], list(study["peers"])
    ours = subject(study)
    rivals = [m for m in study["main"] if m != ours]
    alone = {peer: table[peer].get("solo", {}).get("mean") for peer in peers}
    measured = [peer for peer in peers if alone[peer] is not None]
    return {
        "subject": ours,
        "against": {
            rival: {peer: _judge(table[peer], ours, rival) for peer in peers} for rival in rivals
        },
        "variants": {
            variant: {peer: _judge(table[peer], ours, variant) for peer in peers}
            for variant in (ablations(study) if rivals else [])
            if variant != ours
        },
        "weakest": min(measured, key=alone.get) if measured else None,
    }


def _judge(methods: Mapping[str, Mapping], ours: str, rival: str) -> dict:
    """Return the answer on `ours` minus `rival` for one peer, whichever was the reference."""
    result = methods[ours]["against"].get(rival)
    if not result and (turned := methods[rival]["against"].get(ours)):
        mean, low, high = (v if v is None else -v for v in map(turned.get, ("mean", "high", "low")))
        result = {**turned, "mean": mean, "low": low, "high": high}
    if not result:
        return {"answer": UNKNOWN, "n": 0, **dict.fromkeys(_JUDGED)}
    # The same difference on every seed leaves nothing to test with.
    answer = UNKNOWN if result["n"] < 2 or (result["p"] is None and result["mean"]) else SAME
    if result["holm"] is not None and result["holm"] < ALPHA and result["low"] * result["high"] > 0:
        answer = BETTER if result["mean"] > 0 else WORSE
    return {"answer": answer, "n": result["n"], **{key: result.get(key) for key in _JUDGED}}


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
