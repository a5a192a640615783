"""The classifiers of keras.applications as peers: `applications:EfficientNetV2B0`.

Whatever pixels a network wants, `normalize` gives: what it would do to them itself is left out. Its
last layer gives way to `logits`.
"""

import inspect

import keras

from xkd_keras import operations
from xkd_keras.errors import InputError, one_line
from xkd_keras.peers import graphs
from xkd_keras.peers.layers import BN_MOMENTUM, logits


def build(name, x, num_classes):
    """Return logits, float32 [batch, num_classes], of normalised images x [batch, H, W, C].

    Args:
        name: Of the network, as keras.applications spells it.
        x: A Keras tensor.
        num_classes: Number of logits.

    Raises:
        InputError: The images are too small for the network.
    """
    try:
        model = classifier(name, tuple(x.shape[1:]), num_classes)
    except ValueError as error:
        raise InputError(
            f"{x.shape[1]}x{x.shape[2]} does not suit {name}: {_sentence(error)}",
            argument="image_shape",
        ) from None
    for layer in graphs.leaves(model):
        # Shipped with up to 0.9997: thousands of steps until inference sees them trained.
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = BN_MOMENTUM
    scaling, head = graphs.input_scaling(model), graphs.head(model)
    left_out = {id(layer) for layer in [head, *(scaling.layers if scaling else ())]}

    def call(layer, *args, **kwargs):
        if isinstance(layer, keras.layers.Reshape) and layer.target_shape == (num_classes,):
            layer = keras.layers.Flatten(name=layer.name)  # of what the last layer would have read
        return args[0] if id(layer) in left_out else layer(*args, **kwargs)

    return logits(operations.replay(model, x, call), num_classes)


def classifier(name, image_shape=None, classes=1000, weights=None) -> keras.Model:
    """Return a network of keras.applications that gives logits; without its preprocessing,
    where it can be without.

    Args:
        name: As keras.applications spells it.
        image_shape: (height, width, channels); its own where None.
        classes: Number of logits.
        weights: None or `imagenet`.
    """
    make = getattr(keras.applications, name)
    optional = "include_preprocessing" in inspect.signature(make).parameters
    return make(
        weights=weights,
        input_shape=image_shape,
        classes=classes,
        classifier_activation=None,
        **({"include_preprocessing": False} if optional else {}),
    )


def trained(name: str) -> keras.Model:
    """Return a network with its ImageNet weights, which Keras downloads and caches.

    Raises:
        InputError: Keras could not get them.
    """
    try:
        return classifier(name, weights="imagenet")
    except Exception as error:  # a download may fail in any way
        raise InputError(
            f"'imagenet': Keras could not get the weights of {name} ({_sentence(error)}); valid:"
            " a network connection, or a file of weights.",
            argument="start",
        ) from None


def _sentence(error: Exception) -> str:
    return one_line(error).rstrip(".") + "."
