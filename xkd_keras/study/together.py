"""All networks of a method together: the geometric mean of their error rates.

It is what the search scores: a network that loses a tenth of its errors counts the same, whether it
makes many of them or few.
"""

import math
from collections.abc import Mapping

import numpy as np
from scipy import stats

from xkd_keras.study import statistics

_EQUAL = 1e-9  # logarithms closer than this are the same


def compared(study: Mapping) -> dict | None:
    """Compare the method that a study is about with every other.

    Returns:
        error: method -> the geometric mean over networks and seeds of the error rate, a fraction.
        against: method -> `n` seeds of both, and by how much the subject's error is smaller, a
            fraction of the other's: `mean`, `low`, `high` (t-interval of the mean logarithm, paired
            by seed), `p` of that paired t-test, `holm` (over the main methods, or over the
            variants), seeds with `wins`, `ties`, `losses`.
        None with one network, or without a finished run of the subject.
    """
    ours, rates = statistics.subject(study), _logarithms(study)
    if len(study["peers"]) < 2 or not rates.get(ours):
        return None
    against = {}
    for methods in (study["main"], statistics.ablations(study)):
        family = {m: _fewer(rates[ours], rates[m]) for m in methods if m != ours and m in rates}
        family = {m: each for m, each in family.items() if each}
        tested = [each for each in family.values() if each["p"] is not None]
        for each, holm in zip(tested, statistics.holm([t["p"] for t in tested]), strict=True):
            each["holm"] = float(holm)
        against |= family
    error = {m: math.exp(np.mean(list(values.values()))) for m, values in rates.items() if values}
    return {"error": error, "against": against}


def _logarithms(study: Mapping) -> dict[str, dict[int, float]]:
    """Return the mean logarithm of the networks' error rates: method -> seed -> value."""
    images = study.get("data", {}).get("examples", {}).get("test", 0)
    least = 0.5 / images if images else 1e-9  # of no error at all, half an image counts
    top1 = [statistics.scores(study, peer, "top1") for peer in study["peers"]]
    return {
        method: {
            seed: float(np.mean([math.log(max(1 - by[method][seed], least)) for by in top1]))
            for seed in top1[0][method]
            if all(seed in by[method] for by in top1)
        }
        for method in study["methods"]
    }


def _fewer(mine: Mapping[int, float], other: Mapping[int, float]) -> dict | None:
    """Return the paired comparison of logarithms by seed; None if they share no seed."""
    gains = np.array([other[seed] - mine[seed] for seed in sorted(set(mine) & set(other))])
    if not gains.size:
        return None
    varies = gains.size > 1 and np.ptp(gains) > _EQUAL
    won, lost = int(np.sum(gains > _EQUAL)), int(np.sum(gains < -_EQUAL))
    limits = statistics.interval(gains).items()
    return {
        "n": len(gains),
        **{key: value if value is None else -math.expm1(-value) for key, value in limits},
        "p": float(stats.ttest_1samp(gains, 0.0).pvalue) if varies else None,
        "holm": None,  # known when the whole family is
        **{"wins": won, "ties": len(gains) - won - lost, "losses": lost},
    }
