"""Which peer leads, and how much it is taught."""

import keras
import tensorflow as tf

_MEMORY = 0.98  # of the running mean: about the last fifty steps


class Mastery(keras.layers.Layer):
    """The running cross-entropy of every peer on the training images, and the factors it gives.

    The peer with the smallest, CE_min, leads. The others have something to learn from it, and their
    factor of lambda is 1. The leader has little to learn from them while it still learns from the
    labels, but something once it has learned its images by heart; its factor is

    exp(-rate CE_min)

    which is 1 / classes^rate for a network that guesses, and approaches 1. The formula is ours.

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
        """Return what to multiply each peer's lambda by: float32 [P] in 0..1; equals all lead."""
        means = tf.convert_to_tensor(self.cross_entropy)
        least = tf.reduce_min(means)
        return tf.where(means <= least, tf.exp(-self.rate * least), 1.0)

    def update(self, means: tf.Tensor) -> None:
        """Take in a step's cross-entropies, float32 [P]; one that is not finite changes nothing."""
        before = tf.convert_to_tensor(self.cross_entropy)
        means = tf.where(tf.math.is_finite(means), means, before)
        self.cross_entropy.assign(_MEMORY * before + (1.0 - _MEMORY) * means)
