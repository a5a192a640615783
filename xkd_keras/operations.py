"""The operations of a Keras graph: from its output back, walked again, nested graphs opened."""

import functools
import inspect
from collections.abc import Callable, Collection, Iterator

import keras

PASSING = {"linear", "cast", "identity", "dropout"}  # leave numbers as they are, or nearly


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


def replay(model: keras.Model, x, call: Callable | None = None):
    """Call the layers of a functional graph again, on x in place of its input; return the output.

    Args:
        model: A functional or Sequential model of one input.
        x: A Keras tensor.
        call: (layer, *args, **kwargs) -> outputs, where a layer is not to be called plainly.
    """
    # Keras' own walk over a graph, as its clone_model uses; it has no public name.
    outputs = graph_of(model)._run_through_graph(x, lambda layer: layer, call_fn=call or _plainly)
    return keras.tree.flatten(outputs)[0]


def has_graph(model) -> bool:
    """Whether a model does what its graph of layers says, and no more: functional or Sequential.

    A subclass with a `call` of its own may do more, even where it has a graph.
    """
    known = isinstance(model, keras.Model) and hasattr(model, "outputs")
    return known and type(model).call.__module__.startswith("keras.")


def graph_of(model: keras.Model) -> keras.Model:
    """Return the graph that holds the layers of a functional or Sequential model."""
    return model._functional if isinstance(model, keras.Sequential) else model


def flat(model: keras.Model, closed: Collection[str] = ()) -> keras.Model:
    """Return a model's graph with the layers of the graphs that are nested in it in their place.

    The layers are the same and compute the same; the model itself stays as it is. A nested model
    remains one layer if it has no graph, or several inputs or outputs.

    Args:
        model: Returned as it is if nothing is nested in it, if it has no graph, or if layers that
            would stand side by side have the same name.
        closed: Names of nested models that are to remain one layer.
    """
    if not has_graph(model) or not any(_opens(layer, closed) for layer in graph_of(model).layers):
        return model
    inputs, call = model.inputs[0], functools.partial(_open, closed)
    try:
        return keras.Model(inputs, replay(model, inputs, call), name=model.name)
    except ValueError:  # two layers of one name, which a graph may not have
        return model


def _open(closed: Collection[str], layer, *args, **kwargs):
    """Call a layer, or the layers of a nested graph instead of it."""
    named = {name: value for name, value in kwargs.items() if value is not None}
    training = named.pop("training", None)
    given = [*args, *named.values()]
    if len(given) != 1 or not _opens(layer, closed):  # of two, one is a mask
        return layer(*args, **kwargs)

    def inner(each, *args, **kwargs):
        if training is not None and _knows_training(each):
            kwargs["training"] = training  # as the nested model is called, so are its layers
        return _open(closed, each, *args, **kwargs)

    (x,), dtype = keras.tree.flatten(given), layer.inputs[0].dtype
    # What a nested model is given becomes what its input is.
    return replay(layer, x if x.dtype == dtype else keras.ops.cast(x, dtype), inner)


def _opens(layer, closed: Collection[str]) -> bool:
    if not has_graph(layer) or layer.name in closed:
        return False
    return len(layer.inputs) == len(layer.outputs) == 1


def _plainly(layer, *args, **kwargs):
    return layer(*args, **kwargs)


def _knows_training(operation) -> bool:
    call = getattr(operation, "call", None)
    return call is not None and "training" in inspect.signature(call).parameters
