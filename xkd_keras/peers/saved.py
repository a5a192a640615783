"""A saved Keras model as a peer: `file:PATH`. It sees the pixels that it was trained on, once."""

import itertools
import warnings
import zipfile

import keras

from xkd_keras import operations
from xkd_keras.errors import InputError, first_line, one_line
from xkd_keras.peers import catalogue, graphs, layers

_PROBABILITIES = ("softmax", "sigmoid")
_ENDINGS = {*_PROBABILITIES, *operations.PASSING, "flatten"}


def load(path: str, argument: str) -> keras.Model:
    """Return the model of a file that Keras has written.

    Args:
        path: Of a `.keras` file, or an `.h5` file of a whole model.
        argument: What an error is about.

    Raises:
        InputError: There is no such file, or Keras cannot read it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        reason = first_line(error)[:200].rstrip(":. ")
        if str(path).endswith(".keras") and not zipfile.is_zipfile(path):
            reason = "it is not a zip archive"  # of which Keras says that there is no file
        raise InputError(
            f"'{path}' cannot be read as a Keras model ({reason}); valid: a .keras or .h5 file that"
            " Keras saved.",
            argument=argument,
        ) from None


def scaling_of(model: keras.Model, path: str, kind: str) -> graphs.Scaling:
    """Return what the weights of a saved model expect of pixels: by its layers, or as was said.

    Args:
        model: As loaded.
        path: Where it was.
        kind: A name of `catalogue.PIXELS`, or empty.

    Raises:
        InputError: It normalises pixels itself and something was said, or neither.
    """
    own = graphs.input_scaling(model)
    if own and kind:
        raise InputError(
            f"received '{kind}', but '{path}' normalises pixels itself; valid: leave pixels out.",
            argument="pixels",
        )
    if not own and not kind:
        raise InputError(
            f"missing. '{path}' does not begin with Rescaling, Normalization of channels or"
            " `normalize`, so say which pixels it was trained on; valid:"
            f" {', '.join(catalogue.PIXELS)}.",
            argument="pixels",
        )
    return own or graphs.Scaling.of_kind(kind)


def build(path, pixels, num_classes, label, kind, new_head) -> keras.Model:
    """Return the model of a file as a peer: plain pixels to logits, in one graph.

    Its own normalisation becomes `normalize`; a softmax at its end is left out; with other classes
    its last layer gives way to a new one. All layers learn, also those that were frozen.

    Args:
        path: Of the file.
        pixels: The input tensor, float32 [batch, height, width, channels].
        num_classes: Number of logits.
        label: Name of the result.
        kind: What pixels it expects, a name of `catalogue.PIXELS`; empty where it says so itself.
        new_head: Whether its classes are others, even if as many.

    Raises:
        InputError: The file cannot be read, is no graph of images to classes, is for other images,
            or does not say what pixels it expects.
    """
    model = _graph(load(path, "peer"))
    shapes = () if model is None else (len(model.input_shape), len(model.output_shape))
    if shapes != (4, 2) or not graphs.leaves(model):
        raise InputError(
            f"'{path}' is not a graph from images to classes; valid: a functional or Sequential"
            " model from [batch, height, width, channels] to [batch, classes].",
            argument="peer",
        )
    for layer in (*model.layers, *graphs.leaves(model)):
        layer.trainable = True  # as with `start`: how long a body waits, `freeze` says
    scaling, head = scaling_of(model, path, kind), graphs.head(model)
    if kind == "bgr":
        turn(model, path)
    new_head = new_head or model.output_shape[-1] != num_classes
    dense = isinstance(head, keras.layers.Dense) and head in model.layers
    if new_head and head not in model.layers:
        raise InputError(
            f"'{path}' has its last layer, '{head.name}', inside another model; valid: one that"
            " ends in a Dense layer of its own, which can be replaced.",
            argument="peer",
        )
    _leave_names(model, scaling, head)
    x = layers.affine(pixels, scaling.scale, scaling.offset)
    try:
        left_out = {id(layer) for layer in scaling.layers} | _probabilities(path, model, head)
        if new_head or dense:
            left_out.add(id(head))
        logits = operations.replay(model, x, _caller(left_out))
        return _finished(pixels, logits, head, dense, num_classes, new_head, label)
    except InputError:
        raise
    except ValueError as error:
        made, given = (
            "x".join(map(str, shape)) for shape in (model.input_shape[1:], pixels.shape[1:])
        )
        raise InputError(
            f"'{path}' is for images of {made} and cannot take {given}"
            f" ({one_line(error, 120)}); valid: images of the size it was made for.",
            argument="peer",
        ) from None


def _graph(model: keras.Model) -> keras.Model | None:
    """Return the graph of a model with one input and one output, opened; None of any other."""
    ends = (getattr(model, name, None) for name in ("inputs", "outputs"))
    whole = all(len(keras.tree.flatten(end)) == 1 for end in ends) and graphs.graph(model)
    return operations.flat(whole) if whole else None


def _probabilities(path: str, model: keras.Model, head: keras.Layer) -> set[int]:
    """Return the ids of what makes probabilities of the logits.

    Raises:
        InputError: The head is a Dense layer, which is to come last, and something else follows it.
    """
    tail = graphs.after(model, head)
    ending = list(itertools.takewhile(lambda each: operations.does(each) in _ENDINGS, tail[::-1]))
    found = {id(each) for each in ending if operations.does(each) in _PROBABILITIES}
    others = tail[: len(tail) - len(ending)]
    if isinstance(head, keras.layers.Dense) and head in model.layers and others:
        raise InputError(
            f"'{path}': its last layer with weights, '{head.name}', is followed by"
            f" '{others[0].name}'; valid: a model that ends in that layer, or in a softmax of it.",
            argument="peer",
        )
    return found


def turn(model: keras.Model, path: str, after: keras.Layer | None = None) -> None:
    """Let a network of blue, green, red take red, green, blue: its first kernel, reversed.

    Args:
        model: The network.
        path: What its weights are of.
        after: The layer that gives the pixels; None: its input.

    Raises:
        InputError: It has no such kernel, or more than one.
    """
    leaf = graphs.reader(model, after)
    if leaf is None:
        raise InputError(
            f"received 'bgr', but in '{path}' no single Conv2D reads the pixels, whose channels"
            " could be reversed; valid: a model that begins with one, or that reverses the channels"
            f" itself, and another of {', '.join(catalogue.PIXELS)}.",
            argument="pixels",
        )
    kernel, *rest = leaf.get_weights()
    leaf.set_weights([kernel[:, :, ::-1], *rest])


def _caller(left_out: set[int]):
    """Return how the layers are called, but for those whose ids are left out."""
    twins: dict[int, keras.Layer] = {}

    def call(layer, *args, **kwargs):
        if id(layer) in left_out:
            return args[0]
        if not _to_be_cast(layer):
            return layer(*args, **kwargs)
        policy = keras.config.dtype_policy().name
        if id(layer) not in twins:
            twins[id(layer)] = type(layer).from_config({**layer.get_config(), "dtype": policy})
        outputs = twins[id(layer)](*args, **kwargs)
        twins[id(layer)].set_weights(layer.get_weights())
        graphs.settle(twins[id(layer)])
        return outputs

    return call


def _to_be_cast(layer) -> bool:
    """Whether a layer is float32 and Keras' policy a mixed one: a saved network of ours is."""
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.Model):
        return False
    mixed = keras.config.dtype_policy().name != "float32"
    return mixed and layer.dtype_policy.name == "float32" and type(layer) is not keras.layers.Lambda


def _leave_names(model, scaling: graphs.Scaling, head) -> None:
    """Rename what has a name of ours and is not what we mean by it."""
    for layer in model.layers:
        mine = layer in scaling.layers or layer is head
        if layer.name in ("pixels", "normalize", "logits") and not mine:
            layer.name = f"own_{layer.name}"


def _finished(pixels, logits, head, dense, num_classes, new_head, label) -> keras.Model:
    """Put the last layer behind what is before it."""
    if new_head and len(logits.shape) != 2:
        raise InputError(
            f"'{head.name}' follows features of shape {tuple(logits.shape)}; valid: a model that"
            " pools or flattens before its last layer.",
            argument="peer",
        )
    if new_head:
        return keras.Model(pixels, layers.logits(logits, num_classes), name=label)
    if dense:
        last = keras.layers.Dense(
            num_classes, use_bias=head.use_bias, dtype="float32", name="logits"
        )
        peer = keras.Model(pixels, last(logits), name=label)
        last.set_weights(head.get_weights())
        return peer
    logits = keras.layers.Activation("linear", dtype="float32", name="logits")(logits)
    return keras.Model(pixels, logits, name=label)
