"""TFDS's image-classification data sets: prepared, checked, and read into memory where they fit."""

import contextlib
import dataclasses
import functools
import hashlib
import pathlib
import zipfile
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from xkd_keras import files
from xkd_keras.data import names, preparation
from xkd_keras.data.content import Content, Request
from xkd_keras.data.download import prepared_builder
from xkd_keras.data.records import Records
from xkd_keras.data.sources import Arrays, Encoded, Source, Split, as_written, side_by_side, untuned
from xkd_keras.data.splits import FIXED_SEED, TRAIN_VALIDATION_TEST, stratified_split
from xkd_keras.errors import InputError

_BATCH = 256  # examples that are read, and digested, together


@dataclasses.dataclass(frozen=True)
class _Task:
    """The two features that make an image-classification data set."""

    image_key: str
    label_key: str
    image: tfds.features.Image
    label: tfds.features.ClassLabel

    @property
    def native(self) -> tuple[int, int] | None:
        """Height and width, if all images share them."""
        height, width = self.image.shape[:2]
        return (height, width) if height and width else None

    @property
    def decode(self):
        """Graph function: encoded image -> uint8 [h, w, 3].

        What is of one size and has no fourth channel, TFDS has made, or cut, for the data set:
        its pixels are what TFDS reads.
        """
        plain = self.native and self.image.shape[2] in (1, 3)
        return preparation.decode_plain if plain else preparation.decode


def read(name: str, request: Request) -> Content:
    """Read a data set of TFDS.

    Args:
        name: Of the data set.
        request: What `load` was asked for.

    Returns:
        Its content. The test split is 'test', else 'validation', else cut from 'train'; the
        validation split is the data set's own beside a test split, else held out of train.

    Raises:
        InputError: It cannot be prepared, or is not for image classification.
    """
    builder = prepared_builder(name, request.data_dir)
    task = _task(name, builder)
    chosen = names.resolve(name, task.native, request.image_size, request.augment)
    roles = _roles(name, builder, task)
    fits = _fits(builder, roles, task, chosen, request.cache_bytes)
    known = _sources(builder, sorted(set(roles.values())), task, chosen, fits)
    sources = {split: source for split, (source, _) in known.items()}
    digest = hashlib.sha256()
    for split, (_, content) in known.items():
        digest.update(f"{split}:{content}\0".encode())
    _check_labels(name, sources, task)
    splits = _splits(sources, roles, request.validation_fraction)
    return Content(tuple(task.label.names), chosen, *splits, digest.hexdigest())


def _task(name: str, builder) -> _Task:
    keys = builder.info.supervised_keys
    features = builder.info.features
    if keys and len(keys) == 2 and all(isinstance(key, str) for key in keys):
        image, label = (features[key] for key in keys)
        known = isinstance(image, tfds.features.Image) and image.np_dtype == np.uint8
        if known and isinstance(label, tfds.features.ClassLabel):
            return _Task(*keys, image, label)
    raise InputError(
        f"{name} is not for image classification: its supervised keys are {keys}. "
        f"Valid: data sets of 8-bit images, each with one class label.",
        argument="dataset",
    )


def _roles(name: str, builder, task: _Task) -> dict[str, str]:
    """Which of the data set's splits serves as train, as test and, if any, as validation."""
    present = [split for split, info in builder.info.splits.items() if info.num_examples]
    labelled = [split for split in present if _has_labels(builder, split, task)]
    if "train" not in labelled:
        raise InputError(
            f"{name} has no 'train' split, but {', '.join(present)}.", argument="dataset"
        )
    if "test" in labelled and "validation" in labelled:
        return {"train": "train", "validation": "validation", "test": "test"}
    held_out = [split for split in ("test", "validation") if split in labelled]
    return {"train": "train", "test": (held_out or ["train"])[0]}


def _has_labels(builder, split: str, task: _Task) -> bool:
    # Competitions publish test images whose labels are all -1 (imagenet2012).
    records = _records(builder, split, task)
    return all(int(records.parse(record)[1]) >= 0 for record in records.first())


def _parser(task: _Task):
    # These two features only: the rest (texts, masks) would be decoded for nothing.
    features = tfds.features.FeaturesDict({task.image_key: task.image, task.label_key: task.label})
    skip = {task.image_key: tfds.decode.SkipDecoding()}

    def parse(record):
        example = features.deserialize_example(record, decoders=skip)
        return example[task.image_key], example[task.label_key]

    return parse


def _records(builder, split: str, task: _Task, labels=()) -> Records:
    info = builder.info.splits[split]
    files = map(str, info.filepaths)
    return Records(files, info.shard_lengths, _parser(task), labels, task.decode)


def _fits(builder, roles, task: _Task, chosen, cache_bytes: int) -> str:
    """How images are kept: "arrays" (decoded), "encoded" or "records" (read again each epoch)."""
    splits = [builder.info.splits[split] for split in set(roles.values())]
    shape = _stored_shape(task, chosen)
    if shape and sum(split.num_examples for split in splits) * np.prod(shape) <= cache_bytes:
        return "arrays"
    return "encoded" if sum(split.num_bytes for split in splits) <= cache_bytes else "records"


