"""Weights and learning rates as functions of the step: pure arithmetic under thin Keras schedules.

A step is counted from 0: `schedule(t)` is the value used *in* step t. Every schedule takes a
Python int, a NumPy array or a tensor of steps, and can be traced. As `LearningRateSchedule`s they
are saved and restored by Keras, and any of Keras' own (`CosineDecay`, ...) can stand in for them.
"""

import math

import keras
import tensorflow as tf

from xkd_keras.errors import InputError

_EXPONENTIAL_RATE = 5.0  # how much of the exponential's rise comes late: e^5 between its ends
_ROUNDING = 1e-6  # of a step: thirteen periods of a thirteenth end where the whole does


def _linear(x):
    return x


def _cosine(x):
    return (1.0 - tf.cos(math.pi * x)) / 2.0


def _exponential(x):
    return tf.math.expm1(_EXPONENTIAL_RATE * x) / math.expm1(_EXPONENTIAL_RATE)


def _sigmoid(x):
    return tf.exp(-5.0 * (1.0 - x) ** 2)


def _decay(x):
    return 1.0 - x


GROWTHS = {
    "constant": tf.ones_like,
    "linear": _linear,
    "cosine": _cosine,
    "exponential": _exponential,
    "sigmoid": _sigmoid,
    "decay": _decay,
}


def growth(x: tf.Tensor, kind: str) -> tf.Tensor:
    """Return the share of the full weight after the fraction x of the way; 1 at 1, but for decay.

    constant: 1; linear: x; cosine: (1 - cos(pi x)) / 2; exponential: (e^(5x) - 1) / (e^5 - 1);
    sigmoid: exp(-5 (1 - x)^2), the ramp-up of Laine and Aila (2017), used by ONE (Lan et al. 2018);
    it starts at e^-5 = 0.0067. decay: 1 - x, which falls to 0: for comparison only.

    Args:
        x: float, any shape; clipped to 0..1.
        kind: A key of `GROWTHS`.

    Raises:
        InputError: Unknown kind.
    """
    if kind not in GROWTHS:
        raise InputError.unknown("growth", kind, GROWTHS)
    return GROWTHS[kind](tf.clip_by_value(tf.cast(x, tf.float32), 0.0, 1.0))


@keras.saving.register_keras_serializable("xkd_keras")
class Constant(keras.optimizers.schedules.LearningRateSchedule):
    """The same value at every step; 0 is `solo`."""

    def __init__(self, value: float):
        self.value = value

    def __call__(self, step):
        return tf.fill(tf.shape(step), tf.constant(self.value, tf.float32))

    def get_config(self):
        return {"value": self.value}


@keras.saving.register_keras_serializable("xkd_keras")
class Ramp(keras.optimizers.schedules.LearningRateSchedule):
    """From nothing at step `start` to `value` at step `start + steps`, and `value` from there on.

    weight(t) = 0                                     t < start
                value * growth((t - start) / steps)   start <= t
    """

    def __init__(self, value: float, steps: int, start: int = 0, kind: str = "linear"):
        growth(0.0, kind)  # names the mistake here rather than inside a traced step
        self.value, self.steps, self.start, self.kind = value, max(1, steps), start, kind

    def __call__(self, step):
        step = tf.cast(step, tf.int64)
        ramp = growth((step - self.start) / self.steps, self.kind)
        return tf.where(step < self.start, 0.0, self.value * ramp)

    def get_config(self):
        return {"value": self.value, "steps": self.steps, "start": self.start, "kind": self.kind}


@keras.saving.register_keras_serializable("xkd_keras")
class Windows(keras.optimizers.schedules.LearningRateSchedule):
    """Discontinuous distillation with progressively enhanced constraints (MCOD, Gao et al. 2019).

    Time is cut into K periods of `period` steps, the last of which ends the training; what is left
    over comes before the first and is learned alone, as is all before `start`. In each period the
    peers first learn alone, so that they stay different, and then distil in the last `window`
    steps; each window is stronger than the one before. With K = (total - start) div period, the
    steps since the first period e = t - (total - K period), and k = e div period,

    weight(t) = value * growth((k + 1) / K) if e >= 0 and e mod period >= period - window, else 0

    So window k covers the half-open steps [first + (k+1) period - window, first + (k+1) period)
    with first = total - K period, and the last one has the full `value` up to the last step. The
    kind `decay` has growth(k / K), the mirror of `linear`: from the full `value` down to value / K.
    The paper's abstract says that distillation is discontinuous and its constraint grows; the
    formula is ours.

    Args:
        value: The weight of the last window, of `decay` the first.
        total: Steps of the whole training.
        period: Steps of one period, >= 1; it need not be whole.
        window: Steps of a period that distil, 0..period.
        start: Steps before which no period begins.
        kind: A key of `GROWTHS`.
    """

    def __init__(
        self, value: float, total: int, period: float, window: int, start: int = 0, kind="linear"
    ):
        growth(0.0, kind)
        if not (period >= 1 and 0 <= window <= period):
            raise InputError(
                f"window: received {window} steps of a period of {period}; valid: 0 to the period."
            )
        self.value, self.total, self.period = value, total, period
        self.window, self.start, self.kind = window, start, kind

    def __call__(self, step):
        windows = max(0, math.floor((self.total - self.start) / self.period + _ROUNDING))
        if not windows:  # the training is shorter than a period
            return tf.zeros(tf.shape(step))
        first = self.total - windows * self.period - _ROUNDING
        elapsed = tf.cast(step, tf.float64) - first
        before = tf.floor(elapsed / self.period)  # whole periods: k
        grown = growth((before + (self.kind != "decay")) / windows, self.kind)
        on = (elapsed >= 0) & (elapsed - before * self.period >= self.period - self.window)
        return tf.where(on, self.value * grown, 0.0)

    def get_config(self):
        names = ("value", "total", "period", "window", "start", "kind")
        return {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable("xkd_keras")
class Step(keras.optimizers.schedules.LearningRateSchedule):
    """`value`, multiplied by `factor` at each of `boundaries`: step b is the first with the new."""

    def __init__(self, value: float, boundaries: list[int], factor: float = 0.1):
        self.value, self.boundaries, self.factor = value, list(boundaries), factor

    def __call__(self, step):
        passed = tf.cast(step, tf.int64)[..., None] >= tf.constant(self.boundaries, tf.int64)
        return self.value * self.factor ** tf.reduce_sum(tf.cast(passed, tf.float32), axis=-1)

    def get_config(self):
        return {"value": self.value, "boundaries": self.boundaries, "factor": self.factor}


@keras.saving.register_keras_serializable("xkd_keras")
class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """value * (1 + cos(pi t / total)) / 2, and 0 from `total` on (Loshchilov and Hutter, 2017)."""

    def __init__(self, value: float, total: int):
        self.value, self.total = value, total

    def __call__(self, step):
        return self.value * (1.0 - growth(tf.cast(step, tf.float32) / self.total, "cosine"))

    def get_config(self):
        return {"value": self.value, "total": self.total}


@keras.saving.register_keras_serializable("xkd_keras")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """`schedule(t)` times min(1, (t + 1) / steps): linear, above 0 at once (Goyal et al. 2017)."""

    def __init__(self, schedule, steps: int):
        self.schedule, self.steps = schedule, steps

    def __call__(self, step):
        warm = (tf.cast(step, tf.float32) + 1.0) / max(1, self.steps)
        return self.schedule(step) * tf.minimum(1.0, warm)

    def get_config(self):
        return {"schedule": keras.saving.serialize_keras_object(self.schedule), "steps": self.steps}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["schedule"]), config["steps"])
