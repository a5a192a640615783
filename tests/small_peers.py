"""Networks that train in milliseconds, given to --peer as any user's would be."""

import keras


def plain(image_shape, classes):
    """One small convolution, no batch normalisation."""
    inputs = keras.Input(image_shape)
    x = keras.layers.Conv2D(4, 5, strides=4, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(classes)(keras.layers.Flatten()(x)))


def normalised(image_shape, classes):
    """Batch normalisation and dropout: state beside the weights."""
    inputs = keras.Input(image_shape)
    x = keras.layers.Conv2D(6, 3, strides=2, use_bias=False)(inputs)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    x = keras.layers.AveragePooling2D(5)(keras.layers.ReLU()(x))
    x = keras.layers.Dropout(0.2)(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


def one_too_many(image_shape, classes):
    """One logit more than there are classes."""
    return plain(image_shape, classes + 1)
