"""The operations of a Keras graph, from its output back, and what one of them does by its name."""

from collections.abc import Iterator


def back(model) -> Iterator:
    """Give a model's operations from its first output back, up to where paths meet."""
    tensors = list(getattr(model, "outputs", None) or ())[:1]
    while len(tensors) == 1:
        operation, node, _ = tensors[0]._keras_history
        yield operation
        tensors = operation._inbound_nodes[node].input_tensors


def does(operation) -> str:
    """Return what an operation, or the activation of a layer, does: "softmax", "relu", "cast"."""
    activation = getattr(operation, "activation", None)
    name = getattr(activation, "__name__", "") or type(operation).__name__
    return name.lower().replace("_", "")
