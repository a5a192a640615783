"""The moving averages of the peers' weights: smoother networks than those of the last step."""

import contextlib
from collections.abc import Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf


class Averages(keras.layers.Layer):
    """For every peer the moving averages of its weights, moving statistics of batch norm included.

    After step t = 0, 1, ... each average a of a variable w becomes (as timm's ModelEma, with the
    correction of early steps of TensorFlow's `ExponentialMovingAverage(num_updates=t)`)

    a <- d a + (1 - d) w,   d = min(decay, (1 + t) / (10 + t))

    so that the first weights are soon forgotten. t counts the cohort's steps. A peer that sits a
    step out keeps its averages. Where a step moves nothing (a frozen layer), the average stays
    equal to the weight, bit for bit.

    Args:
        peers: By name, with the weights that the averages begin with.
        decay: In 0..1; such as 0.999: about the last thousand steps.
    """

    def __init__(self, peers: Mapping[str, keras.Model], decay: float):
        super().__init__(name="averages", trainable=False, dtype="float32")
        self.decay = decay
        for name, peer in peers.items():
            for variable in averaged_variables(peer):
                average = self.add_weight(
                    name=f"{name}_{len(self.variables)}",
                    shape=variable.shape,
                    initializer="zeros",
                    trainable=False,
                    aggregation="only_first_replica",  # all replicas' weights are the same
                )
                average.assign(variable)
        self.built = True

    def update(self, peers: Mapping[str, keras.Model], step: tf.Tensor, verdict: Mapping) -> None:
        """Take in the weights after a step.

        Args:
            peers: As the averages were made for.
            step: t, a scalar.
            verdict: By name whether the peer took the step, bool scalars; empty: all did.
        """
        part = tf.maximum(1.0 - self.decay, 9.0 / (10.0 + tf.cast(step, tf.float32)))  # 1 - d
        for name, pairs in self.pairs(peers).items():
            # Where it is 0, the average stays as it is: its weights are finite, as none was taken.
            own = tf.where(verdict[name], part, 0.0) if verdict else part
            for average, variable in pairs:
                before = average.value
                average.assign(before + own * (tf.cast(variable.value, tf.float32) - before))

    def pairs(self, peers: Mapping[str, keras.Model]) -> dict[str, list[tuple]]:
        """Return for each peer (average, variable) of all that is averaged."""
        averages = iter(self.variables)
        return {
            name: [(next(averages), variable) for variable in averaged_variables(peer)]
            for name, peer in peers.items()
        }


@contextlib.contextmanager
def lent(averages: Averages | None, peers: Mapping[str, keras.Model]) -> Iterator[None]:
    """Let the peers have their averages for weights within, and their own back after."""
    own = averages.pairs(peers).values() if averages else ()
    pairs = [pair for each in own for pair in each]
    live = [np.array(variable) for _, variable in pairs]
    try:
        for average, variable in pairs:
            variable.assign(np.array(average))
        yield
    finally:
        for (_, variable), value in zip(pairs, live, strict=True):
            variable.assign(value)


def averaged_variables(peer: keras.Model) -> list:
    """Return a peer's weights and statistics: all but whole numbers, as the seeds of dropout."""
    return [variable for variable in peer.variables if "float" in variable.dtype]
