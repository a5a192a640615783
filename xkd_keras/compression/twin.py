"""A Keras 3 network rebuilt in tf_keras: same layers, same names, same weights, same logits."""

import keras
import numpy as np
import tf_keras

from xkd_keras.errors import InputError

# What only says how weights begin or are kept in bounds: the twin gets trained weights.
_DROPPED = ("initializer", "regularizer", "constraint")
_UNKNOWN_THERE = {"autocast", "quantization_config", "data_format", "synchronized", "renorm"}
_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
TOLERANCE = 1e-4


def twin(model: keras.Model) -> tf_keras.Model:
    """Return the tf_keras twin of a functional model; models nested in it are laid flat.

    Args:
        model: Of stock layers, images [B, H, W, C] -> logits [B, classes].

    Raises:
        InputError: A layer has no counterpart in tf_keras, or the logits differ.
    """
    pixels = tf_keras.Input(model.input_shape[1:], name="pixels", dtype="float32")
    twins: dict[int, tf_keras.layers.Layer] = {}
    copied = tf_keras.Model(pixels, _graph(model, pixels, twins, ""), name=model.name)
    layers = {id(layer): layer for layer in _layers(model)}
    for key, layer in twins.items():
        layer.set_weights(layers[key].get_weights())
        layer.trainable = layers[key].trainable
    _check(model, copied)
    return copied


def _layers(model) -> list:
    """Return the layers of a graph and of all nested in it."""
    layers = []
    for layer in model.layers:
        layers += [layer, *(_layers(layer) if isinstance(layer, keras.Model) else ())]
    return layers


def _graph(model, inputs, twins: dict, prefix: str):
    """Apply the twins of a model's layers, in the order of its graph."""
    graph = model._functional if isinstance(model, keras.Sequential) else model

    def operation(layer):
        if isinstance(layer, keras.Model):
            return lambda x, **_: _graph(layer, x, twins, f"{prefix}{layer.name}_")
        if id(layer) not in twins:
            twins[id(layer)] = _layer(layer, prefix)
        made = twins[id(layer)]
        return made if _folds(layer) else _after_identity(made)

    # Keras' own walk over a graph, as its clone_model uses; it has no public name.
    return graph._run_through_graph(inputs, operation)


def _layer(layer, prefix: str):
    kind = getattr(tf_keras.layers, type(layer).__name__, None)
    if kind is None or not type(layer).__module__.startswith("keras."):
        raise InputError(
            f"the layer '{layer.name}' ({type(layer).__name__}) has no counterpart in tf_keras,"
            " which tfmot needs; valid: stock Keras layers."
        )
    config = {
        name: value
        for name, value in layer.get_config().items()
        if not name.endswith(_DROPPED) and name not in _UNKNOWN_THERE
    }
    config |= {"dtype": "float32", "name": f"{prefix}{layer.name}"}
    try:
        return kind.from_config(config)
    except (TypeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"the layer '{layer.name}' cannot be made in tf_keras: {reason}") from None


def _folds(layer) -> bool:
    """Whether tfmot can quantise a layer as it stands.

    It folds a batch norm into the convolution before it, if nobody else sees what comes from there,
    and knows no other batch norm (as most of DenseNet's are).
    """
    if not isinstance(layer, keras.layers.BatchNormalization) or len(layer.input.shape) != 4:
        return True
    before = layer.input._keras_history.operation
    return isinstance(before, _CONVOLUTIONS) and len(before._outbound_nodes) == 1


def _after_identity(batch_norm):
    """Return a call of `batch_norm` with a frozen identity convolution before it, to fold into."""
    identity = tf_keras.layers.DepthwiseConv2D(
        1,
        use_bias=False,
        depthwise_initializer="ones",
        trainable=False,
        name=f"{batch_norm.name}_identity",
    )
    return lambda x, **kwargs: batch_norm(identity(x), **kwargs)


def _check(model, copied) -> None:
    """Compare logits before anything else is done."""
    images = np.random.RandomState(0).randint(0, 256, (8, *model.input_shape[1:]))
    one = np.asarray(model(np.float32(images), training=False))
    two = np.asarray(copied(np.float32(images), training=False))
    apart = float(np.max(np.abs(one - two) / np.maximum(1.0, np.abs(one))))
    if not apart <= TOLERANCE:
        raise InputError(
            f"the tf_keras twin of '{model.name}' differs by {apart:.2g} in its logits."
        )
