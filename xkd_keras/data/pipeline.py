"""From a split to batches: tf.data streams for training and for evaluation."""

import numpy as np
import tensorflow as tf

from xkd_keras.data import balance, preparation
from xkd_keras.data.sources import RandomAccess, Split, as_written, on_cpu, side_by_side, untuned
from xkd_keras.errors import InputError


def usual_batch(examples: int, replicas: int = 1) -> int:
    """Return 128, or for few training images the largest power of two that fits four times.

    Args:
        examples: Training images.
        replicas: Devices that share a batch: each has at least one image, and all as many.
    """
    batch = 2 ** max(0, min(examples // 4, 128).bit_length() - 1)
    return max(1, batch // replicas) * replicas


def steps_per_epoch(dataset, batch_size: int) -> int:
    """Return the number of whole batches in an epoch: len(train) // batch_size.

    Args:
        dataset: What `load` gave.
        batch_size: Examples in a batch, over all replicas.

    Raises:
        InputError: batch_size is not in 1..len(train).
    """
    if not 1 <= batch_size <= len(dataset.train):
        n = len(dataset.train)
        raise InputError(
            f"{batch_size} is out of range for {dataset.name}, which has {n} training images;"
            f" valid: 1 to {n}; for so few images, {usual_batch(n)} is usual.",
            argument="batch_size",
        )
    return len(dataset.train) // batch_size


def train_batches(
    dataset,
    *,
    batch_size: int,
    epochs: int,
    first_epoch: int = 0,
    first_batch: int = 0,
    seed: int = 0,
    share: tuple[int, int] = (0, 1),
):
    """Return the batches of epochs first_epoch .. epochs - 1, one after the other.

    Order and augmentation are functions of (seed, epoch, place in the epoch) alone, so epoch e is
    the same to the bit whichever epoch the stream began with: resuming needs no iterator state.

    Args:
        dataset: What `load` gave.
        batch_size: Examples in a batch, over all replicas and workers.
        epochs: Where to stop.
        first_epoch: Where to begin.
        first_batch: Batches of the first epoch to leave out.
        seed: Decides order and augmentation.
        share: (index, count): of `count` workers, the batches of this one. Together they have each
            example at most once per epoch. Where examples are streamed from files, each worker
            reads its own files; else a batch is what one process would have, in equal parts.

    Returns:
        tf.data.Dataset of (images float32 [batch / count, H, W, 3] with pixels 0..255, labels int32
        [batch / count]), steps_per_epoch batches per epoch; what is left over differs between
        epochs.

    Raises:
        InputError: batch_size is not in 1..len(train), or not a multiple of count; or images that
            are streamed are to be drawn by class.
    """
    steps = steps_per_epoch(dataset, batch_size)
    rows = _rows(batch_size, share)
    source, size, kind = dataset.train.source, dataset.image_shape[:2], dataset.augment
    positions, balanced = on_cpu(dataset.train.positions), dataset.sampling == "balanced"
    if balanced and not isinstance(source, RandomAccess):
        raise InputError(
            "balanced draws single images, but this dataset is read as a stream; valid: plain, or"
            " a cache_gib large enough for all images.",
            argument="sampling",
        )
    root = on_cpu(np.array([seed % 2**63, 0], np.int64))

    @as_written
    def handles(epoch):
        order_key, view_key = tf.unstack(tf.random.split(tf.random.fold_in(root, epoch), 2))
        seeds = tf.random.stateless_uniform([steps, batch_size, 2], view_key, None, None, tf.int32)
        own_seeds = tf.reshape(seeds[:, share[0] * rows :][:, :rows], [-1, 2])
        # zip ends with the shorter: whole batches, so that none straddles two epochs.
        shown = positions
        if balanced:
            shown = balance.drawn(positions, dataset.train.labels, tf.random.fold_in(order_key, 1))
        own = source.shuffled(shown, order_key, share, batch_size)
        both = tf.data.Dataset.zip(own, tf.data.Dataset.from_tensor_slices(own_seeds))
        return both.skip(tf.where(epoch == first_epoch, np.int64(first_batch * rows), 0))

    @as_written
    def example(handle, view):
        image, label = source.example(handle)
        return preparation.augment(image, kind, size, view), label

    epochs_left = max(epochs - first_epoch, 0)
    count = max(epochs_left * steps - first_batch, 0)
    batches = (
        tf.data.Dataset.range(first_epoch, first_epoch + epochs_left)
        .flat_map(handles)
        .map(example, **side_by_side(source))
        .batch(rows, drop_remainder=True)
        .apply(tf.data.experimental.assert_cardinality(count))
    )
    return _finish(batches)


def eval_batches(
    split: Split, *, dataset, batch_size: int, share: tuple[int, int] = (0, 1)
) -> tf.data.Dataset:
    """Return a split's images in their fixed order, the last batch padded to full size.

    Args:
        split: `dataset.train`, `.validation` or `.test`.
        dataset: What `load` gave.
        batch_size: Examples in a batch, over all replicas and workers; of one worker, no more than
            there are.
        share: (index, count): of `count` workers, this one's equal part of every batch.

    Returns:
        tf.data.Dataset of ceil(len(split) / batch_size) batches (images float32
        [batch / count, H, W, 3] with pixels 0..255, labels int32 [batch / count], weights float32
        [batch / count]). Padding is zeros and has weight 0, so that sums over weights are exact.

    Raises:
        InputError: batch_size is not a multiple of count.
    """
    if share[1] == 1:  # a handful of images is not to cost as much as a full batch
        batch_size = min(batch_size, max(1, len(split)))
    size, ratio, rows = dataset.image_shape[:2], dataset.crop_ratio, _rows(batch_size, share)
    steps = -(-len(split) // batch_size)
    places = np.arange(steps * batch_size).reshape(steps, -1, rows)[:, share[0]].reshape(-1)
    own = split.part(places[places < len(split)])
    padding = len(places) - len(own)

    @as_written
    def example(handle):
        image, label = own.source.example(handle)
        return preparation.evaluation(image, size, ratio), label, tf.constant(1.0)

    images = tf.data.Dataset.zip((own.source.ordered(own.positions),)).map(  # handles come as one
        example, **side_by_side(own.source)
    )
    shapes = [[*size, 3], [], []]
    images = images.map(as_written(lambda *parts: tuple(map(tf.ensure_shape, parts, shapes))))
    zeros = tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), images.element_spec)
    batches = (
        images.concatenate(tf.data.Dataset.from_tensors(zeros).repeat(padding))
        .batch(rows, drop_remainder=True)
        .apply(tf.data.experimental.assert_cardinality(steps))
    )
    return _finish(batches)


def images(split: Split, indices, dataset) -> np.ndarray:
    """Return the images at `indices` of the evaluation order, as evaluation sees them.

    Args:
        split: `dataset.train`, `.validation` or `.test`.
        indices: int [k], in any order.
        dataset: What `load` gave.

    Returns:
        uint8 [k, H, W, 3].
    """
    wanted, back = np.unique(np.asarray(indices, np.int64), return_inverse=True)
    if not len(wanted):
        return np.zeros((0, *dataset.image_shape), np.uint8)
    batches = eval_batches(split.part(wanted), dataset=dataset, batch_size=min(len(wanted), 64))
    pixels = np.concatenate([batch[0].numpy() for batch in batches])
    return pixels[back].astype(np.uint8)


def labels(split: Split) -> np.ndarray:
    """Return the labels of a split, int32 [n], in the order of evaluation."""
    return split.labels


def places(split: Split) -> list[str]:
    """Return the file names of a split in the order of evaluation; its positions without files."""
    names = split.source.names
    return [str(i) if names is None else names[at] for i, at in enumerate(split.positions)]


def _rows(batch_size: int, share: tuple[int, int]) -> int:
    """Return how many examples of a batch are one worker's."""
    if batch_size % share[1]:
        raise InputError(
            f"received {batch_size}; valid: a multiple of the {share[1]} workers.",
            argument="batch_size",
        )
    return batch_size // share[1]


def _finish(batches: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # Whoever hands these to several workers as they are: each batch is shared, not the files.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return untuned(batches.with_options(options).prefetch(2))
