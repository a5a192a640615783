"""What the name of a dataset means, and the preparation that goes with it. Needs no TensorFlow."""

import dataclasses
import difflib
import os

from xkd_keras.errors import FlagError, InputError

AUGMENTS = ("auto", "none", "crop", "crop_flip", "inception")
NAMED = ("digits", "cifar10", "cifar100", "imagenet2012", "glyphs")
_VALID = (*NAMED, "tfds:NAME", "folder:PATH")
_IMAGE_SIZES = {"cifar10": 32, "cifar100": 32, "imagenet2012": 224}
# A mirrored 3 or S is no character at all.
_CHARACTERS = ("mnist", "svhn", "digits", "glyphs")
_SMALL = 64  # pixels a side; below, an inception crop of 8 % would leave nothing to see


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How images are prepared: the square size, the augmentation and the evaluation crop.

    Attributes:
        image_size: Side of the square that a peer sees, in pixels.
        augment: One of `AUGMENTS` without "auto".
        crop_ratio: At evaluation the shorter side is resized to image_size / crop_ratio and the
            centre is cropped.
    """

    image_size: int
    augment: str

    @property
    def crop_ratio(self) -> float:
        """0.875 beside inception crops, which magnify in training; 1.0 otherwise."""
        return 0.875 if self.augment == "inception" else 1.0


def resolve(
    name: str, native: tuple[int, int] | None, image_size: int, augment: str
) -> Preparation:
    """Fill in what was left to the data set: image_size 0 and augment "auto".

    Args:
        name: Of the dataset.
        native: Height and width that all images share, or None where they differ.
        image_size: Side in pixels; 0 takes the data set's own.
        augment: One of `AUGMENTS`.

    Returns:
        The preparation, complete.
    """
    if not image_size:
        own = native[0] if native and native[0] == native[1] <= _SMALL else _SMALL
        image_size = _IMAGE_SIZES.get(name, own)
    if augment == "auto":
        if not name.startswith("folder:") and any(word in name for word in _CHARACTERS):
            augment = "crop"
        else:
            augment = "crop_flip" if image_size <= _SMALL else "inception"
    return Preparation(image_size, augment)


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


def folder_path(name: str) -> str:
    """Return PATH of `folder:PATH`; no shell expands a ~ after the colon."""
    return os.path.expanduser(name.removeprefix("folder:"))


def _check_folder(name: str, path: str) -> None:
    if not os.path.isdir(path):
        what = "is a file" if os.path.exists(path) else "does not exist"
        raise InputError(f"{name}: {path!r} {what}; give a folder of images.", argument="dataset")


def _check_tfds(name: str, rest: str, data_dir: str | None) -> None:
    import tensorflow_datasets as tfds  # seconds to import: only where it is asked for

    base = rest.split("/")[0].split(":")[0]
    # The community's list lives on the network.
    known = tfds.list_builders(with_community_datasets=False)
    prepared = os.path.expanduser(data_dir or str(tfds.core.constants.DATA_DIR))
    if base in known or os.path.isdir(os.path.join(prepared, base)):
        return
    near = difflib.get_close_matches(base, known, n=1, cutoff=0.5)
    hint = f" Did you mean 'tfds:{near[0]}'?" if near else ""
    raise FlagError(
        f"unknown value '{name}'.{hint} Valid: tfds: and one of the {len(known)} names "
        f"that `tfds.list_builders()` gives.",
        argument="dataset",
    )
