"""The mathematics of co-training: teachers, losses and agreement. Logits in, [batch] out, no state.

Shapes: P peers, B images in the batch, C classes. Logits are float [P, B, C] (or [B, C] for one
peer); every loss is computed in float32 whatever the precision of the network.
"""

from collections.abc import Callable

import tensorflow as tf

from xkd_keras.errors import InputError, unknown

Teacher = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return -log softmax(logits)[label].

    Args:
        labels: int [B], each in 0..C-1.
        logits: float [..., B, C].

    Returns:
        float32 [..., B], in nats.
    """
    logits = tf.cast(logits, tf.float32)
    labels = tf.broadcast_to(labels, tf.shape(logits)[:-1])
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def distillation(teacher_logits: tf.Tensor, logits: tf.Tensor, temperature: float) -> tf.Tensor:
    """Return T^2 KL(q || softmax(z / T)) with q = stop_gradient(softmax(z_T / T)).

    The sum runs over the classes and is not divided by their number. T^2 keeps the gradient's size
    independent of the temperature (Hinton, Vinyals and Dean, 2015, section 2.1).

    Args:
        teacher_logits: float [..., B, C]; no gradient flows into it.
        logits: float [..., B, C].
        temperature: T > 0.

    Returns:
        float32 [..., B], in nats.
    """
    teacher_logits = tf.stop_gradient(tf.cast(teacher_logits, tf.float32))
    log_q = tf.nn.log_softmax(teacher_logits / temperature)
    log_p = tf.nn.log_softmax(tf.cast(logits, tf.float32) / temperature)
    return temperature**2 * tf.reduce_sum(tf.exp(log_q) * (log_q - log_p), axis=-1)


def mean(logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """One teacher for all: z_T = sum_j w_j z_j, with w summing to 1 (DESIGN, MCOD).

    Args:
        logits: float [P, B, C].
        weights: float [P], summing to 1.

    Returns:
        The teacher of each peer, float [P, B, C]: the same for all.
    """
    return tf.broadcast_to(ensemble(logits, weights), tf.shape(logits))


def leave_one_out(logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """The teacher of peer i is the others: z_T,i = sum_{j != i} w_j z_j / (1 - w_i).

    A single peer has no others and is its own teacher, so that its distillation term is zero.

    Args:
        logits: float [P, B, C].
        weights: float [P], summing to 1.

    Returns:
        The teacher of each peer, float [P, B, C].
    """
    if logits.shape[0] == 1:
        return logits
    w = tf.cast(weights, logits.dtype)[:, None, None]
    # Where one peer has all the weight, it has no others: its own logits again.
    others = tf.math.divide_no_nan(ensemble(logits, weights) - w * logits, 1.0 - w)
    return tf.where(w < 1.0, others, logits)


TEACHERS = {"mean": mean, "leave_one_out": leave_one_out}


def teacher(name: str) -> Teacher:
    """Return the teacher of that name; raise InputError for another name."""
    if name not in TEACHERS:
        raise InputError(unknown("teacher", name, TEACHERS))
    return TEACHERS[name]


def ensemble(logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Return sum_j w_j z_j.

    Args:
        logits: float [P, B, C].
        weights: float [P], summing to 1.

    Returns:
        float [B, C].
    """
    return tf.tensordot(tf.cast(weights, logits.dtype), logits, axes=1)


def top1(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return 1.0 where the largest logit is the label's, else 0.0: float32 [..., B]."""
    guess = tf.argmax(logits, axis=-1, output_type=tf.int64)
    return tf.cast(tf.equal(guess, tf.cast(labels, tf.int64)), tf.float32)


def agreement(logits: tf.Tensor) -> tf.Tensor:
    """Return, for each image, the fraction of pairs of peers that name the same class.

    Args:
        logits: float [P, B, C].

    Returns:
        float32 [B] in 0..1; 1 for a single peer.
    """
    peers = logits.shape[0]
    if peers == 1:
        return tf.ones(tf.shape(logits)[1])
    guess = tf.argmax(logits, axis=-1)  # [P, B]
    same = tf.cast(guess[:, None] == guess[None, :], tf.float32)  # [P, P, B]
    pairs = peers * (peers - 1)
    return (tf.reduce_sum(same, axis=[0, 1]) - peers) / pairs
