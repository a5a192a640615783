"""What the name of a dataset means, and the preparation that goes with it. Needs no TensorFlow."""

import dataclasses
import os
import re
from collections.abc import Sequence

from xkd_keras.errors import FlagError, InputError, meant

# What training images may go through, in this order. Inception mirrors as well, as it always has.
PARTS = ("crop", "inception", "flip", "rotate", "colour", "randaugment", "erase")
# Whole augmentations; parts joined by + are others.
AUGMENTS = ("auto", "none", "crop", "crop_flip", "inception")
_WHOLE = {"crop_flip": "crop+flip", "inception": "inception+flip"}
_RANDAUGMENT = (2, 5)  # operations, magnitude; see `augmentation.randaugment`
NAMED = ("digits", "cifar10", "cifar100", "imagenet2012", "glyphs")
_VALID = (*NAMED, "tfds:NAME", "folder:PATH")
_IMAGE_SIZES = {"cifar10": 32, "cifar100": 32, "imagenet2012": 224}
# A mirrored 3 or S is no character at all.
_CHARACTERS = ("mnist", "svhn", "digits", "glyphs")
_SMALL = 64  # pixels a side; below, an inception crop of 8 % would leave nothing to see


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How images are prepared: their size, the augmentation and the evaluation crop.

    Attributes:
        image_size: Height and width of what a peer sees, in pixels.
        augment: As `parts` takes it.
        crop_ratio: At evaluation a picture is resized until it covers image_size / crop_ratio, and
            the centre is cropped.
        cuts: Whether training views are cut out of the whole picture.
    """

    image_size: tuple[int, int]
    augment: str

    @property
    def crop_ratio(self) -> float:
        """0.875 beside inception crops, which magnify in training; 1.0 otherwise."""
        return 0.875 if self.cuts else 1.0

    @property
    def cuts(self) -> bool:
        """Resized pictures are then of no use in training."""
        return "inception" in parts(self.augment)


def sides(image_size: int | str | Sequence[int]) -> tuple[int, int]:
    """Return height and width of an image size: 96, "96", "96x128" or (96, 128); 0 is (0, 0).

    Raises:
        FlagError: It is none.
    """
    typed = image_size if isinstance(image_size, str | int) else "x".join(map(str, image_size))
    found = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", str(typed))
    height, width = (int(found[1]), int(found[2] or found[1])) if found else (0, 1)
    if bool(height) != bool(width):
        raise FlagError(
            f"received {typed}; valid: a number of pixels, or HEIGHTxWIDTH such as 96x128; 0: the"
            " dataset's usual size.",
            argument="image_size",
        )
    return height, width


def size_text(image_size: int | str | Sequence[int]) -> str:
    """Return an image size as a flag has it: one number where height and width are the same."""
    height, width = sides(image_size)
    return str(height) if height == width else f"{height}x{width}"


def parts(augment: str) -> dict[str, tuple[int, ...]]:
    """Return the parts of an augmentation, in the order of `PARTS`, each with its numbers.

    Args:
        augment: "none", or parts of `PARTS` joined by +, as "crop+flip+erase". "crop_flip" stands
            for crop+flip. "randaugment" may have numbers, as "randaugment:2:9".

    Raises:
        FlagError: An unknown part, one that is there twice, two ways to crop, or bad numbers.
    """
    if augment == "none":
        return {}
    names = [name for typed in augment.split("+") for name in _WHOLE.get(typed, typed).split("+")]
    found: dict[str, tuple[int, ...]] = {}
    for text in names:
        name, colon, numbers = text.partition(":")
        if name in ("auto", "none"):
            raise FlagError(
                f"'{augment}': {name} cannot be combined with other parts.", argument="augment"
            )
        if name not in PARTS:
            raise FlagError.unknown("augment", name, (*AUGMENTS, *PARTS[2:]))
        if name in found and name != "flip":
            raise FlagError(f"'{augment}' has {name} twice; valid: once.", argument="augment")
        if colon and name != "randaugment":
            raise FlagError(f"'{text}': {name} takes no numbers.", argument="augment")
        found[name] = _numbers(text, numbers) if name == "randaugment" else ()
    if {"crop", "inception"} <= set(found):
        raise FlagError(
            f"'{augment}' crops in two ways; valid: either crop or inception.", argument="augment"
        )
    return {name: found[name] for name in PARTS if name in found}


def _numbers(text: str, numbers: str) -> tuple[int, ...]:
    """Return N and M of randaugment:N:M."""
    given = re.fullmatch(r"(\d{1,2}):(\d{1,2})", numbers)
    count, magnitude = map(int, given.groups()) if given else (0, 0)
    if ":" not in text:
        return _RANDAUGMENT
    if not (1 <= count <= 8 and magnitude <= 10):
        raise FlagError(
            f"received '{text}'; valid: randaugment:N:M, with N from 1 to 8 operations and M,"
            " their magnitude, from 0 to 10, such as randaugment:2:9.",
            argument="augment",
        )
    return count, magnitude


def check_augment(augment: str) -> None:
    """Raise FlagError unless `augment` is "auto" or what `parts` takes."""
    if augment != "auto":
        parts(augment)


def resolve(
    name: str,
    native: tuple[int, int] | None,
    image_size: int | str | Sequence[int],
    augment: str,
) -> Preparation:
    """Fill in what was left to the data set: image_size 0 and augment "auto".

    Args:
        name: Of the dataset.
        native: Height and width that all images share, or None where they differ.
        image_size: As `sides` takes it; 0 takes the data set's own.
        augment: "auto", or as `parts` takes it.

    Returns:
        The preparation, complete.
    """
    height, width = sides(image_size)
    if not height:
        own = native[0] if native and native[0] == native[1] <= _SMALL else _SMALL
        height = width = _IMAGE_SIZES.get(tfds_base(name.removeprefix("tfds:")), own)
    if augment == "auto":
        if not is_folder(name) and any(word in name for word in _CHARACTERS):
            augment = "crop"
        else:
            augment = "crop_flip" if height * width <= _SMALL**2 else "inception"
    return Preparation((height, width), augment)


def check(name: str, data_dir: str | None = None) -> None:
    """Raise unless `name` can be a dataset; no data is read, nothing is downloaded.

    Args:
        name: `digits`, `cifar10`, `cifar100`, `imagenet2012`, `glyphs`, `tfds:NAME`,
            `tfds:NAME/CONFIG` or `folder:PATH`.
        data_dir: Where TFDS keeps prepared data; a data set found there needs no registered name.

    Raises:
        FlagError: The name is unknown; says the nearest one.
        InputError: The folder does not exist.
    """
    if name in NAMED:
        return
    kind, colon, rest = name.partition(":")
    if not colon or kind not in ("tfds", "folder") or not rest:
        if os.path.isdir(os.path.expanduser(name)):
            raise FlagError(f"'{name}' is a folder; valid: folder:{name}.", argument="dataset")
        raise FlagError.unknown("dataset", name, _VALID)
    if kind == "folder":
        _check_folder(name, folder_path(name))
    else:
        _check_tfds(name, rest, data_dir)


def is_folder(name: str) -> bool:
    """Whether a data set is a folder of the person's."""
    return name.startswith("folder:")


