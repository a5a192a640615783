"""TFRecord files read as a stream: for what is too large for memory, and to fill memory once."""

import numpy as np
import tensorflow as tf

from xkd_keras.data import preparation
from xkd_keras.data.sources import Source

OPEN_FILES = 16  # files read in turn while shuffling
SHUFFLE_BLOCK = 2048  # records shuffled together at most: about 250 MB of ImageNet
_BLOCK_BYTES = 2**28  # and so many fewer, where they are larger


def in_order(labels: np.ndarray) -> bool:
    """Whether examples of one class follow each other much more often than by chance."""
    shares = np.bincount(labels) / max(1, len(labels))
    equal = np.mean(labels[1:] == labels[:-1]) if len(labels) > 1 else 0.0
    chance = np.sum(shares**2)
    return bool(equal > (1 + chance) / 2 and np.count_nonzero(shares) > 1)


class Records(Source):
    """Serialized examples in TFRecord files; a handle is (index, serialized example).

    Example i is number i when the files are read one after the other. Shuffling takes the files in
    a random order, several in turn, and then permutes block after block. That is weaker than a full
    permutation, and enough: TFDS mixes the examples when it writes them. See `in_order`.
    """

    def __init__(self, files, lengths, parse, labels, decode=preparation.decode):
        """Hold the names of the files.

        Args:
            files: Names of TFRecord files.
            lengths: Number of records in each.
            parse: Graph function: scalar string, a record -> (encoded image, int64 label).
            labels: int32 [n], or an empty array for a source whose labels are not known yet.
            decode: Graph function: encoded image -> uint8 [h, w, 3].
        """
        super().__init__(labels)
        self._files = list(files)
        self._lengths = np.asarray(lengths, np.int64)
        self._starts = np.cumsum(self._lengths) - self._lengths
        self.parse, self.decode = parse, decode

    def __len__(self) -> int:
        return int(self._lengths.sum())

    def first(self) -> tf.data.Dataset:
        """Return the first record alone: `ordered` would take a tenth of a second to start."""
        return tf.data.TFRecordDataset(self._files).take(1)

    def ordered(self, positions):
        first, last = self._within(positions)
        order = np.flatnonzero(first < last)
        # What follows the last wanted record of a file is not worth reading.
        counts = positions[last[order] - 1] - self._starts[order] + 1
        with tf.device("CPU:0"):  # where tf.data can hold them by reference
            files = tf.data.Dataset.zip(
                self._file_slices(order), tf.data.Dataset.from_tensor_slices(counts)
            )
            chosen = _only(positions, len(self))
        return files.flat_map(lambda slice_, count: self._read(*slice_).take(count).filter(chosen))

    def sample(self, positions, count, seed):
        """Return some of a few files: those of all files would take as long as reading them all."""
        first, last = self._within(positions)
        order = np.random.RandomState(seed).permutation(np.flatnonzero(first < last))
        each = -(-count // min(OPEN_FILES, len(order)))
        parts = [np.arange(first[i], min(last[i], first[i] + each)) for i in order]
        return np.sort(np.concatenate(parts)[:count])

    def _within(self, positions) -> np.ndarray:
        """Return how many positions are before the start and before the end of each file."""
        return np.searchsorted(positions, [self._starts, self._starts + self._lengths])

    def shuffled(self, positions, key, share=(0, 1), batch=1):
        file_key, block_key = tf.unstack(tf.random.split(key, 2))
        order = tf.random.experimental.stateless_shuffle(tf.range(len(self._files)), seed=file_key)
        only = _only(positions, len(self))
        records = self._parts(positions, order, share).interleave(
            lambda file, start, skip, take: (
                self._read(file, start).filter(only).skip(skip).take(take)
            ),
            cycle_length=OPEN_FILES,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        blocks = records.batch(self._block()).enumerate()
        return blocks.map(
            lambda i, block: _permute(block, tf.random.fold_in(block_key, i))
        ).unbatch()

    def _block(self) -> int:
        """Return how many records are shuffled together, by the size of those in the first file."""
        each = tf.io.gfile.stat(self._files[0]).length / max(1, self._lengths[0])
        return int(np.clip(_BLOCK_BYTES / max(1.0, each), 1, SHUFFLE_BLOCK))

    def example(self, handle):
        index, record = handle
        encoded, _ = self.parse(record)
        return self.decode(encoded), tf.gather(self._labels, index)

    def _file_slices(self, order) -> tf.data.Dataset:
        names = tf.gather(tf.constant(self._files), order)
        starts = tf.gather(tf.constant(self._starts), order)
        return tf.data.Dataset.from_tensor_slices((names, starts))

    def _parts(self, positions, order, share) -> tf.data.Dataset:
        """Return the (file, start, skip, take) that are one worker's, of the files in this order.

        The wanted examples, file after file, are cut into equal ranges; a range begins and ends
        within a file, so its reader skips some there and takes some.
        """
        first, after = (
            tf.searchsorted(positions, tf.constant(edges))
            for edges in (self._starts, self._starts + self._lengths)
        )
        wanted = tf.gather(tf.cast(after - first, tf.int64), order)
        before = tf.cumsum(wanted, exclusive=True)
        low, high = (tf.reduce_sum(wanted) * i // share[1] for i in (share[0], share[0] + 1))
        skip = tf.clip_by_value(low - before, 0, wanted)
        take = tf.clip_by_value(high - before, 0, wanted) - skip
        some = take > 0
        files = self._file_slices(tf.boolean_mask(order, some))
        counts = (tf.boolean_mask(skip, some), tf.boolean_mask(take, some))
        both = tf.data.Dataset.zip(files, tf.data.Dataset.from_tensor_slices(counts))
        return both.map(lambda file, count: (*file, *count))

    def _read(self, file, start) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(file).enumerate(start)


def _only(positions, total: int):
    """Return a predicate of (index, record): is the index among `positions`?"""
    mask = tf.scatter_nd(
        tf.cast(positions, tf.int64)[:, None], tf.ones_like(positions, tf.bool), [total]
    )
    return lambda index, _: tf.gather(mask, index)


def _permute(block, key):
    order = tf.random.experimental.stateless_shuffle(tf.range(tf.shape(block[0])[0]), seed=key)
    return tuple(tf.gather(part, order) for part in block)
