"""What is compared: a distance from each peer's logits to its teacher's. Logits in, [batch] out.

Shapes: P peers, B images in the batch, C classes. A term is called as

    term(teacher_logits, logits, labels, temperature)

with teacher_logits float [P, B, C], or [K, P, B, C] of K teachers, logits float [P, B, C], labels
int [B] (where batches are mixed, float [B, C], of which `losses.classes` gives the class) and
T > 0, and returns float32 [P, B], or [K, P, B], >= 0. No gradient flows into the teacher. All are
computed in float32 whatever the precision of the networks.
"""

import inspect
from collections.abc import Callable

import tensorflow as tf

from xkd_keras.distillation import losses
from xkd_keras.distillation.losses import distillation, divergence
from xkd_keras.errors import InputError

_LEAST = 1e-7  # of a norm or a standard deviation: logits that are all equal must not divide by 0


def gated(term: Callable, gate, teacher_logits, logits, labels, temperature):
    """Return a term times its gate, and the gate: the mean over the teachers, if there are several.

    Args:
        term: As described above.
        gate: float [(K,) P, B]; constant to the gradient where it is returned.
        teacher_logits: As the term takes them.
        logits: The same.
        labels: The same.
        temperature: The same.

    Returns:
        Two float32 [P, B].
    """
    values = gate * term(teacher_logits, logits, labels, temperature)
    gate = tf.broadcast_to(tf.stop_gradient(gate), tf.shape(values))
    if len(teacher_logits.shape) > len(logits.shape):
        return tf.reduce_mean(values, axis=0), tf.reduce_mean(gate, axis=0)
    return values, gate


def kl(teacher_logits, logits, labels, temperature):
    """T^2 KL(q || p) with q = softmax(z_T / T), p = softmax(z / T).

    T^2 keeps the gradient's size about the same at any temperature (Hinton, Vinyals and Dean, 2015,
    section 2).
    """
    return distillation(teacher_logits, logits, temperature)


def reverse(teacher_logits, logits, labels, temperature):
    """T^2 KL(p || q): the peer is not asked to cover what the teacher finds possible.

    It is the term of the strong peer in BD-KD (Amara et al., 2022, arXiv 2212.12965).
    """
    log_q, log_p = _log_probabilities(teacher_logits, logits, temperature)
    return temperature**2 * divergence(log_p, log_q)


def standardized(teacher_logits, logits, labels, temperature):
    """T^2 KL(softmax(s(z_T) / T) || softmax(s(z) / T)), s(z) = (z - mean(z)) / std(z) over classes.

    It compares the shape of the logits and leaves their scale to the labels (Sun et al., Logit
    Standardization in Knowledge Distillation, CVPR 2024, algorithm 2; there T = 2, weight 9). std
    is that of a sample, as in the authors' code: its square divides by C - 1, in the paper by C.
    """
    return kl(_standard(teacher_logits), _standard(logits), labels, temperature)


def pearson(teacher_logits, logits, labels, temperature):
    """T^2 [1 - r(q, p) + 1 - mean_c r_c(q, p)], r over classes, r_c over the batch for class c.

    r is Pearson's correlation of probabilities at temperature T (Huang et al., Knowledge
    Distillation from A Stronger Teacher, DIST, NeurIPS 2022, equations 7 to 10, beta = gamma = 1;
    T^2 as in the authors' code).
    The second part is the same for each image of a batch; over replicas, of each one's own part.
    """
    log_q, log_p = _log_probabilities(teacher_logits, logits, temperature)
    q, p = tf.exp(log_q), tf.exp(log_p)
    within = 1.0 - _correlation(q, p, axis=-1)  # [P, B]
    across = 1.0 - tf.reduce_mean(_correlation(q, p, axis=-2), axis=-1)  # [P]
    return temperature**2 * (within + across[..., None])


def refined(teacher_logits, logits, labels, temperature):
    """Refined logits: the teacher is heard on what it may know, the label on what it does not.

    With the teacher's largest probability t = max q at T = 1, p_y the peer's of the label, and M
    the classes to which the teacher gives less than the label (none: no second part),

    KL((t, 1 - t) || (p_y, 1 - p_y)) + w T^2 KL(q_M || p_M),   w = 8

    where q_M, p_M are the softmax at T over M alone (Sun et al., Knowledge Distillation with
    Refined Logits, RLD, ICCV 2025, arXiv 2408.07703; there T = 4, and the authors' code begins with
    a ramp over the epochs, which is left out here).
    """
    teacher_logits = tf.stop_gradient(tf.cast(teacher_logits, tf.float32))
    logits = tf.cast(logits, tf.float32)
    own = tf.one_hot(losses.classes(labels), logits.shape[-1])  # [B, C]
    confidence = tf.reduce_max(tf.nn.softmax(teacher_logits), axis=-1)
    label = tf.reduce_sum(own * tf.nn.softmax(logits), axis=-1)
    binary = divergence(_two(confidence), _two(label))
    at_label = tf.reduce_sum(own * teacher_logits, axis=-1, keepdims=True)
    outside = tf.where(teacher_logits < at_label, 0.0, -1e4)
    log_q = tf.nn.log_softmax(teacher_logits / temperature + outside)
    log_p = tf.nn.log_softmax(logits / temperature + outside)
    masked = temperature**2 * divergence(log_q, log_p)
    some = tf.reduce_any(teacher_logits < at_label, axis=-1)
    return binary + 8.0 * tf.where(some, masked, 0.0)


TERMS = {each.__name__: each for each in (kl, standardized, pearson, refined, reverse)}


def get(term: str | Callable) -> Callable:
    """Return the term of that name, or the one given, if it can be called as one.

    Raises:
        InputError: Unknown name, or a function that takes other arguments.
    """
    if isinstance(term, str):
        if term not in TERMS:
            raise InputError.unknown("term", term, TERMS)
        return TERMS[term]
    try:
        inspect.signature(term).bind(None, None, None, None)
    except TypeError:
        raise InputError(
            f"received {term!r}; valid: a name, or a function of (teacher_logits, logits, labels,"
            " temperature).",
            argument="term",
        ) from None
    return term


def _log_probabilities(teacher_logits, logits, temperature):
    """Return log softmax at T of the teacher, without gradient, and of the peer."""
    teacher_logits = tf.stop_gradient(tf.cast(teacher_logits, tf.float32))
    logits = tf.cast(logits, tf.float32)
    return tf.nn.log_softmax(teacher_logits / temperature), tf.nn.log_softmax(logits / temperature)


def _standard(logits):
    logits = tf.cast(logits, tf.float32)
    centred = logits - tf.reduce_mean(logits, axis=-1, keepdims=True)
    free = max(1, logits.shape[-1] - 1)
    deviation = tf.sqrt(tf.reduce_sum(centred**2, axis=-1, keepdims=True) / free + _LEAST**2)
    return centred / (deviation + _LEAST)


def _correlation(a, b, axis: int):
    """Return Pearson's correlation along an axis."""
    a, b = (x - tf.reduce_mean(x, axis=axis, keepdims=True) for x in (a, b))
    norms = [tf.sqrt(tf.reduce_sum(x**2, axis=axis) + _LEAST**2) for x in (a, b)]
    return tf.reduce_sum(a * b, axis=axis) / (norms[0] * norms[1])


def _two(probability):
    """Return the logarithms of (p, 1 - p): [..., 2]."""
    probability = tf.clip_by_value(probability, _LEAST, 1.0 - _LEAST)
    return tf.math.log(tf.stack([probability, 1.0 - probability], axis=-1))
