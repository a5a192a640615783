"""What numbers of seeds and of test images can show: the power of the paired t-test, intervals.

Differences and their standard deviations are in one unit, whichever it is.
"""

import math

import numpy as np
from scipy import stats

from xkd_keras.study.statistics import ALPHA

POWER = 0.8  # of finding a difference that is there
MOST = 1000  # seeds; nobody trains more
MOST_IMAGES = 1_000_000  # nobody labels more
_MIDDLES = (np.arange(4000) + 0.5) / 4000


def power(effect: float, n: int, alpha: float = ALPHA) -> float:
    """Return the probability that a two-sided paired t-test of n pairs finds a difference.

    With t the critical value and s the ratio of the measured deviation to the true one, it is the
    mean over s of Phi(d - t s) + Phi(-d - t s), d = effect sqrt(n) (Cohen, Statistical Power
    Analysis, 1988, section 2.3). (SciPy's noncentral t is not exact far from its middle.)

    Args:
        effect: The mean difference divided by the standard deviation of the differences.
        n: Pairs, two or more.
        alpha: How often it finds one that is not there.
    """
    critical, away = stats.t.ppf(1 - alpha / 2, n - 1), abs(effect) * math.sqrt(n)
    spread = critical * np.sqrt(stats.chi2.ppf(_MIDDLES, n - 1) / (n - 1))
    return float(np.mean(stats.norm.cdf(away - spread) + stats.norm.cdf(-away - spread)))


def seeds_for(difference: float, deviation: float, alpha: float = ALPHA) -> int | None:
    """Return how many seeds find such a difference with a power of 80 %; None: over `MOST`."""
    if not deviation:
        return 2 if difference else None
    low, high = 1, 2  # the power grows with the seeds
    while power(difference / deviation, high, alpha) < POWER:
        low, high = high, 2 * high
        if low > MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = power(difference / deviation, middle, alpha) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high if high <= MOST else None


def least(deviation: float, n: int) -> float:
    """Return the smallest difference that n seeds find with a power of 80 %."""
    low, high = 0.0, 0.1  # times the deviation
    while power(high, n) < POWER:
        low, high = high, 2 * high
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, n) >= POWER else (middle, high)
    return high * deviation


def deviation(half: float, n: int) -> float:
    """Return the standard deviation of n differences from half their 95 % t-interval."""
    return half * math.sqrt(n) / float(stats.t.ppf(1 - ALPHA / 2, n - 1))


def of_images(accuracy: float, images: int) -> float:
    """Return how far other test images may move a difference of two networks, at the most.

    1.96 sqrt(2 p (1 - p) / N): half of the 95 % interval of two independent shares; networks that
    err on the same images differ by less.

    Args:
        accuracy: p, of both.
        images: N.
    """
    return 1.96 * math.sqrt(2 * accuracy * (1 - accuracy) / images)


def images_for(difference: float, accuracy: float) -> int | None:
    """Return from how many test images on `of_images` is no more than such a difference.

    Args:
        difference: Of two accuracies; its sign does not matter.
        accuracy: Of both.

    Returns:
        The number; None: over `MOST_IMAGES`.
    """
    if not difference:
        return None
    count = max(1, math.ceil((of_images(accuracy, 1) / abs(difference)) ** 2))
    return count if count <= MOST_IMAGES else None
