"""The peers' shares of their ensemble, and the ensemble itself: one place for both.

Shapes: P peers, B images in the batch, C classes.
"""

from collections.abc import Callable, Iterable, Mapping

import tensorflow as tf

from xkd_keras.errors import InputError


def normalized(
    weights: Mapping[str, float], names: Iterable[str] | None = None
) -> dict[str, float]:
    """Return the shares of peers in their ensemble, by name, summing to 1.

    Args:
        weights: By name, >= 0; only ratios matter. Where all are 0, the shares are equal.
        names: The peers that take part; all where None.
    """
    chosen = {name: float(weights[name]) for name in (weights if names is None else names)}
    total = sum(chosen.values())
    return {name: w / total if total else 1 / len(chosen) for name, w in chosen.items()}


def checked(names: Iterable[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Return the shares of a cohort's peers in their order; equal where `weights` is None.

    Raises:
        InputError: Other names than the peers', a negative weight, or nothing but zeros.
    """
    names = list(names)
    weights = dict.fromkeys(names, 1.0) if weights is None else weights
    if set(weights) != set(names) or min(weights.values()) < 0 or not sum(weights.values()) > 0:
        raise InputError(
            f"received {dict(weights)}; valid: one >= 0 for each of {', '.join(names)}, not all 0.",
            argument="weights",
        )
    return normalized(weights, names)


def stacked(models: Iterable[Callable], images: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Return the logits of one forward pass of each model: float32 [P, B, C]."""
    outputs = [model(images, training=training) for model in models]
    return tf.stack([tf.cast(logits, tf.float32) for logits in outputs])


def ensemble(logits: tf.Tensor, shares: tf.Tensor) -> tf.Tensor:
    """Return sum_j w_j z_j.

    Args:
        logits: float [P, B, C].
        shares: float [P], summing to 1.

    Returns:
        float [B, C].
    """
    return tf.tensordot(tf.cast(shares, logits.dtype), logits, axes=1)
