"""The loops that load a server, and what they measure. `serving.load` is the command."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Step:
    """What was measured at one load.

    Attributes:
        load: Clients, or requests per second.
        throughput: Answers per second.
        errors: Number of requests without an answer.
        latencies: Milliseconds: the percentiles of PERCENTILES, and the largest.
        first_error: The first error.
    """

    load: float
    throughput: float
    errors: int
    latencies: tuple[float, ...]
    first_error: str = ""


class Recorder:
    """Latencies of the requests that began after the warm-up; threads may share it."""

    def __init__(self, begin: float, end: float):
        self.begin, self.end = begin, end
        self._latencies, self._errors, self._first = [], 0, ""
        self._lock = threading.Lock()

    def call(self, send: Callable[[], None], due: float) -> None:
        """Send a request that was due at a time, and record its latency or error."""
        try:
            send()
            error = ""
        except Exception as problem:  # the load continues whatever a transport raises
            error = f"{type(problem).__name__}: {problem}".splitlines()[0]
        if self.begin <= due < self.end:
            with self._lock:
                if error:
                    self._errors, self._first = self._errors + 1, self._first or error
                else:
                    self._latencies.append(time.perf_counter() - due)

    def step(self, load: float) -> Step:
        """Return the results."""
        latencies = 1000 * np.array(self._latencies)
        values = (math.nan,) * (len(PERCENTILES) + 1)
        if len(latencies):
            values = (*np.percentile(latencies, PERCENTILES), latencies.max())
        seconds = self.end - self.begin
        values = tuple(map(float, values))
        return Step(load, len(latencies) / seconds, self._errors, values, self._first)


def closed_loop(
    connect: Callable[[], Callable], clients: int, warm_up: float, seconds: float
) -> Step:
    """Return what is measured by clients that send one request after the other.

    Args:
        connect: Makes a function that sends a request and returns when it is answered.
        clients: How many; each has a thread.
        warm_up: Seconds before measuring.
        seconds: How long to measure.
    """
    begin = time.perf_counter() + warm_up
    recorder = Recorder(begin, begin + seconds)

    def client():
        send = connect()
        while (due := time.perf_counter()) < recorder.end:
            recorder.call(send, due)

    _threads(client, clients)
    return recorder.step(clients)


def open_loop(
    connect: Callable[[], Callable],
    rate: float,
    clients: int,
    warm_up: float,
    seconds: float,
    seed: int = 0,
) -> Step:
    """Return what is measured when requests come at random times, whatever the server does.

    Latency counts from when a request was due. Otherwise a server that stalls would be spared the
    requests that it kept from being sent.

    Args:
        connect: As in `closed_loop`.
        rate: Requests per second; the gaps between them are exponential.
        clients: How many requests may be in flight.
        warm_up: Seconds before measuring.
        seconds: How long to measure.
        seed: Of the random times.
    """
    start = time.perf_counter()
    recorder = Recorder(start + warm_up, start + warm_up + seconds)
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * (warm_up + seconds)) + 1)
    dues = iter((start + np.cumsum(gaps)).tolist())
    lock = threading.Lock()

    def client():
        send = connect()
        while True:
            with lock:
                due = next(dues, None)
            if due is None:
                return
            time.sleep(max(0.0, due - time.perf_counter()))
            recorder.call(send, due)

    _threads(client, clients)
    return recorder.step(rate)


def _threads(work: Callable[[], None], count: int) -> None:
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def row(step: Step) -> str:
    """Return a step as a line of the table."""
    times = "".join(f"{value:10.2f}" for value in step.latencies)
    return f"{step.load:>8g}{step.throughput:>12.1f}{times}{step.errors:>8}"


def draw(steps: Sequence[Step], path: str, unit: str) -> None:
    """Plot latency percentiles and throughput against load."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    loads = [step.load for step in steps]
    for i, percentile in enumerate(PERCENTILES):
        values = [step.latencies[i] for step in steps]
        left.plot(loads, values, marker="o", label=f"{percentile} %")
    left.set_yscale("log")
    left.set_ylabel("latency (ms)")
    left.legend(title="percentile")
    right.plot(loads, [step.throughput for step in steps], marker="o", color="#0072b2")
    right.set_ylabel("answers a second")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xlabel(unit)
        axes.grid(True, color="#dddddd")
    figure.savefig(path)
