"""One loaded version of a model: its signatures, and how they are run."""

import gc
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.client import pywrap_tf_session as runtime

from serving.embedded.errors import StatusError, invalid

DEFAULT_SIGNATURE = "serving_default"
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_INIT = "__saved_model_init_op"  # TF 2's initialiser is stored among the signatures
# A deadline is passed on to the runtime, which costs a tenth of a millisecond per call, only if it
# is nearer than this many times the longest call of the signature so far.
_FAR = 20
# Seconds of a call alone, below which waking the threads of the pool costs more than they compute.
_SHORT = 0.004


class Servable:
    """A SavedModel in a session of its own, which threads may share.

    A session runs what TF Serving's C++ runs, and a call costs a third less than a function that
    `tf.saved_model.load` returns.

    Args:
        path: The directory of a version.
        tags: Of the meta graph; upstream's --saved_model_tags.
        config: Parallelism of the session.

    Raises:
        StatusError: It cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        tags: Sequence[str] = ("serve",),
        config: config_pb2.ConfigProto | None = None,
    ):
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        try:
            with graph.as_default():
                meta = tf.compat.v1.saved_model.load(self._session, list(tags), str(path))
        except (tf.errors.OpError, OSError, RuntimeError, ValueError, TypeError) as error:
            self._session.close()
            raise _loading(path, error) from None
        self.all_signatures = dict(sorted(meta.signature_def.items()))
        self.signatures = {k: v for k, v in self.all_signatures.items() if k != _INIT}
        self._tensors = {}  # by name
        self._session._extend_graph()
        self._longest: dict[str, float] = {}  # seconds, by signature
        self._pace = _Pace()

    def signature(self, name: str):
        """Return a SignatureDef; raises KeyError."""
        return self.signatures[name or DEFAULT_SIGNATURE]

    def run(
        self,
        name: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        deadline: float | None = None,
    ) -> list[np.ndarray]:
        """Compute outputs of a signature.

        Args:
            name: Of the signature.
            inputs: Arrays by alias.
            outputs: Aliases.
            deadline: `time.monotonic()` at which nobody waits any longer.

        Raises:
            StatusError: The inputs do not fit, or the deadline has passed.
        """
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded before the run")
        feeds, wanted = {}, {}
        signature = self.signature(name)
        for alias, array in inputs.items():
            feeds[self._tensor(signature.inputs[alias].name)] = array
        # Sorted: the runtime keeps something for every set and order of fetches that it has seen.
        for tensor in sorted({signature.outputs[alias].name for alias in outputs}):
            wanted[tensor] = self._tensor(tensor)
        if left is not None and 0 < _FAR * self._longest.get(name, 0.0) < left:
            left = None
        begin = time.monotonic()
        try:
            with self._pace.call(name, sum(array.nbytes for array in inputs.values())) as short:
                results = self._run(feeds, list(wanted.values()), left, short)
        except (tf.errors.OpError, UnicodeDecodeError, ValueError, TypeError) as error:
            raise _computing(error) from None
        self._longest[name] = max(self._longest.get(name, 0.0), time.monotonic() - begin)
        by_name = dict(zip(wanted, results, strict=True))
        return [by_name[signature.outputs[alias].name] for alias in outputs]

    def _tensor(self, name: str):
        """Return a tensor of the graph as the runtime takes it; raises StatusError."""
        if name not in self._tensors:
            try:
                found = self._session.graph.as_graph_element(name, allow_operation=False)
            except (KeyError, ValueError):
                raise invalid(f"Tensor {name or 'without a name'} is not in the graph") from None
            self._tensors[name] = found._as_tf_output()
        return self._tensors[name]

    def _run(
        self, feeds: Mapping, fetches: Sequence, left: float | None, short: bool
    ) -> list[np.ndarray]:
        """Run the session as C++ does: dtypes are compared, shapes are the kernels' business.

        `Session.run` would cast dtypes and compare shapes, a callable would do neither.

        Args:
            feeds: Arrays by the tensors of the graph.
            fetches: Tensors of the graph.
            left: Seconds until nobody waits any longer; None: forever.
            short: Whether to compute on one thread, so that several calls share the processors
                without waking each other's.
        """
        options = None
        if left is not None or short:
            message = config_pb2.RunOptions()
            message.experimental.use_run_handler_pool = short
            if left is not None:
                message.timeout_in_ms = max(1, int(1000 * left))
            options = runtime.TF_NewBufferFromString(message.SerializeToString())
        try:
            handle = self._session._session
            results = runtime.TF_SessionRun_wrapper(handle, options, feeds, fetches, [], None)
        finally:
            if options is not None:
                runtime.TF_DeleteBuffer(options)
        # A string of rank 0 comes as bytes.
        return [np.array(one, object) if isinstance(one, bytes) else one for one in results]

    def close(self) -> None:
        """Free what the model holds. No call may be running."""
        self._session.close()
        settle()


class _Pace:
    """Knows which calls are so short that they had better stay on one thread.

    A call of a small network spends more time on waking the threads of the pool than they save, and
    several at a time fill the processors anyway.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._running = 0
        self._shortest: dict[tuple[str, int], float] = {}  # seconds, by kind

    @contextmanager
    def call(self, name: str, size: int) -> Iterator[bool]:
        """Time a call of a signature with `size` bytes; yields whether such calls are short."""
        kind = name, size.bit_length()  # few kinds, however many sizes come
        with self._lock:
            self._running += 1
            beside = self._running
        begin = time.monotonic()
        try:
            yield self._shortest.get(kind, _SHORT) < _SHORT
            # Those that ran beside it had their part of the time.
            share = (time.monotonic() - begin) / min(beside, self._running)
            self._shortest[kind] = min(self._shortest.get(kind, share), share)
        finally:
            with self._lock:
                self._running -= 1


