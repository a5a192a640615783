"""`load`: a name becomes a Dataset with three splits and what a run must know of it."""

import contextlib
import dataclasses
import errno
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from xkd_keras.console import few
from xkd_keras.data import decoding, duplicates, folder, names, pipeline
from xkd_keras.data.balance import SAMPLINGS
from xkd_keras.data.content import Content, Request
from xkd_keras.data.sources import Arrays, Split
from xkd_keras.data.splits import FIXED_SEED, stratified_subset
from xkd_keras.errors import FlagError, InputError, first_line

_SAMPLE = 4096  # images that stand for all in mean and std, where decoding all would take long
_PIXELS = 2**22  # of which statistics are computed at a time: some 300 MB with all that is made


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Labelled images in three splits, and how they are prepared.

    Attributes:
        name: As given to `load`.
        class_names: One per class, in the order of the labels.
        image_shape: (H, W, 3): every image becomes an RGB image of this size.
        train: What peers learn from; at most `train_examples`.
        validation: What choices are made on.
        test: Touched once, at the end.
        mean: Per channel, of the train split prepared as for evaluation, in pixel units 0..255.
        std: The same, not below 1.0 (a constant channel must not be divided by 0).
        augment: As `names.parts` takes it.
        sampling: Which training images an epoch has: plain, or balanced (see `balance.drawn`).
        crop_ratio: Evaluation resizes a picture until it covers (H, W) / crop_ratio, and crops the
            centre.
        fingerprint: sha256 over content, class names and splits. Nothing else changes it.
        skipped: (file, reason) of what `skip_unreadable` left out.
        duplicates: (what is wrong, files) of files with the same content in two splits or under two
            labels; with `duplicates="drop"`, ("left out", file) of each that was.
        notes: What a person should know of how a folder was read, a sentence each.
    """

    name: str
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train: Split
    validation: Split
    test: Split
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    augment: str
    crop_ratio: float
    fingerprint: str
    skipped: tuple[tuple[str, str], ...] = ()
    duplicates: tuple[tuple[str, tuple[str, ...]], ...] = ()
    notes: tuple[str, ...] = ()
    sampling: str = "plain"


def about_reading(data: Dataset) -> list[str]:
    """Return what a person should know of how images were read, a line each."""
    lines = [f"note: {note}" for note in data.notes]
    if data.skipped:
        file, reason = data.skipped[0]
        more = f" and {len(data.skipped) - 1} more" if len(data.skipped) > 1 else ""
        lines.append(f"left out because it cannot be read: {file} ({reason}){more}")
    if data.duplicates:
        what, paths = data.duplicates[0]
        more = f"; {len(data.duplicates)} such groups in all" if len(data.duplicates) > 1 else ""
        same = few(paths, duplicates.TOLD, " = ")
        lines.append(f"warning: identical files, {what}: {same}{more}")
    return lines


def load(
    name: str,
    *,
    image_size: int | str | tuple[int, int] = 0,
    augment: str = "auto",
    train_examples: int = 0,
    validation_fraction: float = 0.1,
    seed: int = 0,
    data_dir: str | None = None,
    skip_unreadable: bool = False,
    cache_gib: float = 2.0,
    duplicates: str = "warn",
    class_names: tuple[str, ...] = (),
    sampling: str = "plain",
    reader: Callable[[str, Request], Content] | None = None,
) -> Dataset:
    """Load a data set; prepare it first where TFDS has not yet.

    Args:
        name: `digits`, `glyphs`, `cifar10`, `cifar100`, `imagenet2012`, `tfds:NAME` or
            `folder:PATH`.
        image_size: Of the images in pixels: a side, or height and width as (96, 128) or "96x128";
            0 takes the data set's own.
        augment: One of `names.AUGMENTS`, or parts joined by +; see `names.parts`.
        train_examples: Size of a stratified subset of train; 0 takes all.
        validation_fraction: Share of train that is held out where there is no validation split;
            where nothing is cut already, share of all images (a fifth of them is for the test).
        seed: Decides which subset; never which images are held out.
        data_dir: Where TFDS keeps prepared data; its own default if None.
        skip_unreadable: Leave damaged files of a folder out instead of stopping.
        cache_gib: What images may take of memory; beyond it they are read again each epoch.
        duplicates: What to do about a folder's files that are in two splits or under two labels:
            "warn" lists them; "drop" keeps one of each (in test rather than in train), and none of
            two labels; "stop" raises.
        class_names: The classes where nothing is to be learned: a folder may hold some of them,
            all its images are test unless it says otherwise, and a split may be empty, as it may of
            TFDS. Mean and std are then not computed.
        sampling: "plain": an epoch has each training image once; "balanced": as many of each class.
        reader: In the place of `read`; whoever loads many subsets gives one that remembers.

    Returns:
        The Dataset.

    Raises:
        InputError: Something cannot be used; one line says what, and what can.
    """
    request = Request(
        image_size=names.sides(image_size),
        augment=augment,
        validation_fraction=validation_fraction,
        data_dir=data_dir,
        skip_unreadable=skip_unreadable,
        cache_bytes=int(cache_gib * 2**30),
        duplicates=duplicates,
        class_names=tuple(class_names),
    )
    _check_values(request, train_examples)
    names.check(name, data_dir)
    if sampling not in SAMPLINGS:
        raise FlagError.unknown("sampling", sampling, SAMPLINGS)
    with readable(name):
        content = (reader or read)(name, request)
        dataset = _loaded(name, content, train_examples, seed, learns=not class_names)
    return dataclasses.replace(dataset, sampling=sampling)


_OF_FILES = (tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.PermissionDeniedError)


# Of a file that ends between two records, and of a picture that has changed.
_DAMAGED = (
    "expected to contain",
    "DecodeImage",
    "Invalid JPEG data",
    "Unknown image file",
    "The image has",
    "a BMP that",
)
# As TensorFlow ends what it says of a file that a disk in the network did not give.
_AWAY = tuple(f"; {os.strerror(code)}" for code in sorted(decoding.PASSING | {errno.EIO}))


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """Read images of data set `name`; raises InputError where a file is damaged, gone or away."""
    try:
        yield
    except tf.errors.OpError as error:
        if any(text in str(error) for text in _AWAY):
            raise InputError(
                f"{name}: {_reason(error)}; the file may be intact, so run the same command again.",
                argument="dataset",
            ) from None
        damaged = any(text in str(error) for text in _DAMAGED)
        if not damaged and not isinstance(error, _OF_FILES):
            raise
        remedy = "restore it"
        if not names.is_folder(name):
            remedy += ", or delete the prepared copy in data_dir so that it is prepared again"
        raise InputError(
            f"{name}: a file is damaged or gone ({_reason(error)}); valid: {remedy}.",
            argument="dataset",
        ) from None


def _reason(error: tf.errors.OpError) -> str:
    """Return what TensorFlow says of a file, without where in the graph it was read."""
    line = re.sub(r"^.*Iterator::[^ ]+: ", "", first_line(error))
    asserted = re.search(r"assertion failed: \[(.*?)\]", line)
    return asserted[1] if asserted else re.sub(r"{{.*?}} ?|\[?\[.*|'", "", line).strip()


def _loaded(name: str, content: Content, train_examples: int, seed: int, learns: bool) -> Dataset:
    train = _subset(content, train_examples, seed)
    draft = Dataset(
        name=name,
        class_names=content.class_names,
        image_shape=(*content.preparation.image_size, 3),
        train=train,
        validation=content.validation,
        test=content.test,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        augment=content.preparation.augment,
        crop_ratio=content.preparation.crop_ratio,
        fingerprint=_fingerprint(content, train),
        skipped=content.skipped,
        duplicates=content.duplicates,
        notes=content.notes,
    )
    if not learns or not len(train):
        return draft  # only what learns is made of the statistics
    mean, std = _statistics(draft)
    return dataclasses.replace(draft, mean=mean, std=std)


def read(name: str, request: Request) -> Content:
    """Read a whole data set: all of its images, in their splits."""
    if names.is_folder(name):
        return folder.read(name, request)
    from xkd_keras.data import tfds  # slow to import, and folders do without

    return tfds.read(name, request)


def _check_values(request: Request, train_examples: int) -> None:
    names.check_augment(request.augment)
    if request.duplicates not in duplicates.CHOICES:
        raise FlagError.unknown("duplicates", request.duplicates, duplicates.CHOICES)
    for flag, value, fits, valid in (
        ("train_examples", train_examples, train_examples >= 0, "0 (all) or more"),
        (
            "validation_fraction",
            request.validation_fraction,
            0 < request.validation_fraction < 1,
            "between 0 and 1, both excluded",
        ),
        ("cache_gib", request.cache_bytes / 2**30, request.cache_bytes >= 0, "0 or more"),
    ):
        if not fits:
            raise FlagError(f"received {value}; valid: {valid}.", argument=flag)


def _subset(content: Content, count: int, seed: int) -> Split:
    if not count:
        return content.train
    classes, pool = len(np.unique(content.train.labels)), len(content.train)
    if not classes <= count <= pool:
        raise InputError(
            f"received {count}; valid: {classes} (one per class) to {pool} (the training images"
            " without validation), or 0 for all.",
            argument="train_examples",
        )
    return content.train.part(stratified_subset(content.train.labels, count, seed))


def _statistics(dataset: Dataset) -> tuple[tuple, tuple]:
    """Mean and std per channel of train, exact for decoded images, else of a fixed sample."""
    split = dataset.train
    if not isinstance(split.source, Arrays) and len(split) > _SAMPLE:
        split = split.part(split.source.sample(split.positions, _SAMPLE, FIXED_SEED))
    total, squares, count = np.zeros(3), np.zeros(3), 0
    batch = max(1, min(256, _PIXELS // math.prod(dataset.image_shape[:2])))
    for images, _, weights in pipeline.eval_batches(split, dataset=dataset, batch_size=batch):
        pixels = images.numpy()[weights.numpy() > 0].reshape(-1, 3).astype(np.int64)
        total += pixels.sum(0)  # exact: pixels are whole numbers
        squares += (pixels**2).sum(0)
        count += len(pixels)
    mean = total / count
    std = np.maximum(np.sqrt(np.maximum(squares / count - mean**2, 0.0)), 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())


def _fingerprint(content: Content, train: Split) -> str:
    digest = hashlib.sha256(content.digest.encode())
    digest.update("\0".join(content.class_names).encode())
    for split in (train, content.validation, content.test):
        digest.update(f"\0{len(split)}\0".encode())
        digest.update(split.positions.astype("<i8").tobytes())
        digest.update(split.labels.astype("<i4").tobytes())
    return digest.hexdigest()
