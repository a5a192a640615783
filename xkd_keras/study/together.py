"""All networks of a method together: the geometric mean of their error rates.

It is what the search scores: a network that loses a tenth of its errors counts the same, whether it
makes many of them or few.
"""

import math
from collections.abc import Mapping

import numpy as np

from xkd_keras.study import statistics


def compared(study: Mapping) -> dict | None:
    """Compare the method that a study is about with every other.

    Returns:
        error: method -> the geometric mean over networks and seeds of the error rate, a fraction.
        against: method -> `statistics.paired` of the logarithms, with `mean`, `low`, `high` as by
            how much the subject's error is smaller, a fraction of the other's; Holm's adjustment is
            over the main methods, or over the variants.
        None with one network, or without a finished run of the subject.
    """
    ours, rates = statistics.subject(study), _logarithms(study)
    if len(study["peers"]) < 2 or not rates.get(ours):
        return None
    against = {}
    for methods in (study["main"], statistics.ablations(study)):
        family = {m: _fewer(rates[ours], rates[m]) for m in methods if m != ours and m in rates}
        family = {m: each for m, each in family.items() if each}
        statistics.adjust(family.values())
        against |= family
    error = {m: math.exp(np.mean(list(values.values()))) for m, values in rates.items() if values}
    return {"error": error, "against": against}


def _logarithms(study: Mapping) -> dict[str, dict[int, float]]:
    """Return the mean logarithm of the networks' error rates: method -> seed -> value."""
    images = study["data"]["examples"]["test"]
    top1 = [statistics.scores(study, peer, "top1") for peer in study["peers"]]
    return {
        method: {
            seed: float(np.mean([log_error(by[method][seed], images) for by in top1]))
            for seed in top1[0][method]
            if all(seed in by[method] for by in top1)
        }
        for method in study["methods"]
    }


def log_error(top1: float, images: int) -> float:
    """Return the logarithm of an error rate; of no error at all, half an image counts."""
    return float(np.log(max(1.0 - top1, 0.5 / images)))


def _fewer(mine: Mapping[int, float], other: Mapping[int, float]) -> dict | None:
    """Return the paired comparison of logarithms by seed, as fractions of the other's errors."""
    gains = statistics.paired(other, mine)
    limits = {key: gains[key] for key in ("mean", "low", "high")} if gains else {}
    return gains and {
        **gains,
        **{k: v if v is None else -math.expm1(-v) for k, v in limits.items()},
    }
