"""Many requests, one call: TF Serving's dynamic batching.

There are no threads here. A request that finds a free slot runs the oldest batch itself, at once if
there is nothing to wait for, so batching costs a lone client nothing. A request that finds no free
slot waits in a batch until an earlier batch passes its slot on.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np

from serving.embedded.errors import StatusError, invalid
from serving.embedded.options import BatchingOptions

Run = Callable[[str, Mapping[str, np.ndarray], Sequence[str], float | None], list[np.ndarray]]


class _Task:
    """A request waiting in a batch."""

    def __init__(self, inputs: Mapping[str, np.ndarray], size: int, deadline: float | None):
        self.inputs, self.size, self.deadline = inputs, size, deadline
        self.result: list[np.ndarray] | StatusError | None = None
        self.leads = False  # it holds a slot and is to run a batch
        self.event = threading.Event()  # set when either of these is


@dataclass
class _Batch:
    """Requests that run together, in order of arrival."""

    key: tuple  # signature, outputs, shapes
    due: float  # the latest time to run it
    tasks: list[_Task] = field(default_factory=list)
    size: int = 0
    closed: bool = False  # nothing more goes in


class Batcher:
    """Batches the calls of one model.

    Args:
        run: (signature, inputs, outputs, deadline) -> outputs: the call.
        options: Sizes and times.
        observe: Called with the size of every batch that ran, before padding.
    """

    def __init__(
        self, run: Run, options: BatchingOptions, observe: Callable[[int], None] = lambda n: None
    ):
        self._run, self._options, self._observe = run, options, observe
        self._lock = threading.Condition()
        self._queue: deque[_Batch] = deque()
        self._free = options.slots

    def __call__(
        self,
        name: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        deadline: float | None = None,
    ) -> list[np.ndarray]:
        """Return outputs, computed together with those of other requests; raises StatusError."""
        task = _Task(inputs, self._size(inputs), deadline)
        pad = self._options.pad
        shapes = tuple(
            (alias, array.dtype.str, array.ndim if pad else array.shape[1:])
            for alias, array in sorted(inputs.items())
        )
        with self._lock:
            self._enqueue(task, (name, tuple(outputs), shapes))
            if self._free:
                self._free -= 1
                task.leads = True
            self._lock.notify_all()  # a leader may be waiting for a batch to fill
        while task.result is None:
            if not task.leads:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not task.event.wait(left):
                    self._leave(task)
                    raise StatusError(
                        grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded in the queue"
                    )
            if task.leads:
                task.leads = False
                task.event.clear()
                self._lead()
        if task.leads:  # the slot came together with the result
            with self._lock:
                self._pass_on()
        if isinstance(task.result, StatusError):
            raise task.result
        return task.result

    def _size(self, inputs: Mapping[str, np.ndarray]) -> int:
        """Return the number of examples; raises StatusError if inputs disagree on it."""
        if any(array.ndim == 0 for array in inputs.values()):
            raise invalid("Batching session Run() input tensors must have at least one dimension")
        sizes = {len(array) for array in inputs.values()}
        if len(sizes) != 1:
            raise invalid("Batching session Run() input tensors must have equal 0th-dimension size")
        (size,) = sizes
        if size > self._options.size:
            raise invalid(
                f"Task size {size} is larger than maximum input batch size {self._options.size}"
            )
        return size

    def _enqueue(self, task: _Task, key: tuple) -> None:
        """Put a request into the youngest batch of its kind, or a new one. The lock is held."""
        batch = next((b for b in reversed(self._queue) if b.key == key and not b.closed), None)
        if batch is None or batch.size + task.size > self._options.call:
            if len(self._queue) >= self._options.queue:
                raise StatusError(
                    grpc.StatusCode.UNAVAILABLE,
                    "The batch scheduling queue to which this task was submitted is full",
                )
            if batch is not None:
                batch.closed = True
            batch = _Batch(key, time.monotonic() + self._options.timeout)
            self._queue.append(batch)
        batch.tasks.append(task)
        batch.size += task.size
        batch.closed = batch.size >= self._options.call

    def _leave(self, task: _Task) -> None:
        """Remove a request that timed out from the queue; a slot it was given is passed on."""
        with self._lock:
            for batch in self._queue:
                if task in batch.tasks:
                    batch.tasks.remove(task)
                    batch.size -= task.size
            if task.leads:
                self._pass_on()

    def _lead(self) -> None:
        """Run the next batch, then pass the slot on."""
        try:
            batch = self._next()
            if batch is not None:
                self._execute(batch)
        finally:
            with self._lock:
                self._pass_on()

    def _pass_on(self) -> None:
        """Give the slot to the first request in the queue, or free it. The lock is held."""
        for batch in self._queue:
            for task in batch.tasks:
                if not task.leads:
                    task.leads = True
                    task.event.set()
                    return
        self._free += 1

    def _next(self) -> _Batch | None:
        """Wait for a batch that is full or due, and take it; None if others took them all."""
        with self._lock:
            while self._queue:
                now = time.monotonic()
                for batch in self._queue:
                    if batch.closed or batch.due <= now or not batch.tasks:
                        self._queue.remove(batch)
                        self._lock.notify_all()  # another leader may have waited for this one
                        return batch
                self._lock.wait(self._queue[0].due - now)
            return None

    def _execute(self, batch: _Batch) -> None:
        """Give every request of a batch its result."""
        tasks = batch.tasks
        try:
            if tasks:
                results = self._together(batch.key, tasks)
                for task, result in zip(tasks, results, strict=True):
                    task.result = result
        except Exception as error:
            # One request that cannot be computed must not fail the others in its batch.
            if len(tasks) > 1:
                for task in tasks:
                    self._execute(_Batch(batch.key, 0.0, [task], task.size))
            else:
                failed = isinstance(error, StatusError)
                tasks[0].result = (
                    error if failed else StatusError(grpc.StatusCode.INTERNAL, str(error))
                )
        for task in tasks:
            task.event.set()

    def _together(self, key: tuple, tasks: Sequence[_Task]) -> list[list[np.ndarray]]:
        """Return the outputs of each request, computed in one call, or in pieces if it is large."""
        total, most = sum(task.size for task in tasks), self._options.call
        names = tasks[0].inputs
        inputs = {name: joined([task.inputs[name] for task in tasks], total) for name in names}
        pieces = []
        for i in range(0, max(total, 1), most):
            piece = {alias: array[i : i + most] for alias, array in inputs.items()}
            pieces.append(self._piece(key, piece, _latest(tasks)))
        results = pieces[0]
        if len(pieces) > 1:
            results = [np.concatenate(parts) for parts in zip(*pieces, strict=True)]
        edges = np.cumsum([0] + [task.size for task in tasks])
        return [[array[begin:end] for array in results] for begin, end in itertools.pairwise(edges)]

    def _piece(
        self, key: tuple, inputs: Mapping[str, np.ndarray], deadline: float | None
    ) -> list[np.ndarray]:
        """Return the outputs of one call, without those of its padding; raises StatusError."""
        name, outputs, _ = key
        size = len(next(iter(inputs.values())))
        padded = next((n for n in self._options.allowed if n >= size), size)
        padded = min(padded, self._options.call)  # of a request that is split
        self._observe(size)
        inputs = {alias: joined([array], padded) for alias, array in inputs.items()}
        results = self._run(name, inputs, outputs, deadline)
        if any(array.ndim == 0 or len(array) != padded for array in results):
            raise StatusError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension"
                " sizes of the input tensors",
            )
        return [array[:size] for array in results]


def _latest(tasks: Sequence[_Task]) -> float | None:
    """Return the time at which nobody waits for a batch any longer; None: there is none."""
    deadlines = [task.deadline for task in tasks]
    return None if None in deadlines else max(deadlines)


def joined(arrays: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Return arrays concatenated, and padded to a number of examples with the first of them.

    Where their shapes differ, each is padded to the largest with its own first element
    (tensorflow/core/kernels/batching_util/batch_resource_base, `pad_variable_length_inputs`).
    """
    shapes = [array.shape[1:] for array in arrays]
    if len(set(shapes)) > 1:
        largest = np.max(shapes, axis=0)
        arrays = [_grown(array, largest) for array in arrays]
    missing = size - sum(len(array) for array in arrays)
    if missing:
        first = next((array[:1] for array in arrays if len(array)), None)
        if first is None:
            first = np.zeros((1, *arrays[0].shape[1:]), arrays[0].dtype)
        arrays = [*arrays, np.repeat(first, missing, axis=0)]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _grown(array: np.ndarray, shape: np.ndarray) -> np.ndarray:
    edges = [(0, 0)] + [(0, int(n - m)) for n, m in zip(shape, array.shape[1:], strict=True)]
    filler = array.reshape(-1)[0] if array.size else 0
    return np.pad(array, edges, constant_values=filler)
