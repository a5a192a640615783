"""Confidence that means something: one temperature for each network, fitted on validation images.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2: the logits are
divided by the T > 0 with the least cross-entropy. No answer changes, only how sure it is. On few
images a network may make no mistake, and would be made as sure as can be. So what it should say is
not quite the label, but as after one more image of every answer (Platt, "Probabilistic outputs for
support vector machines", 1999, section 2.2, for two classes).
"""

from collections.abc import Mapping

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from xkd_keras.runs import scoring

LOW, HIGH = 0.1, 20.0
_SCORES = ("cross_entropy", "brier", "ece")


def temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """Return the T in 0.1..20 with the least cross-entropy of logits / T; 1 of no images.

    The label has the probability (n + 1) / (n + 2) and the other classes share the rest, as in
    Platt's targets. And log T has a standard normal distribution beforehand, so that a dozen images
    do not move it far.

    Args:
        labels: int [n].
        logits: float [n, classes].
    """
    n, classes = logits.shape
    if not n:
        return 1.0
    rest = 1 / (n + 2)
    targets = np.full((n, classes), rest / (classes - 1))
    targets[np.arange(n), labels] = 1 - rest

    def cost(log_t):
        return log_t**2 / 2 - np.sum(targets * log_softmax(logits / np.exp(log_t), axis=-1))

    found = minimize_scalar(cost, bounds=(np.log(LOW), np.log(HIGH)), method="bounded")
    return float(np.exp(found.x))


def fitted(validation) -> dict[str, float]:
    """Return by name the temperature of each network in `evaluation.Predictions`."""
    named = validation.logits.items()
    return {name: round(temperature(validation.labels, logits), 4) for name, logits in named}


def add(measured: dict, temperatures: Mapping[str, float], test) -> None:
    """Add `temperature`, and the scores that change with it, to what `evaluation.summarize` made.

    Args:
        measured: `peers` by name and `ensemble`; changed in place.
        temperatures: Of `fitted`.
        test: `evaluation.Predictions` on the test images.
    """
    for name, row in {**measured["peers"], "ensemble": measured["ensemble"]}.items():
        own = scoring.scores(test.labels, test.logits[name] / temperatures[name])
        row["temperature"] = temperatures[name]
        row["calibrated"] = {key: own[key] for key in _SCORES}


def confidence(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the probability of each answer, float32 [n], of logits [n, classes]."""
    z = np.float64(logits) / temperature
    z -= z.max(axis=-1, keepdims=True)
    return np.float32(1.0 / np.exp(z).sum(axis=-1))


def threshold(right: np.ndarray, sure: np.ndarray, precision: float) -> float | None:
    """Return the least probability from which on answers are right at least so often.

    Args:
        right: bool [n], of validation images.
        sure: float [n], the probability of each answer.
        precision: 0..1.

    Returns:
        0..1, 0 where all answers together are right as often; None where no score is enough.
    """
    order = np.argsort(-sure, kind="stable")
    share = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    last = np.append(sure[order][1:] < sure[order][:-1], True)  # of those that are as sure
    enough = np.flatnonzero((share >= precision) & last)
    if not len(enough):
        return None
    return 0.0 if enough[-1] == len(order) - 1 else float(sure[order][enough[-1]])
