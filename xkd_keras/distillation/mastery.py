"""How far each peer has learned, and how much it is heard for it."""

import keras
import tensorflow as tf

from xkd_keras.distillation import losses, replicas

_MEMORY = 0.98  # of the running mean: about the last fifty steps


class Mastery(keras.layers.Layer):
    """The running cross-entropy of every peer on the training images, and its mastery from it.

    With CE_j the running mean over steps of peer j's cross-entropy, less the entropy of the labels
    where they are mixed, its mastery is

    m_j = exp(-adapt CE_j)

    For adapt 1 that is the (geometric) mean of the probability that it gives to the labels: 1 /
    classes for a network that guesses, up to 1. CE_j is of the forward passes of training: with
    dropout, the batch's statistics, and augmented images. Every network starts at 1 / classes, also
    one with trained weights, and about fifty steps are remembered, whatever an epoch is. A peer is
    heard as a teacher as far as it has learned, so teaching begins by itself, grows, and is weak
    where the teachers are. The formula is ours.

    Args:
        peers: How many.
        classes: How many; the running mean starts as that of a guess, log(classes).
        adapt: >= 0; 0: every mastery is 1.
    """

    def __init__(self, peers: int, classes: int, adapt: float):
        super().__init__(name="mastery", trainable=False, dtype="float32")
        self.adapt = adapt
        start = keras.initializers.Constant(float(tf.math.log(float(classes))))
        self.cross_entropy = self.add_weight(
            name="cross_entropy",
            shape=(peers,),
            initializer=start,
            trainable=False,
            aggregation="mean",
        )
        self.built = True

    def heard(self, shares: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the weights of the peers as teachers, and what multiplies each pupil's lambda.

        The weights are w_j m_j, divided by their sum; the factor of peer i is the mean of the
        others' mastery, sum_(j != i) w_j m_j / sum_(j != i) w_j, and 0 where there are no others.

        Args:
            shares: w, float32 [P], summing to 1.

        Returns:
            Two float32 [P].
        """
        logarithms = -self.adapt * tf.convert_to_tensor(self.cross_entropy)
        # Their quotients are wanted also where all masteries are too small for float32.
        weights = tf.nn.softmax(tf.math.log(shares) + logarithms)
        heard = shares * tf.exp(logarithms)
        return weights, tf.math.divide_no_nan(tf.reduce_sum(heard) - heard, 1.0 - shares)

    def update(self, means: tf.Tensor) -> None:
        """Take in a step's cross-entropies, float32 [P]; one that is not finite changes nothing."""
        before = tf.convert_to_tensor(self.cross_entropy)
        means = tf.where(tf.math.is_finite(means), means, before)
        self.cross_entropy.assign(_MEMORY * before + (1.0 - _MEMORY) * means)


def mean(values: tf.Tensor, sample_weight: tf.Tensor | None) -> tf.Tensor:
    """Return the mean over the images that count, [P, B] -> [P]: sum(w v) / sum(w).

    The loss has sum(w v) / B, which says nothing of mastery where weights are small or large, or
    where a replica has no image.

    Args:
        values: float32 [P, B].
        sample_weight: [B], of which the sums are over all replicas; NaN where they add up to 0.
            None: the mean over this replica's images, of which all have equally many.
    """
    if sample_weight is None:
        return losses.mean(values, None)
    weights = tf.cast(sample_weight, tf.float32)
    sums = [*tf.unstack(tf.reduce_sum(weights * values, axis=-1)), tf.reduce_sum(weights)]
    *summed, counted = tf.unstack(replicas.total(tf.stack(sums)))
    return tf.stack(summed) / counted
