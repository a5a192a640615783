"""The operations of a Keras graph: from its output back, walked again, nested graphs opened."""

import inspect
from collections.abc import Callable, Iterator

import keras


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
    outputs = _graph(model)._run_through_graph(x, lambda layer: layer, call_fn=call or _plainly)
    return keras.tree.flatten(outputs)[0]


def flat(model: keras.Model) -> keras.Model:
    """Return a model's graph with the layers of the graphs that are nested in it in their place.

    The layers are the same and compute the same; the model itself stays as it is. A nested model
    that is more than a graph of one input and one output (its class has a `call` of its own)
    remains one layer. A model without a graph, or with nothing nested, is returned as it is.
    """
    if not hasattr(model, "outputs") or not any(map(_is_graph, _graph(model).layers)):
        return model
    inputs = model.inputs[0]
    return keras.Model(inputs, replay(model, inputs, _open), name=model.name)


def _open(layer, *args, **kwargs):
    """Call a layer, or the layers of a nested graph instead of it."""
    given = {name for name, value in kwargs.items() if value is not None}
    if len(args) != 1 or given - {"training"} or not _is_graph(layer):  # given a mask, say
        return layer(*args, **kwargs)
    (x,), training = keras.tree.flatten(args), kwargs.get("training")

    def inner(each, *args, **kwargs):
        if training is not None and _knows_training(each):
            kwargs["training"] = training  # as the nested model is called, so are its layers
        return _open(each, *args, **kwargs)

    dtype = layer.inputs[0].dtype  # what a nested model is given becomes what its input is
    return replay(layer, x if x.dtype == dtype else keras.ops.cast(x, dtype), inner)


def _plainly(layer, *args, **kwargs):
    return layer(*args, **kwargs)


def _graph(model: keras.Model):
    return model._functional if isinstance(model, keras.Sequential) else model


def _is_graph(layer) -> bool:
    """Whether a layer is a model that does no more than its graph, of one input and one output."""
    ends = [getattr(layer, name, None) or () for name in ("inputs", "outputs")]
    if not isinstance(layer, keras.Model) or [len(each) for each in ends] != [1, 1]:
        return False
    return type(layer).call.__module__.startswith("keras.")  # of keras.Model or Sequential


def _knows_training(operation) -> bool:
    call = getattr(operation, "call", None)
    return call is not None and "training" in inspect.signature(call).parameters
