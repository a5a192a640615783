"""Networks that train in milliseconds, given to --peer as any user's would be."""

import os
import signal

import keras


def plain(image_shape, classes):
    """One small convolution, no batch normalisation."""
    inputs = keras.Input(image_shape)
    x = keras.layers.Conv2D(4, 5, strides=4, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(classes)(keras.layers.Flatten()(x)))


def staged(image_shape, classes):
    """Three resolutions, of which the second ends in an operator; no batch normalisation."""
    options = {"kernel_size": 3, "padding": "same"}
    inputs = keras.Input(image_shape)
    x = keras.layers.Conv2D(4, name="first", activation="relu", **options)(inputs)
    x = keras.layers.Conv2D(4, name="second", strides=2, **options)(x)
    x = x + keras.layers.Conv2D(4, name="branch", **options)(x)
    x = keras.layers.Conv2D(4, name="third", strides=2, **options)(x)
    return keras.Model(inputs, keras.layers.Dense(classes)(keras.layers.Flatten()(x)))


def regular(image_shape, classes):
    """Batch normalisation, no dropout: what a batch in parts can be equal in."""
    inputs = keras.Input(image_shape)
    x = keras.layers.Conv2D(6, 3, strides=2, use_bias=False)(inputs)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    x = keras.layers.AveragePooling2D(5)(keras.layers.ReLU()(x))
    return keras.Model(inputs, keras.layers.Dense(classes)(keras.layers.Flatten()(x)))


def normalised(image_shape, classes):
    """Batch normalisation and dropout: state beside the weights."""
    inputs = keras.Input(image_shape)
    x = keras.layers.Conv2D(6, 3, strides=2, use_bias=False)(inputs)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    x = keras.layers.AveragePooling2D(5)(keras.layers.ReLU()(x))
    x = keras.layers.Dropout(0.2)(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


@keras.saving.register_keras_serializable("tests")
class Doubled(keras.layers.Layer):
    """A layer of the user's own, known to Keras."""

    def call(self, x):
        return 2 * x


class Unknown(Doubled):
    """Another, which Keras cannot find again."""


def with_own_layer(image_shape, classes):
    """A registered layer: loads once its module has been imported."""
    return keras.Sequential([keras.Input(image_shape), Doubled(), *plain_layers(classes)])


def with_unknown_layer(image_shape, classes):
    """A layer that no saved file can bring back."""
    return keras.Sequential([keras.Input(image_shape), Unknown(), *plain_layers(classes)])


def plain_layers(classes):
    """Pool, flatten, one dense layer."""
    pool = keras.layers.AveragePooling2D(8)
    return [pool, keras.layers.Flatten(), keras.layers.Dense(classes)]


def deadly(image_shape, classes):
    """Ends the process that builds it, as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def one_too_many(image_shape, classes):
    """One logit more than there are classes."""
    return plain(image_shape, classes + 1)