def settle() -> None:
    """Exclude everything in memory now from garbage collection.

    Call it whenever a model was loaded or unloaded. A JSON image is thousands of lists. They
    trigger full collections, each of which would walk TensorFlow's whole heap, for up to 190 ms.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _computing(error: Exception) -> StatusError:
    """Return why inputs cannot be computed with, without the stack of whoever traced the model."""
    if isinstance(error, tf.errors.OpError):
        code = _CODES.get(error.error_code, grpc.StatusCode.UNKNOWN)
        text = error.message
    else:  # a kernel's message with raw bytes in it, or an array that no tensor can be made of
        code, text = grpc.StatusCode.INVALID_ARGUMENT, "the model cannot compute these inputs"
        if not isinstance(error, UnicodeDecodeError):
            text = str(error)
    for mark in ("\n\nOriginal stack trace", "\n\nDefined at", "\n\nErrors may have originated"):
        text = text.split(mark)[0]
    return StatusError(code, text)


def _loading(path: Path, error: Exception) -> StatusError:
    """Return why a SavedModel cannot be loaded, without the server's own paths."""
    text = error.message if isinstance(error, tf.errors.OpError) else str(error)
    text = text.replace(str(path), path.name).strip().split("\n")[0]
    code = grpc.StatusCode.INVALID_ARGUMENT
    if isinstance(error, OSError | tf.errors.NotFoundError):
        code = grpc.StatusCode.NOT_FOUND
    return StatusError(code, f"Could not load version {path.name}: {text}")


def check_rank(signature, inputs: Mapping[str, np.ndarray]) -> None:
    """Refuse images of a wrong rank; raises StatusError.

    TF Serving does not compare shapes, and neither does this for vectors and scalars. But a
    convolution of anything but four dimensions may abort the process (tensorflow#111453).
    """
    for alias, array in inputs.items():
        shape = signature.inputs[alias].tensor_shape
        rank = len(shape.dim)
        if shape.unknown_rank or rank < 3 or array.ndim == rank:
            continue
        wanted = ",".join("?" if dim.size < 0 else str(dim.size) for dim in shape.dim)
        got = ",".join(map(str, array.shape))
        raise invalid(f"input {alias} has shape [{got}], expected shape [{wanted}]")
