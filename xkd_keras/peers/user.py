"""A peer of the user's own: `module:function` found, called, checked, joined to our first layer."""

import importlib
import inspect
import os
import pathlib
import sys

import keras
import numpy as np

from xkd_keras import operations
from xkd_keras.errors import InputError, nearest, one_line
from xkd_keras.peers import graphs


def find(name):
    """Return the function that `module:function` names, looking in the current directory first."""
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise InputError(
            f"peer: received '{name}'; valid for a network of your own: 'your_module:build_fn'."
        )
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        stems = [path.stem for path in pathlib.Path(here).glob("*.py")]
        near = nearest(module_name, stems)
        hint = f" Did you mean '{near}'?" if near and near != module_name else ""
        raise InputError(
            f"peer: cannot import module '{module_name}' of '{name}' ({_reason(error)}); valid:"
            f" a module in the current directory, or an installed one.{hint}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InputError.unknown(f"peer: function in '{module_name}'", function_name, _own(module))
    return function


def build(name, pixels, x, num_classes, label):
    """Return the user's model behind `normalize`, as one functional model of `num_classes` logits.

    Args:
        name: `module:function`.
        pixels: The input tensor, float32 [batch, height, width, channels].
        x: The normalised pixels, same shape.
        num_classes: Number of logits.
        label: Name of the result.

    Raises:
        InputError: The function fails, or what it returns is not such a model.
    """
    shape = tuple(x.shape[1:])
    model = _call(name, shape, num_classes)
    try:
        logits = model(x)  # also builds a model that has seen no shape yet
        _check_output(name, logits, num_classes)
        _check_no_softmax(name, model, shape)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"peer: the model of {name} cannot be called on images {shape}: {_reason(error)}."
        ) from error
    peer = _join(model, pixels, x, label, logits)
    _check_savable(name, peer)
    return peer


def alone(name, shape, num_classes):
    """Return the user's model as the function makes it, without `normalize`, and built."""
    model = _call(name, shape, num_classes)
    model(keras.Input(shape))
    return model


def _call(name, shape, num_classes):
    """Return what the user's function makes, if it is a Keras model."""
    function = find(name)
    try:
        model = function(shape, num_classes)
    except Exception as error:
        raise InputError(
            f"peer: {name}({shape}, {num_classes}) raised {_reason(error)}."
        ) from error
    if not isinstance(model, keras.Model):
        raise InputError(
            f"peer: {name} returned {type(model).__name__}; valid: a Keras model that returns"
            " logits."
        )
    return model


def _check_output(name, logits, num_classes):
    tensors = keras.tree.flatten(logits)
    if len(tensors) != 1:
        raise InputError(
            f"peer: {name} returned a model with {len(tensors)} outputs; "
            f"one of shape [batch, {num_classes}] is needed."
        )
    shape = tuple(tensors[0].shape)
    if len(shape) != 2:
        raise InputError(
            f"peer: {name} returned a model of output shape {shape}; "
            f"logits have shape [batch, {num_classes}]."
        )
    if shape[1] != num_classes:
        raise InputError(
            f"peer: {name} returned a model of {shape[1]} logits; there are {num_classes} classes."
        )


def _check_no_softmax(name, model, shape):
    """Refuse probabilities, however the model makes them: they are positive and add up to one."""
    noise = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    y = keras.ops.convert_to_numpy(keras.tree.flatten(model(noise, training=False))[0])
    y = y.astype("float64")
    # Half precision adds up to one within a few thousandths.
    if (y >= 0).all() and np.allclose(y.sum(axis=1), 1.0, atol=4e-3):
        raise InputError(
            f"peer: the outputs of {name} are probabilities; valid: logits, so remove the softmax."
        )


def _check_savable(name, peer):
    """Refuse before training what could not be saved after it."""
    try:
        keras.saving.serialize_keras_object(peer)
    except Exception as error:
        raise InputError(
            f"peer: the model of {name} cannot be saved ({_reason(error)}); valid: Keras"
            " layers, or classes with get_config()."
        ) from error


def _join(model, pixels, x, label, logits):
    """Put the layers of `model` behind x in one flat graph; nest the model where that fails."""
    graph = graphs.graph(model)
    flat = graph is not None and _leaves_our_names_free(graph)
    logits = operations.replay(graph, x) if flat else keras.tree.flatten(logits)[0]
    if not (flat and _ends_in_logits(graph)):
        logits = keras.layers.Activation("linear", dtype="float32", name="logits")(logits)
    return keras.Model(pixels, logits, name=label)


def _leaves_our_names_free(graph):
    inputs = keras.layers.InputLayer  # ours takes their place
    taken = {layer.name for layer in graph.layers if not isinstance(layer, inputs)}
    ours = {"pixels", "normalize"} | (set() if _ends_in_logits(graph) else {"logits"})
    return not taken & ours


def _ends_in_logits(graph):
    """Is the last layer called `logits` already, and float32 under a mixed policy too?"""
    return graph.output_names == ["logits"] and graph.outputs[0].dtype == "float32"


def _own(module):
    """Return the names of the functions and classes that are written in `module`."""
    return [
        name
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and inspect.getmodule(value) is module
    ]


def _reason(error):
    text = one_line(error, end="...")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
