"""The networks that learn together: one family a file, one entry a name.

`build` returns a functional model of stock Keras layers, from plain pixels to logits. `fused`
returns its twin with a faster batch normalisation, for training; `stock` goes back, for saving.
"""

from __future__ import annotations

import importlib
import math
import pathlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from xkd_keras.errors import InputError
from xkd_keras.peers.catalogue import (
    APPLICATIONS,
    BUILDERS,
    EXPECTED,
    FILE,
    FINE_TUNED,
    OTHERWISE,
    PIXELS,
    SUFFIXES,
    SUITS,
)

if TYPE_CHECKING:  # importing Keras takes seconds; a wrong flag should not
    import keras

MIDDLE = 127.5  # pixels 0..255 become -1..1 where nothing is known of the images
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def names() -> list[str]:
    """Return every short name that `build` knows.

    Besides these it takes `applications:NAME`, `file:PATH` and `your_module:build_fn`.
    """
    return list(BUILDERS)


def is_own(name: str) -> bool:
    """Whether a name is `module:function`, whose module may register classes with Keras."""
    return ":" in name and not name.startswith((APPLICATIONS, FILE))


def starts(name: str, start: str) -> bool:
    """Whether a peer of this name begins with trained weights."""
    return bool(start) or name.startswith(FILE)


def suits(name: str, start: str = "", optimizer: str | None = None) -> dict[str, Any]:
    """Return the learning options of a network that are not those of most, by the names of flags.

    Where it starts from trained weights, its learning rate is a tenth of its own.

    Args:
        name: As for `build`.
        start: Likewise.
        optimizer: `sgd` or `adamw`; None: the network's own.
    """
    own = dict(SUITS.get(name, {}))
    if optimizer not in (None, own.get("optimizer", "sgd")):
        own = dict(OTHERWISE[optimizer])
    if starts(name, start):
        own["learning_rate"] = round(FINE_TUNED * own.get("learning_rate", 0.1), 9)
    return own


def check(name: str, start: str = "", pixels: str = "") -> None:
    """Raise InputError for what can be seen to be wrong before anything is built.

    Imports the user's module, looking in the current directory first; opens no file.

    Args:
        name: As for `build`.
        start: Likewise.
        pixels: Likewise.
    """
    if name.startswith(APPLICATIONS):
        if name.removeprefix(APPLICATIONS) not in EXPECTED:
            raise InputError.unknown("peer", name, [f"{APPLICATIONS}{each}" for each in EXPECTED])
    elif name.startswith(FILE):
        _check_file("peer", name.removeprefix(FILE))
    elif name not in BUILDERS:
        if ":" not in name:
            others = [f"{APPLICATIONS}NAME", f"{FILE}PATH", "your_module:build_fn"]
            raise InputError.unknown("peer", name, [*names(), *others])
        from xkd_keras.peers import user

        user.find(name)
    if start:
        _check_start(name, start)
    if pixels and pixels not in PIXELS:
        raise InputError.unknown("pixels", pixels, PIXELS)
    if pixels and not starts(name, start):
        raise InputError("needs start=... or file:PATH.", argument="pixels")


def _check_start(name: str, start: str) -> None:
    if name.startswith(FILE):
        raise InputError(
            "file:PATH already has trained weights; valid: leave start out.", argument="start"
        )
    if start != "imagenet":
        _check_file("start", start)
    elif not name.startswith(APPLICATIONS):
        near = [
            each for each in EXPECTED if each.lower() == name.partition("_")[2].replace("_", "")
        ]
        raise InputError(
            f"'imagenet' works for networks of keras.applications only, and '{name}' is none of"
            f" them; valid: {APPLICATIONS}{(near or ['NAME'])[0]}, or a file.",
            argument="start",
        )


def _check_file(argument: str, path: str) -> None:
    if not path.endswith(SUFFIXES):
        raise InputError(
            f"received '{path}'; valid: a file ending in {' or '.join(SUFFIXES)}.",
            argument=argument,
        )
    if not pathlib.Path(path).is_file():
        raise InputError(
            f"there is no file '{path}'; valid: a file saved by Keras.", argument=argument
        )


