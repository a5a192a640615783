"""How far each peer has learned, and how much it is taught for it."""

import keras
import tensorflow as tf

_MEMORY = 0.98  # of the running mean: about the last fifty steps


class Mastery(keras.layers.Layer):
    """The running cross-entropy of every peer on the training images, and the factor that it gives.

    A peer that still learns from the labels is left to them; one that has learned them by heart is
    taught. With CE_i the running mean over steps of peer i's cross-entropy, the factor of lambda is

    exp(-rate CE_i)

    which is 1 / classes^rate for a network that guesses, and approaches 1 as it learns its images.
    The formula is ours: where a network does not overfit, teaching only slows it down.

    Args:
        peers: How many.
        classes: How many; the running mean starts as that of a guess, log(classes).
        rate: >= 0; 0: every factor is 1.
    """

    def __init__(self, peers: int, classes: int, rate: float):
        super().__init__(name="mastery", trainable=False, dtype="float32")
        self.rate = rate
        start = keras.initializers.Constant(float(tf.math.log(float(classes))))
        self.cross_entropy = self.add_weight(
            name="cross_entropy",
            shape=(peers,),
            initializer=start,
            trainable=False,
            aggregation="mean",
        )
        self.built = True

    def factors(self) -> tf.Tensor:
        """Return what to multiply each peer's lambda by: float32 [P] in 0..1."""
        return tf.exp(-self.rate * tf.convert_to_tensor(self.cross_entropy))

    def update(self, means: tf.Tensor) -> None:
        """Take in a step's cross-entropies, float32 [P]; one that is not finite changes nothing."""
        before = tf.convert_to_tensor(self.cross_entropy)
        means = tf.where(tf.math.is_finite(means), means, before)
        self.cross_entropy.assign(_MEMORY * before + (1.0 - _MEMORY) * means)
