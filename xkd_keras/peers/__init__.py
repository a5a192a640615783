"""The networks that learn together: one family a file, one entry a name.

`build` returns a functional model of stock Keras layers, from plain pixels to logits. `fused`
returns its twin with a faster batch normalisation, for training; `stock` goes back, for saving.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from xkd_keras.errors import InputError

if TYPE_CHECKING:  # importing Keras takes seconds; a wrong flag should not
    import keras

# File of the family -> the names that it builds. Each file says what they mean, and their source.
FAMILIES = {
    "alexnet": ("alexnet",),
    "vgg": ("vgg11", "vgg13", "vgg16", "vgg19"),
    "resnet": ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
    "densenet": ("densenet-bc-40-12", "densenet-bc-100-12"),
    "wide_resnet": ("wrn-16-2", "wrn-28-10"),
    "mobilenet": ("mobilenet_v2",),
    "imagenet": (
        "imagenet_alexnet",
        "imagenet_vgg16",
        "imagenet_resnet18",
        "imagenet_resnet50",
        "imagenet_densenet121",
        "imagenet_mobilenet_v2",
        "imagenet_mobilenet_v3",
    ),
}
BUILDERS = {name: family for family, names in FAMILIES.items() for name in names}
MIDDLE = 127.5  # pixels 0..255 become -1..1 where nothing is known of the images
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def names() -> list[str]:
    """Return every name that `build` knows; besides these it takes `your_module:build_fn`."""
    return list(BUILDERS)


def check(name: str) -> None:
    """Raise InputError unless `name` is one of `names()`, or `module:function` can be imported.

    Builds nothing; imports the user's module, looking in the current directory first.
    """
    if name in BUILDERS:
        return
    if ":" not in name:
        raise InputError.unknown("peer", name, [*names(), "your_module:build_fn"])
    from xkd_keras.peers import user

    user.find(name)


def build(
    name: str,
    image_shape: Sequence[int],
    num_classes: int,
    *,
    label: str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    seed: int | None = None,
) -> keras.Model:
    """Build an untrained peer.

    Args:
        name: One of `names()`, or `module:function` of the user's own. The function is called with
            the image shape and the number of classes, and returns a Keras model from normalised
            images to logits.
        image_shape: (height, width, channels).
        num_classes: Number of logits, at least two.
        label: Name of the model; by default `name` (with "." for ":").
        mean: Mean of the pixels, for each channel or for all, 0..255; by default 127.5.
        std: Standard deviation of the pixels, likewise; by default 127.5.
        seed: Makes weights and dropout a function of (seed, label), whatever was built before. A
            user's function takes part as far as it draws from `random`, `numpy.random` or layers
            without a seed of their own.

    Returns:
        A functional model: float32 pixels [batch, height, width, channels], 0..255, to float32
        logits [batch, num_classes]. Its first layer is `normalize`, its last `logits`.

    Raises:
        InputError: The name is unknown, an argument cannot be used, the images are too small for
            the network, or the user's function does not return a model of `num_classes` logits.
    """
    check(name)
    label = _check_label(name.replace(":", ".") if label is None else label)
    image_shape = _check_image_shape(image_shape)
    if not _is_int(num_classes) or num_classes < 2:
        raise InputError(f"num_classes: received {num_classes!r}; give a whole number from 2 up.")
    mean = _per_channel("mean", MIDDLE if mean is None else mean, image_shape[-1], -math.inf)
    std = _per_channel("std", MIDDLE if std is None else std, image_shape[-1], 0.0)

    import keras

    from xkd_keras.peers import layers, user
    from xkd_keras.peers.seeding import seeded

    with seeded(seed, label):
        pixels = keras.Input(image_shape, name="pixels", dtype="float32")
        x = layers.normalize(pixels, mean, std)
        if name in BUILDERS:
            return keras.Model(pixels, _logits(name, x, num_classes), name=label)
        return user.build(name, pixels, x, num_classes, label)


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


def _logits(name, x, num_classes):
    family = importlib.import_module(f"xkd_keras.peers.{BUILDERS[name]}")
    side = min(x.shape[1:3])
    if side < family.MIN_SIDE:
        raise InputError(
            f"image_shape: {x.shape[1]}x{x.shape[2]} is too small for peer '{name}', "
            f"which needs at least {family.MIN_SIDE}x{family.MIN_SIDE}."
        )
    return family.build(name, x, num_classes)


def _check_label(label):
    if not isinstance(label, str) or not LABEL.fullmatch(label):
        raise InputError(
            f"label: received {label!r}; a peer's label names files and layers: "
            "letters, digits, '_', '.' and '-', starting with a letter or digit."
        )
    return label


def _check_image_shape(shape):
    try:
        height, width, channels = shape
        valid = all(_is_int(n) and n > 0 for n in (height, width, channels))
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise InputError(f"image_shape: received {shape!r}; give (height, width, channels).")
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
            f"{argument}: received {value!r}; give one number{bound}, or {channels} "
            f"(one a channel), in units of pixels."
        )
    return values