def build(
    name: str,
    image_shape: Sequence[int],
    num_classes: int,
    *,
    label: str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    seed: int | None = None,
    start: str = "",
    pixels: str = "",
    new_head: bool = False,
) -> keras.Model:
    """Build a peer, untrained unless it is `file:PATH` or starts from weights.

    Args:
        name: One of `names()`; `applications:NAME`, a classifier of keras.applications;
            `file:PATH`, a saved Keras model; or `module:function` of the user's own. The function
            is called with the image shape and the number of classes, and returns a Keras model
            from normalised images to logits.
        image_shape: (height, width, channels).
        num_classes: Number of logits, at least two.
        label: Name of the model; by default `name` (with "." for ":").
        mean: Mean of the pixels, for each channel or for all, 0..255; by default 127.5. Trained
            weights bring their own.
        std: Standard deviation of the pixels, likewise; by default 127.5.
        seed: Makes weights and dropout a function of (seed, label), whatever was built before. A
            user's function takes part as far as it draws from `random`, `numpy.random` or layers
            without a seed of their own.
        start: Trained weights to start from: `imagenet` (networks of keras.applications, by Keras'
            own download), or the path of a `.keras` or `.weights.h5` file of the same network.
        pixels: What pixels these weights expect, one of `catalogue.PIXELS`, where neither the file
            nor the network says so.
        new_head: Whether the last layer is to be new although the file has as many classes; with
            another number it is.

    Returns:
        A functional model: float32 pixels [batch, height, width, channels], 0..255, to float32
        logits [batch, num_classes]. Its first layer is `normalize`, its last `logits`.

    Raises:
        InputError: The name is unknown, an argument cannot be used, the images do not suit the
            network, the user's function does not return a model of `num_classes` logits, or the
            weights are not of this network.
    """
    check(name, start, pixels)
    label = _check_label(label_of(name) if label is None else label)
    image_shape = _check_image_shape(image_shape)
    if not _is_int(num_classes) or num_classes < 2:
        raise InputError(
            f"num_classes: received {num_classes!r}; valid: a whole number, 2 or more."
        )
    mean = _per_channel("mean", MIDDLE if mean is None else mean, image_shape[-1], -math.inf)
    std = _per_channel("std", MIDDLE if std is None else std, image_shape[-1], 0.0)

    import keras

    from xkd_keras.peers import layers, saved, starting, user
    from xkd_keras.peers.seeding import seeded

    with seeded(seed, label):
        image = keras.Input(image_shape, name="pixels", dtype="float32")
        if name.startswith(FILE):
            path = name.removeprefix(FILE)
            return saved.build(path, image, num_classes, label, pixels, new_head)
        x = layers.normalize(image, mean, std)
        if is_own(name):
            peer = user.build(name, image, x, num_classes, label)
        else:
            peer = keras.Model(image, _logits(name, x, num_classes), name=label)
        if start:
            starting.begin(peer, name, start, pixels, new_head)
        return peer


def leaves(model: keras.Model) -> list[keras.Layer]:
    """Return a peer's layers with weights, those of nested models too, in the graph's order."""
    from xkd_keras.peers import graphs

    return graphs.leaves(model)


def head(model: keras.Model) -> keras.Layer:
    """Return the last layer of a peer that has weights: the one that knows the classes."""
    from xkd_keras.peers import graphs

    return graphs.head(model)


def fused(model: keras.Model, synchronized: bool = False) -> keras.Model:
    """Return `model` with FusedBatchNormalization for every stock BatchNormalization.

    `synchronized`: over replicas, each layer normalises by the whole batch, not by its part.

    A functional model (nested ones included) is cloned: same weights, names, trainable flags,
    dropout seeds and order of variables; the original is left alone. A model without stock batch
    norm, or one that Keras cannot clone (subclassed), is returned as it is.
    """
    from xkd_keras.peers import batch_norm

    return batch_norm.fused(model, synchronized)


def stock(model: keras.Model) -> keras.Model:
    """Return `model` with stock layers for every FusedBatchNormalization: what `fused` did, undone.

    The result, saved, loads with plain `keras.models.load_model`, without this package.
    """
    from xkd_keras.peers import batch_norm

    return batch_norm.stock(model)


def label_of(name: str) -> str:
    """Return how a peer is called that was given no label."""
    if name.startswith(FILE):
        return pathlib.Path(name.removeprefix(FILE)).name.partition(".")[0]
    return name.replace(":", ".")


def _logits(name, x, num_classes):
    if name.startswith(APPLICATIONS):
        from xkd_keras.peers import applications

        return applications.build(name.removeprefix(APPLICATIONS), x, num_classes)
    family = importlib.import_module(f"xkd_keras.peers.{BUILDERS[name]}")
    side = min(x.shape[1:3])
    if side < family.MIN_SIDE:
        raise InputError(
            f"{x.shape[1]}x{x.shape[2]} is too small for peer '{name}', "
            f"which needs at least {family.MIN_SIDE}x{family.MIN_SIDE}.",
            argument="image_shape",
        )
    return family.build(name, x, num_classes)


def _check_label(label):
    if not isinstance(label, str) or not LABEL.fullmatch(label):
        raise InputError(
            f"label: received {label!r}; valid, as it names files and layers: letters, digits,"
            " '_', '.' and '-', starting with a letter or digit."
        )
    return label


def _check_image_shape(shape):
    try:
        height, width, channels = shape
        valid = all(_is_int(n) and n > 0 for n in (height, width, channels))
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise InputError(f"image_shape: received {shape!r}; valid: (height, width, channels).")
    return (int(height), int(width), int(channels))


def _is_int(value):
    return hasattr(value, "__index__") and not isinstance(value, bool)  # NumPy's integers too


def _per_channel(argument, value, channels, above):
    """Return `value` as a list of `channels` finite floats greater than `above`."""
    try:
        values = (
            [float(v) for v in value] if hasattr(value, "__len__") else [float(value)] * channels
        )
    except (TypeError, ValueError):
        values = []
    if len(values) != channels or not all(math.isfinite(v) and v > above for v in values):
        bound = " above 0" if above == 0.0 else ""
        raise InputError(
            f"{argument}: received {value!r}; valid: one number{bound}, or {channels} (one per"
            " channel), in units of pixels."
        )
    return values
