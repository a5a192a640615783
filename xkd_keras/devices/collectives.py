"""What all workers of a run must do together, at the same point; alone, it is done at once."""

import contextlib
import functools
import re
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from xkd_keras.devices.cluster import is_chief, several
from xkd_keras.errors import InputError, PreemptedError, first_line

# What TensorFlow calls internal, and is a fault of this worker's own GPU.
_OF_A_GPU = re.compile("cudnn|cublas|cuda|dst tensor|out of memory", re.IGNORECASE)


def total(strategy: tf.distribute.Strategy, values):
    """Return the sums over the workers; all of them must call this at the same point.

    Args:
        strategy: That of the run; of one worker, the values are returned.
        values: Nested arrays, of shapes and dtypes that are the same on every worker.
    """
    if not several(strategy):
        return tf.nest.map_structure(np.asarray, values)
    arrays = [np.asarray(value) for value in tf.nest.flatten(values)]
    # One message; float64 holds every float32 and every whole number of a seed or a counter.
    packed = np.concatenate([array.reshape(-1).astype("float64") for array in arrays])
    parts = np.split(_adder(strategy)(packed).numpy(), np.cumsum([a.size for a in arrays])[:-1])
    sums = [p.astype(a.dtype).reshape(a.shape) for p, a in zip(parts, arrays, strict=True)]
    return tf.nest.pack_sequence_as(values, sums)


@functools.cache
def _adder(strategy: tf.distribute.Strategy):
    local = len(strategy.extended.worker_devices)

    def add(values):
        context = tf.distribute.get_replica_context()
        # Every device of this worker has the values; one of them adds them.
        first = tf.equal(context.replica_id_in_sync_group % local, 0)
        own = tf.where(first, values, tf.zeros_like(values))
        return context.all_reduce(tf.distribute.ReduceOp.SUM, own)

    @tf.function
    def over_workers(values):
        return strategy.experimental_local_results(strategy.run(add, args=(values,)))[0]

    return over_workers


def from_chief(strategy: tf.distribute.Strategy, values):
    """Return the chief's values on every worker; all of them must call this at the same point."""
    if not is_chief(strategy):
        values = tf.nest.map_structure(np.zeros_like, values)
    return total(strategy, values)


def text_from_chief(strategy: tf.distribute.Strategy, text: str) -> str:
    """Return the chief's text on every worker; all of them must call this at the same point."""
    own = np.frombuffer(text.encode(), np.uint8)
    length = int(from_chief(strategy, np.array(len(own))))
    own = np.resize(own, length) if len(own) else np.zeros(length, np.uint8)
    return from_chief(strategy, own).tobytes().decode()


@contextlib.contextmanager
def agreed(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Do what every worker does, and may fail on one of them: then all of them stop.

    Where one had to stop and nothing is wrong, all may be started again.
    """
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(tf.errors.OpError):  # those who are told may have gone
            total(strategy, np.array([0, 1] if isinstance(error, PreemptedError) else [1, 0]))
        raise
    failed, stopped = total(strategy, np.array([0, 0])) if several(strategy) else (0, 0)
    if failed:
        raise InputError("another worker failed; its output says why.")
    if stopped:
        raise PreemptedError("another worker was stopped")


@contextlib.contextmanager
def lost_workers(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Turn what TensorFlow raises where another worker has gone into PreemptedError."""
    try:
        yield
    except (tf.errors.OpError, RuntimeError) as error:
        gone = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
        gone += (tf.errors.DeadlineExceededError, tf.errors.InternalError)
        own = isinstance(error, tf.errors.InternalError) and _OF_A_GPU.search(first_line(error))
        if not several(strategy) or not isinstance(error, gone) or own:
            raise
        raise PreemptedError(f"another worker is gone ({first_line(error)[:200]})") from None


def distribute(strategy: tf.distribute.Strategy, batches):
    """Return batches as `fit` takes them.

    Args:
        strategy: That of the run.
        batches: Function of `share` = (index, count), as those of `xkd_keras.data`.
    """
    if not several(strategy):
        return batches(share=(0, 1))  # Keras shares it among the devices

    def own(context):
        share = batches(share=(context.input_pipeline_id, context.num_input_pipelines))
        devices = context.num_replicas_in_sync // context.num_input_pipelines
        return share.rebatch(_rows(share) // devices) if devices > 1 else share

    return strategy.distribute_datasets_from_function(own)


def _rows(batches: tf.data.Dataset) -> int:
    return tf.nest.flatten(batches.element_spec)[0].shape[0]
