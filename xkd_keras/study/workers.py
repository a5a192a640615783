"""Runs side by side in processes of their own: one that fails, or dies, takes no other with it."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait

from xkd_keras import WANTS_LOGS
from xkd_keras.devices import machine
from xkd_keras.errors import InputError, one_line
from xkd_keras.study import shards
from xkd_keras.study.plan import Task

_SECONDS = 10  # to end in an orderly way
RUNS = 40  # of one process before a new one takes over: TensorFlow never frees all of its graphs


class Worker:
    """A process that is given one task at a time.

    Args:
        threads: Of TensorFlow; 0: as many as there are cores.
    """

    def __init__(self, threads: int):
        context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, threads, WANTS_LOGS), daemon=True
        )
        self.process.start()
        theirs.close()
        self.task: Task | None = None
        self.left = RUNS

    def give(self, task: Task) -> None:
        """Start a task; its outcome arrives in `pipe`."""
        self.task, self.left = task, self.left - 1
        with contextlib.suppress(OSError):  # it has died: `outcome` says how
            self.pipe.send(task)

    def outcome(self) -> tuple[Task, InputError | str]:
        """Return the finished task, and what went wrong or an empty string."""
        try:
            error = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            self.left, code = 0, self.process.exitcode
            died = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
            error = f"its process died ({died})"
        task, self.task = self.task, None
        return task, error

    def stop(self) -> None:
        """End the process: at once where it is busy, else by telling it that there is no more."""
        if self.task:  # before the pipe is gone, of which it would complain
            self.process.kill()
        self.pipe.close()
        self.process.join(_SECONDS)
        self.process.kill()
        self.process.join()


def run_all(
    tasks: Sequence[Task], jobs: int, part: shards.Alone
) -> Iterator[tuple[Task, InputError | str]]:
    """Run tasks, each after the one that it needs, and yield (task, error or "") as they finish.

    Args:
        tasks: In the order in which they should start. A task whose `after` is neither among them
            nor on disk, or has failed, fails.
        jobs: Processes side by side; the cores are divided among them.
        part: Who else takes tasks of these; what others have run is yielded, too.
    """
    waiting, ahead = part.order(tasks), {task.result for task in tasks}
    threads = max(1, machine.cores() // jobs) if jobs > 1 else 0
    with contextlib.ExitStack() as stack:
        workers: list[Worker] = []
        stack.callback(lambda: [worker.stop() for worker in workers])
        while waiting or any(worker.task for worker in workers):
            part.look()
            for task in list(waiting):
                orphan = _orphan(task, ahead)
                error = "its teacher was not trained" if orphan else part.outcome(task)
                if error is not None:
                    waiting.remove(task)
                    ahead.discard(task.result)
                    yield task, error
            for task in [t for t in waiting if t.after not in ahead]:
                if sum(bool(worker.task) for worker in workers) == jobs:
                    break
                if part.take(task):
                    waiting.remove(task)
                    _free(workers, threads).give(task)
            busy = [worker for worker in workers if worker.task]
            for pipe in part.wait([worker.pipe for worker in busy], len(waiting)):
                worker = next(worker for worker in busy if worker.pipe is pipe)
                task, error = worker.outcome()
                part.end(task, error)
                ahead.discard(task.result)
                yield task, error


def _orphan(task: Task, ahead: set) -> bool:
    return task.after is not None and task.after not in ahead and not task.after.exists()


def _free(workers: list[Worker], threads: int) -> Worker:
    """Return a process with nothing to do, or a new one."""
    for worker in [w for w in workers if not w.task and w.left <= 0]:
        worker.stop()
        workers.remove(worker)
    for worker in workers:
        if not worker.task:
            return worker
    workers.append(Worker(threads))
    return workers[-1]


def _serve(pipe, threads: int, wants_logs: bool) -> None:
    """Run tasks until the other end of the pipe is closed."""
    for each in (signal.SIGINT, signal.SIGTERM):  # sent to all, they are the study's, which ends us
        signal.signal(each, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    run = _load(threads, wants_logs)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(_attempt(run, task))


def _end_with_parent() -> None:
    """End this process when the study's is gone, however it went: nobody waits for its result."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _load(threads: int, wants_logs: bool) -> Callable:
    from xkd_keras.devices import start_up

    start_up.load_tensorflow(wants_logs)
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):  # or the first process takes all memory
        tf.config.experimental.set_memory_growth(gpu, True)
    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    from xkd_keras.study import measurement

    return measurement.run


def _attempt(run: Callable, task: Task) -> InputError | str:
    """Run a task; return what went wrong, or an empty string."""
    try:
        run(task)
    except InputError as error:
        return error
    except Exception as error:  # one run must not end a study of hundreds
        reason = one_line(error, 300)
        print(f"{task.result}: {type(error).__name__}: {reason}", file=sys.stderr)
        return f"{type(error).__name__}: {reason}"
    return ""
