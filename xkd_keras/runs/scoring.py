"""How good answers are, and how far their probabilities can be trusted; needs no TensorFlow."""

import numpy as np


def scores(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Return top-1, balanced accuracy, top-5 (beyond 10 classes), cross-entropy, Brier score, ece.

    Balanced accuracy is the mean of the classes' recalls, of those classes that have images
    (Brodersen et al., ICPR 2010). Of classes with equal logits the first comes first, in top-5 as
    in top-1; an image with a NaN among its logits is answered wrongly. Cross-entropy is in nats.
    The Brier score is the mean over the images of sum_c (p_c - y_c)^2, in 0..2 (Brier, 1950).

    Args:
        labels: int [n].
        logits: float [n, classes].
    """
    z = logits.astype(np.float64)
    own, log_sum = _own_and_log_sum(labels, z)
    before = np.arange(z.shape[-1]) < labels[:, None]
    rank = np.sum((z > own[:, None]) | ((z == own[:, None]) & before), axis=-1)
    rank[np.isnan(z).any(-1)] = z.shape[-1]
    right = rank == 0
    counts = np.bincount(labels)
    recalls = np.bincount(labels, right)[counts > 0] / counts[counts > 0]
    result = {"top1": float(np.mean(right)), "balanced_accuracy": float(np.mean(recalls))}
    if z.shape[-1] > 10:
        result["top5"] = float(np.mean(rank < 5))
    result["cross_entropy"] = float(np.mean(log_sum - own))
    p = np.exp(z - log_sum[:, None])
    p_own = p[np.arange(len(z)), labels]
    result["brier"] = float(np.mean(np.sum(p**2, axis=-1) - 2 * p_own + 1))
    confidence = p.max(axis=-1)
    return {**result, "ece": calibration_error(confidence, right)}


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error: sum over bins of |mean confidence - accuracy| n_bin/n.

    Bins of equal width over 0..1, each with its upper edge (Guo et al., ICML 2017, equation 3).
    NaN where a confidence is.

    Args:
        confidence: float [n], the probability of the answer.
        right: bool [n], whether the answer was right.
        bins: Their number; 15 in the paper.
    """
    if np.isnan(confidence).any():
        return float("nan")
    number = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1).astype(int)
    gaps = np.bincount(number, weights=confidence - right, minlength=bins)
    return float(np.sum(np.abs(gaps)) / len(confidence))


def cross_entropy(labels: np.ndarray, logits: np.ndarray) -> float:
    """Return the `cross_entropy` of `scores` alone, which is asked for often."""
    own, log_sum = _own_and_log_sum(labels, logits.astype(np.float64))
    return float(np.mean(log_sum - own))


def _own_and_log_sum(labels: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels' logits, and the logarithm of the sum of exponentials: float64 [n] each."""
    shift = z.max(axis=-1, keepdims=True)
    log_sum = np.log(np.sum(np.exp(z - shift), axis=-1)) + shift[:, 0]
    return z[np.arange(len(z)), labels], log_sum
