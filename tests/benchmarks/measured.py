"""What the benchmarks share: contenders that take turns in processes of their own, and tables.

All contenders are started first and then measured one after the other, round after round, so that
whatever else the machine does meets them all. Each process imports only its own framework.
"""

import contextlib
import multiprocessing
import os
import platform
import resource
import statistics
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
WARM_UP = 3  # steps: the first traces or compiles, the others find their memory
MIDDLE = 127.5  # mean and deviation that networks normalise with, of pixels 0..255
RATE, MOMENTUM, L2 = 1e-3, 0.9, 5e-4  # the rate is small: a fitted batch would have other numbers
TEMPERATURE = 3.0


class Contender(contextlib.AbstractContextManager):
    """A process that answers questions.

    Args:
        make: A module's function. Called in the process, it imports and builds what it needs, and
            returns the function that answers.
        *arguments: Of `make`.
    """

    def __init__(self, make: Callable, *arguments):
        context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
        self.name = f"{make.__name__}{arguments}"
        self.pipe, theirs = context.Pipe()
        target = (theirs, make, arguments)
        self.process = context.Process(target=_answer, args=target, daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, *question):
        """Return what the process answers."""
        try:
            self.pipe.send(question)
            return self.pipe.recv()
        except (EOFError, OSError):  # it has said why
            raise SystemExit(f"{self.name} ended") from None

    def __exit__(self, *_):
        self.pipe.close()
        self.process.join()


def _answer(pipe, make: Callable, arguments: tuple) -> None:
    answer = make(*arguments)
    with contextlib.suppress(EOFError):
        while True:
            pipe.send(answer(*pipe.recv()))


def take_turns(makes: Mapping[str, tuple], rounds: int, steps: int) -> dict[str, float]:
    """Return, by name, the median of what each contender answers to `steps`.

    Args:
        makes: Arguments of `Contender` by name.
        rounds: How often each is asked, beside once to warm up.
        steps: What it is asked.
    """
    with contextlib.ExitStack() as stack:
        running = {name: stack.enter_context(Contender(*make)) for name, make in makes.items()}
        for contender in running.values():
            contender.ask(WARM_UP)
        found = {name: [] for name in running}
        for turn in range(rounds):
            # There and back: nobody always comes after the same one.
            for name in list(running)[:: 1 if turn % 2 == 0 else -1]:
                found[name].append(running[name].ask(steps))
    return {name: statistics.median(values) for name, values in found.items()}


def timed(step: Callable[[], object]) -> Callable[[int], float]:
    """Return the function that takes a number of steps and returns the seconds of one."""

    def run(steps: int) -> float:
        step()  # the others' turns have emptied the caches
        begin = time.perf_counter()
        for _ in range(steps):
            step()
        return (time.perf_counter() - begin) / steps

    return run


def batch(size: int, side: int = 32, classes: int = 100) -> tuple:
    """Return random pixels float32 [size, side, side, 3], 0..255, and labels int32 [size]."""
    import numpy as np

    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (size, side, side, 3)).astype(np.float32)
    return pixels, random.integers(0, classes, size).astype(np.int32)


def cohort(peers: Sequence[str], side=32, classes=100, method="mcod", more: Mapping | None = None):
    """Return a Cohort as `xkd_keras.train` makes it; with `mcod` every step distils, lambda = 1.

    `more`: other flags of a run, by name.
    """
    from xkd_keras.devices import start_up
    from xkd_keras.flags import config

    start_up.load_tensorflow()
    from xkd_keras.runs import building

    settings = config.Config(
        peer=tuple(peers),
        method=method,
        temperature=TEMPERATURE,
        distill_duty=1.0,
        distill_growth="constant",
        learning_rate=RATE,
        learning_rate_schedule="constant",
        momentum=MOMENTUM,
        weight_decay=L2,
        **(more or {}),
    )
    data = types.SimpleNamespace(
        train=types.SimpleNamespace(labels=()),
        image_shape=(side, side, 3),
        class_names=range(classes),
        mean=[MIDDLE] * 3,
        std=[MIDDLE] * 3,
    )
    return building.build_cohort(settings, data, steps=1000)


def train_step(model, pixels, labels) -> Callable[[], Mapping]:
    """Return one step of a compiled Keras model: what `fit` calls, on one batch in memory."""
    import tensorflow as tf

    model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors((pixels, labels)).repeat())
    return lambda: model.train_function(batches)


def own_step(
    peers, batch_size=64, side=32, classes=100, method="mcod", more=None
) -> Callable[[int], float]:
    """Make this project's contender; arguments as of `cohort`."""
    made = cohort(peers, side, classes, method, more)
    return timed(train_step(made, *batch(batch_size, side, classes)))


def peak() -> float:
    """Return the most memory that this process ever had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def circumstances() -> None:
    """Print what the numbers depend on beside the code."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.2f}\n")


def table(head: Sequence[str], rows: Sequence[Sequence]) -> None:
    """Print a table in Markdown; floats with three digits or more."""
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(map(_text, row))} |", flush=True)


def _text(cell) -> str:
    return str(cell) if not isinstance(cell, float) else f"{cell:.{2 if cell < 10 else 1}f}"
