"""A Keras 3 network rebuilt in tf_keras: same names, same weights, same logits."""

import keras
import numpy as np
import tf_keras

from xkd_keras.compression import lowering, making
from xkd_keras.errors import InputError
from xkd_keras.operations import graph_of, has_graph
from xkd_keras.ship import quality

TOLERANCE = 1e-4


def twin(model: keras.Model) -> tf_keras.Model:
    """Return the tf_keras twin of a functional model; models nested in it are laid flat.

    Args:
        model: Of stock layers, images [B, H, W, C] -> logits [B, classes].

    Raises:
        InputError: A layer has no counterpart in tf_keras, or the logits differ.
    """
    pixels = tf_keras.Input(model.input_shape[1:], name="pixels", dtype="float32")
    makers: dict[int, making.Maker] = {}
    seen: list[tuple] = []
    copied = tf_keras.Model(pixels, _graph(model, pixels, makers, seen, ""), name=model.name)
    for maker in makers.values():
        maker.fill()
    _check(model, copied, seen)
    return copied


def _graph(model, inputs, makers: dict, seen: list, prefix: str):
    """Apply what the layers of a model become, in the order of its graph."""
    if not has_graph(model):  # a `call` of its own may do more
        raise making.cannot(
            model.name, type(model).__name__, "is not a graph of layers", "functional models"
        )

    def operation(layer):
        if isinstance(layer, keras.Model):
            return lambda x, **_: _graph(layer, x, makers, seen, f"{prefix}{layer.name}_")
        maker = makers.setdefault(id(layer), making.Maker(layer, prefix))

        def call(*args, **kwargs):
            outputs = lowering.lowered(maker, *args, **kwargs)
            seen.append((layer, outputs))
            return outputs

        return call

    # Keras' own walk over a graph, as its clone_model uses; it has no public name.
    return graph_of(model)._run_through_graph(inputs, operation)


def _check(model, copied, seen: list) -> None:
    """Compare logits before anything else is done."""
    images = np.float32(np.random.RandomState(0).randint(0, 256, (8, *model.input_shape[1:])))
    apart = _difference(model(images, training=False), copied(images, training=False))
    if apart <= TOLERANCE:
        return
    known = {id(layer) for layer in model.layers if len(layer._inbound_nodes) == 1}
    pairs = [pair for pair in seen if id(pair[0]) in known]
    theirs = keras.Model(model.input, [layer.output for layer, _ in pairs])(images, training=False)
    ours = tf_keras.Model(copied.input, [x for _, x in pairs])(images, training=False)
    for (layer, _), one, two in zip(pairs, theirs, ours, strict=True):
        if not _difference(one, two) <= TOLERANCE:
            apart = _difference(one, two)
            raise making.cannot(
                layer.name,
                type(layer).__name__,
                f"gives other numbers in tf_keras, which tfmot needs: {apart:.2g} apart",
                making.LISTED,
            )
    raise InputError(
        f"the tf_keras twin of '{model.name}' differs by {apart:.2g} in its logits.",
        argument="recipe",
    )


def _difference(theirs, ours) -> float:
    return quality.largest_difference(np.asarray(ours), reference=np.asarray(theirs))
