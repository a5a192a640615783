"""Cohorts that train in milliseconds, and the images they train on."""

import keras
import numpy as np

from xkd_keras import Cohort

RNG = np.random.default_rng(2)
IMAGES = RNG.normal(size=(48, 6, 6, 2)).astype("float32")
LABELS = RNG.integers(0, 4, 48)


def linear(name):
    """Logits = flattened image times kernel plus bias: small enough to differentiate by hand."""
    inputs = keras.Input((6, 6, 2))
    logits = keras.layers.Dense(4, name=f"{name}_logits")(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, logits, name=name)


def convolutional(name, width, **kwargs):
    """One convolution; no batch normalisation, so that replicas can be compared exactly."""
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(width, 3, activation="relu", **kwargs)(inputs)
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(x)), name=name)


class Own(keras.Model):
    """A network whose connections only its own code knows, built for `IMAGES`."""

    def __init__(self, name="own"):
        super().__init__(name=name)
        self.dense = keras.layers.Dense(4)
        self(IMAGES)
        self.output_shape = (None, 4)

    def call(self, x):
        return self.dense(keras.ops.reshape(x, (-1, 72)))


def compiled(peers, rate=0.1, eager=False, **kwargs):
    """Return a Cohort whose peers learn by SGD with momentum 0.9.

    A few steps are `eager` in a sixth of the time that it takes to trace one.
    """
    cohort = Cohort(peers, **kwargs)
    cohort.compile(keras.optimizers.SGD(rate, momentum=0.9), run_eagerly=eager)
    return cohort


def fit(cohort, epochs=1, **kwargs):
    """Three steps of 16 images an epoch, always in the same order."""
    data = (IMAGES, LABELS)
    return cohort.fit(*data, batch_size=16, epochs=epochs, shuffle=False, verbose=0, **kwargs)
