"""Where the images of a split are: in memory, in files, or streamed. All give handles to examples.

A handle is what it takes to make one example: its index, or the record just read. Making handles
is cheap and in order; turning them into images costs, and the pipeline does it in parallel.
"""

import abc
import dataclasses

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import config  # only there can one ask for determinism

from xkd_keras.data import preparation


def on_cpu(value) -> tf.Tensor:
    """Return `value` as a tensor in host memory: functions of tf.data hold it by reference.

    (A numpy array met while tracing would be copied into the graph, which may not exceed 2 GB.)
    """
    with tf.init_scope(), tf.device("CPU:0"):
        return tf.constant(value)


class Source(abc.ABC):
    """A fixed sequence of labelled images.

    Attributes:
        labels: int32 [n], the class of every example.
        names: Of the examples' files; None where they have none.
    """

    names: tuple[str, ...] | None = None

    def __init__(self, labels: np.ndarray):
        self.labels = np.asarray(labels, np.int32)
        self._labels = on_cpu(self.labels)

    @abc.abstractmethod
    def ordered(self, positions: np.ndarray) -> tf.data.Dataset:
        """Return handles of the examples at ascending int64 `positions`, in that order."""

    def sample(self, positions: np.ndarray, count: int, seed: int) -> np.ndarray:
        """Return which of `positions` may stand for all: at most `count`, ascending indexes."""
        return np.sort(np.random.RandomState(seed).permutation(len(positions))[:count])

    @abc.abstractmethod
    def shuffled(
        self, positions: tf.Tensor, key: tf.Tensor, share: tuple[int, int] = (0, 1), batch: int = 1
    ) -> tf.data.Dataset:
        """Return handles of the examples at `positions` in an order set by `key` (int [2]).

        Of `share` = (index, count), those of worker `index`: at least an equal part of every whole
        batch, and no example that another worker has.
        """

    @abc.abstractmethod
    def example(self, handle) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the uint8 [h, w, 3] image and the int32 label that a handle stands for."""


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Some examples of a source: training, validation or test.

    Attributes:
        source: Where the examples are.
        positions: Ascending int64 [n] positions in the source: the order of evaluation.
    """

    source: Source
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def labels(self) -> np.ndarray:
        """int32 [n], in the order of evaluation."""
        return self.source.labels[self.positions]

    def part(self, chosen: np.ndarray) -> "Split":
        """Return the split of the examples at places `chosen` of this one."""
        return Split(self.source, self.positions[chosen])


class RandomAccess(Source):
    """A source that can give any example at once: a handle is its index."""

    @abc.abstractmethod
    def image(self, index: tf.Tensor) -> tf.Tensor:
        """Return image uint8 [h, w, 3] number `index` (int64 scalar), inside a graph."""

    def ordered(self, positions):
        return tf.data.Dataset.from_tensor_slices(on_cpu(positions))

    def shuffled(self, positions, key, share=(0, 1), batch=1):
        order = tf.random.experimental.stateless_shuffle(positions, seed=key)
        if share[1] > 1:
            whole = tf.reshape(
                order[: tf.size(order) // batch * batch], [-1, share[1], batch // share[1]]
            )
            order = tf.reshape(whole[:, share[0]], [-1])
        return tf.data.Dataset.from_tensor_slices(order)

    def example(self, handle):
        return self.image(handle), tf.gather(self._labels, handle)


class Arrays(RandomAccess):
    """Decoded images uint8 [n, h, w, 3] in memory."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        super().__init__(labels)
        self._images = on_cpu(images)

    def image(self, index):
        return tf.gather(self._images, index)


class Encoded(RandomAccess):
    """Encoded images in memory, where decoded ones would differ in size."""

    def __init__(self, encoded: list[bytes], labels: np.ndarray, decode=preparation.decode):
        super().__init__(labels)
        self._encoded, self._decode = on_cpu(encoded), decode

    def image(self, index):
        return self._decode(tf.gather(self._encoded, index))


class Files(RandomAccess):
    """Image files read by name, where they do not fit into memory."""

    def __init__(self, paths: list[str], labels: np.ndarray):
        super().__init__(labels)
        self._paths = on_cpu(paths)

    def image(self, index):
        return preparation.decode(tf.io.read_file(tf.gather(self._paths, index)))


def side_by_side(source: Source) -> dict:
    """Return the arguments of a map that prepares a source's examples: many at once, in order.

    Where operations must be deterministic, TensorFlow lets encoded pictures be decoded one after
    the other in any case, and complains on stderr of its own change unless it is asked for that.
    """
    if config.is_op_determinism_enabled() and not isinstance(source, Arrays):
        return {}
    return {"num_parallel_calls": tf.data.AUTOTUNE, "deterministic": True}


# Graph code here says cond and while_loop itself. TensorFlow would first turn its Python into graph
# code, function by function, which is seconds of every start.
as_written = tf.autograph.experimental.do_not_convert


def untuned(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Return the data set without TensorFlow's tuning of its parallelism as it runs.

    The thread that tunes sleeps for longer and longer, up to a minute, and can miss that its
    pipeline ends where the cores are busy. Whoever closes the pipeline then waits for it: small
    runs side by side waited as long as they computed. AUTOTUNE becomes one call for each thread.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.with_options(options)
