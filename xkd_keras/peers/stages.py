"""Where a network can be cut: where its stages end, and what to keep of a step."""

from __future__ import annotations

import collections
import math
from collections.abc import Collection, Iterator

import keras

from xkd_keras import operations
from xkd_keras.peers import graphs

_FALLS = 0.75  # at this part of a stage's height a new one begins
_PADS = keras.layers.ZeroPadding2D
_POOLS = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)


def ends(model: keras.Model) -> list[str]:
    """Return the name of the layer that ends each stage but the final one, from the input on.

    A stage is a stretch of the graph of one resolution in which there are weights. Its end is the
    last layer whose output, float [B, H, W, C], everything goes through that comes later; so it is
    never within a branch. A layer that is called several times ends none, as its name would not say
    which call; an operator such as `x + y` may end one.

    Args:
        model: A peer: functional, images to logits; graphs nested in it are opened. One without a
            graph of layers has no stages.
    """
    graph, scaling = _opened(model), graphs.input_scaling(model)
    stages = []
    for tensor, weighs in necks(graph, scaling.layers if scaling else ()) if graph else ():
        if len(tensor.shape) != 4 or isinstance(tensor._keras_history.operation, _POOLS):
            break
        if not stages or tensor.shape[1] <= _FALLS * stages[-1][0].shape[1]:
            stages.append([tensor, weighs])
        else:
            stages[-1] = [tensor, stages[-1][1] or weighs]
    return [tensor._keras_history.operation.name for tensor, learns in stages if learns][:-1]


def cuts(model: keras.Model) -> list[str]:
    """Return the layers whose outputs to keep, so that a step needs the least memory otherwise.

    That is estimated as the size of what is kept and of the largest stretch between two of them, in
    which everything is computed again (`distillation.recompute`).

    Args:
        model: A peer; of one without a graph of layers none are returned.
    """
    graph = _opened(model)
    if graph is None:
        return []
    nodes, through = graphs.nodes(graph), {id(tensor) for tensor, _ in necks(graph)}
    sizes = [sum(map(_size, node.output_tensors)) for node in nodes]
    best, least = [], sum(sizes)
    for parts in range(2, len(through) + 1):
        kept, stretch, largest = [], 0, 0
        for node, size in zip(nodes, sizes, strict=True):
            stretch += size
            largest = max(largest, stretch)
            if stretch >= sum(sizes) / parts and id(node.output_tensors[0]) in through:
                kept.append(node)
                stretch = 0
        memory = largest + sum(_size(node.output_tensors[0]) for node in kept)
        if memory < least:
            best, least = kept, memory
    return [node.operation.name for node in best if node.output_tensors[0] is not graph.outputs[0]]


def _opened(model: keras.Model) -> keras.Model | None:
    graph = graphs.graph(model)
    return None if graph is None else operations.flat(graph)


def _size(tensor: keras.KerasTensor) -> int:
    return math.prod(side or 1 for side in tensor.shape[1:])


def necks(
    graph: keras.Model, pixels: Collection[keras.Layer] = ()
) -> Iterator[tuple[keras.KerasTensor, bool]]:
    """Yield each tensor through which all paths go, and whether there are weights since the last.

    In the order in which they are computed. Weights of the layers `pixels` do not count, nor do
    outputs of layers that are called several times.
    """
    nodes = graphs.nodes(graph)
    last_use = {id(t): place for place, node in enumerate(nodes) for t in node.input_tensors}
    uses = collections.Counter(node.operation.name for node in nodes)
    open_until, weighs = 0, False
    for place, node in enumerate(nodes):
        layer = node.operation
        own = isinstance(layer, keras.Layer) and bool(layer.weights)
        weighs |= own and not any(layer is each for each in pixels)
        alone = len(node.output_tensors) == 1 and uses[layer.name] == 1
        # Nothing that was computed before is used after this node, other than by way of its output.
        if open_until <= place and alone and not isinstance(layer, _PADS):
            yield node.output_tensors[0], weighs
            weighs = False
        open_until = max([open_until, *(last_use.get(id(t), place) for t in node.output_tensors)])
