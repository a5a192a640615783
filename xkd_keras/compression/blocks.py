"""Our own tf_keras layers: operations that TFLite has in int8 and tf_keras as no layer.

Each has no weights and is one operation of a file, so that its output, quantised, is all that
tfmot must know of it.
"""

import tensorflow as tf
import tf_keras


class HardSilu(tf_keras.layers.Layer):
    """x relu6(x + 3) / 6, which a TFLite file holds as one HARD_SWISH."""

    def call(self, x):
        """Return the same shape."""
        return x * tf.nn.relu6(x + 3.0) * (1.0 / 6.0)


class Gelu(tf_keras.layers.Layer):
    """GELU with tanh, as keras.ops.gelu is unless told otherwise."""

    def call(self, x):
        """Return the same shape."""
        return tf.nn.gelu(x, approximate=True)


class Mean(tf_keras.layers.Layer):
    """The mean over the last axis, which is kept."""

    def call(self, x):
        """Return [..., 1]."""
        return tf.reduce_mean(x, axis=-1, keepdims=True)


class InverseRoot(tf_keras.layers.Layer):
    """1 / sqrt(x) of what is positive."""

    def call(self, x):
        """Return the same shape."""
        return tf.math.rsqrt(x)


OWN = {kind.__name__: kind for kind in (HardSilu, Gelu, Mean, InverseRoot)}
