"""TFDS's image-classification data sets: prepared, checked, and read into memory where they fit."""

import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import zipfile
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from xkd_keras import files
from xkd_keras.data import names, preparation, roles
from xkd_keras.data.content import Content, Request
from xkd_keras.data.download import prepared_builder
from xkd_keras.data.records import Records, in_order
from xkd_keras.data.sources import Arrays, Encoded, Source, as_written, side_by_side, untuned
from xkd_keras.errors import InputError

_BATCH = 256  # examples that are read, and digested, together
_SORTED = (
    "Its records are sorted by class and too large for cache_gib, so batches will have few classes."
    " Shuffle the records when they are written, or set a larger cache_gib."
)


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
        validation split is the data set's own beside a test split, else held out of train. Splits
        may have the names that folders may have ('val'). Notes tell what is not as its name says.

    Raises:
        InputError: It cannot be prepared, or is not for image classification.
    """
    builder = prepared_builder(name, request.data_dir)
    task = _task(name, builder)
    chosen = names.resolve(name, task.native, request.image_size, request.augment)
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    serving = roles.find(name, sizes, lambda split: _has_labels(builder, split, task), request)
    fits = _fits(builder, serving, task, chosen, request.cache_bytes)
    known = _sources(builder, sorted(set(serving.values())), task, chosen, fits)
    sources = {split: source for split, (source, _) in known.items()}
    digest = hashlib.sha256()
    for split, (_, content) in known.items():
        digest.update(f"{split}:{content}\0".encode())
    _check_labels(name, sources, task)
    splits = roles.splits(sources, serving, request.validation_fraction)
    class_names = tuple(task.label.names)
    notes = (*roles.about(sizes, serving), *roles.about_classes(splits, class_names))
    if fits == "records" and in_order(splits[0].source.labels):
        notes += (_SORTED,)
    return Content(class_names, chosen, *splits, digest.hexdigest(), notes=notes)


def _task(name: str, builder) -> _Task:
    keys = builder.info.supervised_keys
    features = builder.info.features
    features = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    for pair in (keys, ("image", "label")):  # not every data set says which features it is for
        if not pair or len(pair) != 2 or not all(isinstance(key, str) for key in pair):
            continue
        image, label = (features.get(key) for key in pair)
        known = isinstance(image, tfds.features.Image) and image.np_dtype == np.uint8
        if known and isinstance(label, tfds.features.ClassLabel):
            return _Task(*pair, image, label)
    raise InputError(
        f"{name} is not for image classification: its features are {', '.join(features)}, its"
        f" supervised keys {keys}; valid: data sets of 8-bit images, each with one class label.",
        argument="dataset",
    )


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


def _fits(builder, serving, task: _Task, chosen, cache_bytes: int) -> str:
    """How images are kept: "arrays" (decoded), "encoded" or "records" (read again each epoch)."""
    splits = [builder.info.splits[split] for split in set(serving.values())]
    shape = _stored_shape(task, chosen)
    if shape and sum(split.num_examples for split in splits) * np.prod(shape) <= cache_bytes:
        return "arrays"
    return "encoded" if sum(map(_size, splits)) <= cache_bytes else "records"


def _size(split) -> int:
    """Return the bytes of a split; that of its files where its author has written 0."""
    return split.num_bytes or sum(tf.io.gfile.stat(str(file)).length for file in split.filepaths)


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

    decoded = None if fits == "encoded" else shape
    parts = _collect(records.values(), task.native, stored, decoded)
    return {
        split: (
            Arrays(kept, labels) if decoded else Encoded(kept, labels, task.decode),
            digest,
        )
        for split, (kept, labels, digest) in zip(names, parts, strict=True)
    }


def _collect(parts: Iterable[Records], native, keep, shape=None) -> list[tuple]:
    """Read all records once, in one stream: to start one takes as long as 2,000 small images.

    Args:
        parts: The records of each split.
        native: Height and width of the images, or None where they differ.
        keep: Graph function (encoded, image) -> what to keep of an example.
        shape: Of what is kept, if it is uint8 pixels of one shape.

    Returns:
        For each split what was kept (a list, or one array where there is a shape), labels int32
        [n], and a digest of images and labels: of pixels where sizes are equal (the PNG inside
        depends on its writer's version), else of the original files.
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
    hashes, labels = [], []
    # One array from the beginning: many small ones would have to be copied into it.
    kept = np.empty((ends[-1], *shape), np.uint8) if shape else []
    batches = untuned(stream.batch(_BATCH).prefetch(1))
    for original, images, label in batches.as_numpy_iterator():
        hashes.extend(hashlib.sha256(image).digest() for image in original)
        if shape:
            kept[len(labels) : len(labels) + len(images)] = images
        else:
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
    state = _state(builder.info.splits[split])
    try:
        with np.load(path) as stored:
            if str(stored["state"]) == state:
                return stored["labels"], str(stored["digest"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # not there yet, or cut off on the disk
    ((_, labels, digest),) = _collect(
        [records], native, lambda encoded, _: tf.strings.length(encoded)
    )
    # Where there is no room, or no right to write, all will be read again at the next start.
    with contextlib.suppress(OSError), files.whole(path) as beside:
        np.savez(beside, labels=labels, digest=digest, state=state)
    return labels, digest


def _state(split) -> str:
    """Return what changes where the files of a split are written anew, as by their owner."""
    files = [(pathlib.Path(file).name, os.stat(file)) for file in map(str, split.filepaths)]
    stats = [(name, each.st_size, each.st_mtime_ns) for name, each in files]
    return hashlib.sha256(repr((stats, list(split.shard_lengths))).encode()).hexdigest()


def _check_labels(name: str, sources: dict[str, Source], task: _Task) -> None:
    for split, source in sources.items():
        outside = (source.labels < 0) | (source.labels >= task.label.num_classes)
        if outside.any():
            raise InputError(
                f"{name}: {outside.sum()} examples of '{split}' have no valid label "
                f"(0 to {task.label.num_classes - 1}).",
                argument="dataset",
            )
