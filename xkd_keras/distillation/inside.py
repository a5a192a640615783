"""The tensors inside a functional network, by its own graph.

A layer may have been called in other graphs before (`layer.output` is of the first call), and an
operator such as `x + y` is a node of the graph without being among a model's layers.
"""

import keras


def node(tensor: keras.KerasTensor):
    """Return Keras' node that made a tensor; it has operation, input_tensors, output_tensors."""
    operation, place, _ = tensor._keras_history
    return operation._inbound_nodes[place]


def between(start: keras.KerasTensor, end: keras.KerasTensor) -> list | None:
    """Return the nodes that make `end` of `start`; None where something goes past `start`."""
    nodes, ahead = {}, [end]
    while ahead:
        tensor = ahead.pop()
        made = node(tensor)
        if tensor is start or id(made) in nodes:
            continue
        if not made.input_tensors:
            return None
        nodes[id(made)] = made
        ahead += made.input_tensors
    return list(nodes.values())


def calls(model: keras.Model) -> dict[str, list]:
    """Return the nodes of a functional model's graph by their operation's name, inputs first.

    A list of several is of a layer that the model calls several times.
    """
    nodes, ahead = {}, list(model.outputs)
    while ahead:
        made = node(ahead.pop())
        if id(made) not in nodes:
            nodes[id(made)] = made
            ahead += made.input_tensors
    by_name = {}
    for made in reversed(nodes.values()):
        by_name.setdefault(made.operation.name, []).append(made)
    return by_name
