"""From a split to batches: tf.data streams for training and for evaluation."""

import numpy as np
import tensorflow as tf

from xkd_keras.data import preprocess
from xkd_keras.data.sources import Split, on_cpu
from xkd_keras.errors import InputError


def steps_per_epoch(dataset, batch_size: int) -> int:
    """Return the number of whole batches in an epoch: len(train) // batch_size.

    Args:
        dataset: What `load` gave.
        batch_size: Examples in a batch, over all replicas.

    Raises:
        InputError: batch_size is not in 1..len(train).
    """
    if not 1 <= batch_size <= len(dataset.train):
        raise InputError(
            f"--batch_size: {batch_size} is out of range for {dataset.name}, which has "
            f"{len(dataset.train)} training images. Valid: 1 to {len(dataset.train)}."
        )
    return len(dataset.train) // batch_size


def train_batches(dataset, *, batch_size: int, epochs: int, first_epoch: int = 0, seed: int = 0):
    """Return the batches of epochs first_epoch .. epochs - 1, one after the other.

    Order and augmentation are functions of (seed, epoch, place in the epoch) alone, so epoch e is
    the same to the bit whichever epoch the stream began with: resuming needs no iterator state.

    Args:
        dataset: What `load` gave.
        batch_size: Examples in a batch, over all replicas.
        epochs: Where to stop.
        first_epoch: Where to begin.
        seed: Decides order and augmentation.

    Returns:
        tf.data.Dataset of (images float32 [batch, S, S, 3] with pixels 0..255, labels int32
        [batch]), steps_per_epoch batches an epoch; what is left over differs between epochs.

    Raises:
        InputError: batch_size is not in 1..len(train).
    """
    count = steps_per_epoch(dataset, batch_size) * batch_size
    source, size, kind = dataset.train.source, dataset.image_shape[0], dataset.augment
    positions = on_cpu(dataset.train.positions)
    root = on_cpu(np.array([seed % 2**63, 0], np.int64))

    def handles(epoch):
        order_key, view_key = tf.unstack(tf.random.split(tf.random.fold_in(root, epoch), 2))
        seeds = tf.random.stateless_uniform([count, 2], view_key, None, None, tf.int32)
        # zip ends with the shorter: `count` handles, so that no batch straddles two epochs.
        return tf.data.Dataset.zip(
            source.shuffled(positions, order_key), tf.data.Dataset.from_tensor_slices(seeds)
        )

    def example(handle, view):
        image, label = source.example(handle)
        return preprocess.augment(image, kind, size, view), label

    epochs_left = max(epochs - first_epoch, 0)
    batches = (
        tf.data.Dataset.range(first_epoch, first_epoch + epochs_left)
        .flat_map(handles)
        .map(example, tf.data.AUTOTUNE, deterministic=True)
        .batch(batch_size, drop_remainder=True)
        .apply(tf.data.experimental.assert_cardinality(epochs_left * count // batch_size))
    )
    return _finish(batches)


def eval_batches(split: Split, *, dataset, batch_size: int) -> tf.data.Dataset:
    """Return a split's images in their fixed order, the last batch padded to full size.

    Args:
        split: `dataset.train`, `.validation` or `.test`.
        dataset: What `load` gave.
        batch_size: Examples in a batch, over all replicas.

    Returns:
        tf.data.Dataset of ceil(len(split) / batch_size) batches (images float32 [batch, S, S, 3]
        with pixels 0..255, labels int32 [batch], weights float32 [batch]). Padding is zeros and has
        weight 0, so that sums over weights are exact.
    """
    source, size, ratio = split.source, dataset.image_shape[0], dataset.crop_ratio

    def example(handle):
        image, label = source.example(handle)
        return preprocess.evaluation(image, size, ratio), label, tf.constant(1.0)

    def pad(*batch):
        missing = batch_size - tf.shape(batch[0])[0]
        full = [tf.pad(part, [[0, missing]] + [[0, 0]] * (part.shape.rank - 1)) for part in batch]
        return tuple(
            tf.ensure_shape(f, [batch_size, *p.shape[1:]]) for f, p in zip(full, batch, strict=True)
        )

    batches = (
        tf.data.Dataset.zip((source.ordered(split.positions),))  # so that handles come as one
        .map(example, tf.data.AUTOTUNE, deterministic=True)
        .batch(batch_size)
        .map(pad)
        .apply(tf.data.experimental.assert_cardinality(-(-len(split) // batch_size)))
    )
    return _finish(batches)


def images(split: Split, indices, dataset) -> np.ndarray:
    """Return the images at `indices` of the evaluation order, as evaluation sees them.

    Args:
        split: `dataset.train`, `.validation` or `.test`.
        indices: int [k], in any order.
        dataset: What `load` gave.

    Returns:
        uint8 [k, S, S, 3].
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


def _finish(batches: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # Several workers read the same data and take shares of it; files are not theirs to divide.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)
