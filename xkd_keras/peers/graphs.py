"""Keras' graphs of layers: read, and divided into body and head."""

from __future__ import annotations

import dataclasses
import math

import keras
import numpy as np

from xkd_keras.operations import back, flat, graph_of, has_graph
from xkd_keras.peers import catalogue

_Affine = tuple[np.ndarray, np.ndarray]


def graph(model: keras.Model) -> keras.Model | None:
    """Return `model` as a functional graph; None if only its own code knows its connections."""
    if not has_graph(model):
        return None
    return keras.Model(model.inputs[0], keras.tree.flatten(model.outputs)[0])


def nodes(model: keras.Model) -> list:
    """Return the nodes of a functional graph in the order in which they are computed."""
    depths = sorted(model._nodes_by_depth, reverse=True)
    return [node for depth in depths for node in model._nodes_by_depth[depth]]


def leaves(model: keras.Model) -> list[keras.Layer]:
    """Return the layers with weights, those of nested models too, in the order of the graph."""
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found += leaves(layer)
        elif layer.weights:
            found.append(layer)
    return found


def head(model: keras.Model) -> keras.Layer:
    """Return the last layer with weights: the one that knows the classes."""
    return leaves(model)[-1]


def after(model: keras.Model, leaf: keras.Layer) -> list:
    """Return what follows a layer up to the output, from where paths meet, if they do.

    Of a layer within another model, it is what follows that model.
    """
    found = []
    for operation in back(model):
        nested = isinstance(operation, keras.Model) and leaf in leaves(operation)
        if operation is leaf or nested:
            break
        found.append(operation)
    return found[::-1]


def settle(layer: keras.Layer) -> None:
    """Let a layer compute with the variables that it was given.

    Normalization computes with constants, which it makes of its variables when it is built, adapted
    or loaded, and not when they are assigned.
    """
    if isinstance(layer, keras.layers.Normalization):
        layer.finalize_state()


def normalises_again(peer: keras.Model) -> str:
    """Return the name of the layer by which a peer normalises what `normalize` has; else ""."""
    own = input_scaling(peer)
    if own is None or len(own.layers) > 1:
        return own.layers[1].name if own else ""
    next_ones = _followers(peer, own.layers[0])
    inner = input_scaling(next_ones[0]) if len(next_ones) == 1 else None
    return inner.layers[0].name if inner else ""


@dataclasses.dataclass(frozen=True)
class Scaling:
    """What the first layers of a network make of a pixel: pixel * scale + offset.

    Attributes:
        scale: float64 [channels] or [1].
        offset: float64, likewise.
        layers: Those that do it, which a layer of ours can stand for.
    """

    scale: np.ndarray
    offset: np.ndarray
    layers: tuple[keras.Layer, ...] = ()

    @classmethod
    def of_kind(cls, kind: str) -> Scaling:
        """Return what a name of `catalogue.PIXELS` means."""
        mean, std = (np.array(each) for each in catalogue.PIXELS[kind])
        return cls(1 / std, -mean / std)


def input_scaling(model: keras.Model) -> Scaling | None:
    """Return how a network normalises pixels itself, by its first layers; None if it does not.

    Known are `normalize` of a peer, Rescaling and Normalization, one after the other. Nested models
    are not looked into.
    """
    if not has_graph(model):
        return None
    scale, offset, found = np.ones(1), np.zeros(1), []
    model = graph_of(model)
    after = _followers(model, model.inputs[0]._keras_history.operation)
    while len(after) == 1 and (affine := _affine(after[0])):
        scale, offset = scale * affine[0], offset * affine[0] + affine[1]
        found.append(after[0])
        after = _followers(model, after[0])
    return Scaling(scale, offset, tuple(found)) if found else None


def reader(model: keras.Model, after=None) -> keras.layers.Conv2D | None:
    """Return the one plain convolution that reads a network's pixels; None if another layer does.

    Between them may be layers of Keras without weights, to which all channels are alike.

    Args:
        model: A graph; those nested in it are looked into.
        after: The layer that gives the pixels; None: the input.
    """
    if not has_graph(model):
        return None
    model = graph_of(flat(model))
    after = _followers(model, after or model.inputs[0]._keras_history.operation)
    while len(after) == 1 and _treats_channels_alike(after[0]):
        after = _followers(model, after[0])
    plain = len(after) == 1 and type(after[0]) is keras.layers.Conv2D and after[0].groups == 1
    return after[0] if plain else None


def _treats_channels_alike(operation) -> bool:
    if not isinstance(operation, keras.layers.Layer) or operation.weights or _affine(operation):
        return False
    known = type(operation).__module__.startswith("keras.")
    return known and not isinstance(operation, keras.layers.Lambda | keras.layers.Permute)


def _followers(model, operation) -> list:
    """Return what uses an operation's output, within a graph."""
    return [
        node.operation
        for nodes in model._nodes_by_depth.values()
        for node in nodes
        if any(t._keras_history.operation is operation for t in node.input_tensors)
    ]


def _affine(layer) -> _Affine | None:
    """Return scale and offset of a layer that does nothing else, per channel."""
    if isinstance(layer, keras.layers.Rescaling):
        return np.array(layer.scale, "float64"), np.array(layer.offset, "float64")
    if isinstance(layer, keras.layers.Normalization) and not layer.invert:
        mean, variance = map(_array, (layer.mean, layer.variance))
        if math.prod(mean.shape[:-1]) != 1:
            return None  # of places in the picture, too
        mean, variance = mean.reshape(-1), variance.reshape(-1)
        std = np.maximum(np.sqrt(variance), keras.config.epsilon())
        return 1 / std, -mean / std
    plain = isinstance(layer, keras.layers.DepthwiseConv2D) and layer.name == "normalize"
    if plain and layer.kernel.shape[:2] == (1, 1) and layer.use_bias:
        return _array(layer.kernel).reshape(-1), _array(layer.bias)
    return None


def _array(tensor) -> np.ndarray:
    return keras.ops.convert_to_numpy(tensor).astype("float64")
