"""How one step moves the variables of a peer: Keras' optimizers, as the recipes here need them."""

import dataclasses
from collections.abc import Mapping

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Old:
    """The variables of a peer that are trained already: all but the last ones.

    Attributes:
        count: How many there are, from the first.
        rate: A factor of the learning rate for them.
        from_step: The step at which they begin to learn.
    """

    count: int
    rate: float = 1.0
    from_step: int = 0

    def factor(self, index: int) -> float:
        """Return the factor of the learning rate for the variable at `index`."""
        return self.rate if index < self.count else 1.0

    def late(self, index: int) -> bool:
        """Whether the variable at `index` begins to learn after others."""
        return self.from_step > 0 and index < self.count


@keras.saving.register_keras_serializable("xkd_keras")
class SGD(keras.optimizers.SGD):
    """Keras' SGD with momentum, and weight decay as L2: the gradient becomes g + l2 * w.

    This is the weight decay of the recipes that come from PyTorch. Keras' own `weight_decay=` is
    decoupled from the gradient and, with momentum 0.9, about ten times weaker. Added after the
    gradients of all replicas are summed and clipped.

    Args:
        learning_rate: float or schedule.
        l2: Weight decay, >= 0; on every trainable variable, as in those recipes.
        old: The variables that are trained already, or None.
        **kwargs: As `keras.optimizers.SGD`.
    """

    def __init__(self, learning_rate=0.01, l2: float = 0.0, old: Mapping | None = None, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.l2 = l2
        self.old = Old(**old) if old else None

    def update_step(self, gradient, variable, learning_rate):
        if self.old:
            learning_rate = learning_rate * self.old.factor(self._get_variable_index(variable))
        fused = self.momentum and isinstance(gradient, tf.Tensor) and gradient.dtype == tf.float32
        if fused and variable.dtype == tf.float32:
            self._update_in_place(gradient, variable, tf.cast(learning_rate, tf.float32))
            return
        if self.l2:
            gradient = gradient + self.l2 * tf.cast(variable, gradient.dtype)
        super().update_step(gradient, variable, learning_rate)

    def _update_in_place(self, gradient, variable, rate):
        """Update by TensorFlow's own kernels: two passes over the weights, where Keras makes seven.

        m <- mu m - rate (g + l2 w), w <- w + m: the L2 goes into m first, with rate l2 / mu.
        """
        moving = self.momentums[self._get_variable_index(variable)].value
        if self.l2 and self.nesterov:  # which looks ahead by the gradient, so that it must have all
            gradient = gradient + self.l2 * variable
        elif self.l2:
            tf.raw_ops.ResourceApplyGradientDescent(
                var=moving.handle, alpha=rate * (self.l2 / self.momentum), delta=variable
            )
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=moving.handle,
            lr=rate,
            grad=gradient,
            momentum=self.momentum,
            use_nesterov=self.nesterov,
        )

    def get_config(self):
        old = {"old": dataclasses.asdict(self.old)} if self.old else {}
        return {**super().get_config(), "l2": self.l2, **old}


@keras.saving.register_keras_serializable("xkd_keras")
class AdamW(keras.optimizers.AdamW):
    """Keras' AdamW for a peer of which a part is trained already.

    Weight decay follows each variable's own rate; and the averages of variables that begin to learn
    late are corrected for bias by their own number of steps: by the optimizer's, their first
    hundreds of steps would be up to six times too large.

    Args:
        learning_rate: float or schedule.
        old: The variables that are trained already.
        **kwargs: As `keras.optimizers.AdamW`.
    """

    def __init__(self, learning_rate=0.001, *, old: Mapping, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.old = Old(**old)

    def _apply_weight_decay(self, variables):
        """Do nothing: `update_step` does."""

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        rate = tf.cast(learning_rate * self.old.factor(index), variable.dtype)
        if self.weight_decay is not None and self._use_weight_decay(variable):
            decay = tf.cast(self.weight_decay, variable.dtype)
            variable.assign_sub(variable * (rate * decay))
        if self.old.late(index):
            rate = rate * tf.cast(self._late_correction(), variable.dtype)
        super().update_step(gradient, variable, rate)

    def _late_correction(self):
        """Return what turns Adam's correction for bias after t steps into that after k of them."""
        t = tf.cast(self.iterations, "float32") + 1.0
        k = tf.maximum(t - float(self.old.from_step), 1.0)

        def correction(steps):
            return tf.sqrt(1.0 - self.beta_2**steps) / (1.0 - self.beta_1**steps)

        return correction(k) / correction(t)

    def get_config(self):
        return {**super().get_config(), "old": dataclasses.asdict(self.old)}
