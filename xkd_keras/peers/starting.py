"""A peer that starts from trained weights: its body's, and what they expect of pixels."""

import dataclasses
import warnings

import keras
import numpy as np

from xkd_keras.errors import InputError, one_line
from xkd_keras.peers import applications, catalogue, graphs, is_own, layers, saved, user

IMAGENET = "imagenet"
WEIGHTS = ".weights.h5"


@dataclasses.dataclass(frozen=True)
class Known:
    """Trained weights.

    Attributes:
        scaling: What they expect of pixels.
        body: The arrays of each layer with weights, in the order of the graph; none for one that
            has none there.
        turned: Whether they expect blue, green, red.
    """

    scaling: graphs.Scaling
    body: list[list[np.ndarray]]
    turned: bool = False


def begin(peer: keras.Model, name: str, start: str, kind: str, new_head: bool) -> None:
    """Give a peer, just built, the weights that it starts from.

    Its last layer stays new where it has another number of classes there, or `new_head` says so.

    Args:
        peer: As `peers.build` makes it.
        name: What it was built from.
        start: `imagenet`, or the path of a `.keras`, `.h5` or `.weights.h5` file.
        kind: What pixels the weights expect, a name of `catalogue.PIXELS`; empty where it is known.
        new_head: Whether the classes are others, even if as many.

    Raises:
        InputError: There are no such weights, they are another network's, or nothing says what
            pixels they expect.
    """
    known = _known(peer, name, start, kind)
    normalize, *own = graphs.leaves(peer)
    if len(known.body) != len(own):
        raise InputError(
            f"'{start}' has {len(known.body)} layers with weights, and {name} has {len(own)};"
            f" valid: weights of {name}.",
            argument="start",
        )
    *body, head = zip(own, known.body, strict=True)
    for leaf, arrays in body:
        if [each.shape for each in arrays] != [tuple(each.shape) for each in leaf.weights]:
            raise _other(start, name, leaf, arrays)
    for leaf, arrays in body:
        leaf.set_weights(arrays)
        graphs.settle(leaf)
    if known.turned:
        saved.turn(peer, start, normalize)
    leaf, arrays = head
    sizes = [(each.size, each.shape[-1]) for each in arrays]
    if not new_head and sizes == [(int(np.prod(w.shape)), w.shape[-1]) for w in leaf.weights]:
        # (MobileNetV3 has a convolution of 1x1 there.)
        leaf.set_weights([a.reshape(w.shape) for a, w in zip(arrays, leaf.weights, strict=True)])
    layers.set_affine(normalize, known.scaling.scale, known.scaling.offset)


def _other(start, name, leaf, arrays) -> InputError:
    there = " and ".join(str(each.shape) for each in arrays) or "no weights"
    here = " and ".join(str(tuple(each.shape)) for each in leaf.weights)
    return InputError(
        f"'{start}' has {there} where '{leaf.name}' of {name} has {here}; valid: weights of"
        f" {name}, for the same image size if it flattens its features.",
        argument="start",
    )


def _known(peer, name: str, start: str, kind: str) -> Known:
    application = _application(name)
    if start == IMAGENET:
        model = applications.trained(application)
    elif start.endswith(WEIGHTS):
        known = _weights_of(peer, start)
        if known is not None:
            return known
        model = _filled(name, peer, start)
        if model is None:
            raise InputError(
                f"'{start}' does not fit {name}; valid: weights that Keras saved from this"
                " network.",
                argument="start",
            )
    else:
        model = saved.load(start, "start")
    own = graphs.input_scaling(model)
    if not kind and not own and application:
        kind = catalogue.EXPECTED[application]
    scaling = saved.scaling_of(model, start, kind)
    body = [leaf for leaf in graphs.leaves(model) if leaf not in scaling.layers]
    return Known(scaling, [_arrays(leaf) for leaf in body], not own and kind == "bgr")


def _application(name: str) -> str:
    """Return what keras.applications calls a network; empty: it is none of its."""
    prefix = catalogue.APPLICATIONS
    return name.removeprefix(prefix) if name.startswith(prefix) else ""


def _arrays(leaf) -> list[np.ndarray]:
    """Return a layer's weights; none where some were not there."""
    arrays = leaf.get_weights()
    return [] if any(np.isnan(each).any() for each in arrays) else arrays


def _weights_of(peer: keras.Model, path: str) -> Known | None:
    """Return what a file of a peer's own weights holds; None if it is not of this peer."""
    first = peer.get_weights()
    try:
        missing = _fill(peer, path)
        if missing and missing != [graphs.head(peer)]:
            return None
        return Known(
            graphs.input_scaling(peer), [_arrays(leaf) for leaf in graphs.leaves(peer)[1:]]
        )
    finally:
        peer.set_weights(first)


def _filled(name: str, peer: keras.Model, path: str) -> keras.Model | None:
    """Return a network that is not ours with the weights that Keras saved of it, if it did."""
    shape, classes = peer.input_shape[1:], peer.output_shape[-1]
    if application := _application(name):
        model = applications.classifier(application, shape, classes)
    elif is_own(name):
        model = user.alone(name, shape, classes)
    else:
        return None
    missing = _fill(model, path)
    return None if missing and missing != [graphs.head(model)] else model


def _fill(model: keras.Model, path: str) -> list[keras.Layer]:
    """Load weights as far as they fit; return the layers that have none, which are NaN then."""
    leaves = graphs.leaves(model)
    for leaf in leaves:  # but for counters, which cannot say that they are missing
        floats = (each for each in leaf.weights if "float" in each.dtype)
        for each in floats:
            each.assign(np.full(each.shape, np.nan))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.load_weights(path, skip_mismatch=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"'{path}' cannot be read ({one_line(error)}); valid: a file"
            " written by model.save_weights.",
            argument="start",
        ) from None
    return [leaf for leaf in leaves if not _arrays(leaf)]