def _stored_shape(task: _Task, chosen) -> tuple[int, int, int] | None:
    if not chosen.cuts:  # every view is made of the evaluated image
        return (*chosen.image_size, 3)
    return (*task.native, 3) if task.native else None


def _sources(builder, names: list[str], task: _Task, chosen, fits: str) -> dict:
    """Return by split its examples and the digest of their content."""
    records = {split: _records(builder, split, task) for split in names}
    if fits == "records":
        known = {split: _remembered(builder, split, records[split], task.native) for split in names}
        return {
            split: (_records(builder, split, task, labels), digest)
            for split, (labels, digest) in known.items()
        }
    shape = _stored_shape(task, chosen)

    def stored(encoded, image):
        if fits == "encoded":
            return encoded
        if task.native == shape[:2]:
            return image
        return tf.cast(preparation.evaluation(image, shape[:2], 1.0), tf.uint8)

    parts = _collect(records.values(), task.native, stored)
    return {
        split: (
            (
                Encoded(kept, labels, task.decode)
                if fits == "encoded"
                else Arrays(np.stack(kept), labels)
            ),
            digest,
        )
        for split, (kept, labels, digest) in zip(names, parts, strict=True)
    }


def _collect(parts: Iterable[Records], native, keep) -> list[tuple[list, np.ndarray, str]]:
    """Read all records once, in one stream: to start one takes as long as 2,000 small images.

    Args:
        parts: The records of each split.
        native: Height and width of the images, or None where they differ.
        keep: Graph function (encoded, image) -> what to keep of an example.

    Returns:
        For each split what was kept, labels int32 [n], and a digest of images and labels: of pixels
        where sizes are equal (the PNG inside depends on its writer's version), else of the original
        files.
    """
    parts = list(parts)

    @as_written
    def prepare(_, record):
        encoded, label = parts[0].parse(record)
        image = parts[0].decode(encoded)
        original = tf.ensure_shape(image, (*native, 3)) if native else encoded
        return original, keep(encoded, image), label

    streams = [each.ordered(np.arange(len(each))) for each in parts]
    stream = functools.reduce(tf.data.Dataset.concatenate, streams)
    stream = stream.map(prepare, **side_by_side(parts[0]))
    ends = np.cumsum([len(each) for each in parts])
    stream = stream.apply(tf.data.experimental.assert_cardinality(int(ends[-1])))
    hashes, kept, labels = [], [], []
    batches = untuned(stream.batch(_BATCH).prefetch(1))
    for original, images, label in batches.as_numpy_iterator():
        hashes.extend(hashlib.sha256(image).digest() for image in original)
        kept.extend(images)
        labels.extend(label.astype(np.int32))
    slices = [slice(end - len(each), end) for each, end in zip(parts, ends, strict=True)]
    labels = np.array(labels, np.int32)
    return [(kept[i], labels[i], _digest(hashes[i], labels[i])) for i in slices]


def _digest(hashes: list[bytes], labels: np.ndarray) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(hashes), _BATCH):
        some = slice(start, start + _BATCH)
        digest.update(b"".join(hashes[some]))
        digest.update(labels[some].astype("<i4").tobytes())
    return digest.hexdigest()


def _remembered(builder, split: str, records: Records, native) -> tuple[np.ndarray, str]:
    """Labels and digest of a split too large for memory: read once, then kept beside its files."""
    path = pathlib.Path(builder.data_path) / f"xkd_labels-{split}.npz"
    try:
        with np.load(path) as stored:
            return stored["labels"], str(stored["digest"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # not there yet, or cut off on the disk
    ((_, labels, digest),) = _collect(
        [records], native, lambda encoded, _: tf.strings.length(encoded)
    )
    # Where there is no room, or no right to write, all will be read again at the next start.
    with contextlib.suppress(OSError), files.whole(path) as beside:
        np.savez(beside, labels=labels, digest=digest)
    return labels, digest


def _check_labels(name: str, sources: dict[str, Source], task: _Task) -> None:
    for split, source in sources.items():
        outside = (source.labels < 0) | (source.labels >= task.label.num_classes)
        if outside.any():
            raise InputError(
                f"{name}: {outside.sum()} examples of '{split}' have no valid label "
                f"(0 to {task.label.num_classes - 1}).",
                argument="dataset",
            )


def _splits(sources, roles, fraction: float) -> tuple[Split, Split, Split]:
    train = sources["train"]
    if roles["test"] == "train":
        parts = stratified_split(train.labels, TRAIN_VALIDATION_TEST, FIXED_SEED)
        return tuple(Split(train, part) for part in parts)
    test = _whole(sources[roles["test"]])
    if "validation" in roles:
        return _whole(train), _whole(sources["validation"]), test
    parts = stratified_split(train.labels, (1 - fraction, fraction), FIXED_SEED)
    return Split(train, parts[0]), Split(train, parts[1]), test


def _whole(source: Source) -> Split:
    return Split(source, np.arange(len(source.labels), dtype=np.int64))