def folder_path(name: str) -> str:
    """Return PATH of `folder:PATH`; no shell expands a ~ after the colon."""
    return os.path.expanduser(name.removeprefix("folder:"))


def same(one: str, other: str) -> bool:
    """Whether two names are of one data set; paths may be written in several ways."""
    if not (is_folder(one) and is_folder(other)):
        return one.removeprefix("tfds:") == other.removeprefix("tfds:")
    return os.path.realpath(folder_path(one)) == os.path.realpath(folder_path(other))


def tfds_base(name: str) -> str:
    """Return NAME of `NAME/CONFIG:VERSION`; either part may be missing."""
    return re.split("[/:]", name, maxsplit=1)[0]


def _check_folder(name: str, path: str) -> None:
    if not os.path.isdir(path):
        what = "is a file" if os.path.exists(path) else "does not exist"
        raise InputError(f"{name}: {path!r} {what}; valid: a folder of images.", argument="dataset")


def _check_tfds(name: str, rest: str, data_dir: str | None) -> None:
    import tensorflow_datasets as tfds  # seconds to import: only where it is asked for

    base = tfds_base(rest)
    # The community's list lives on the network.
    known = tfds.list_builders(with_community_datasets=False)
    prepared = os.path.expanduser(data_dir or str(tfds.core.constants.DATA_DIR))
    if base in known or os.path.isdir(os.path.join(prepared, base)):
        return
    hint = meant(base, known, "tfds:{}")
    raise FlagError(
        f"unknown value '{name}'{hint} valid: tfds: and one of the {len(known)} names that"
        " `tfds.list_builders()` gives.",
        argument="dataset",
    )
