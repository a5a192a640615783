"""Ctrl-C and SIGTERM: what they interrupt, and what is saved first."""

import contextlib
import signal
from collections.abc import Iterator

from xkd_keras.errors import PreemptedError

_interrupted = _terminated = _saves = False


def handle_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt, and be remembered for `check_interrupted`."""
    signal.signal(signal.SIGINT, _interrupt)


def _interrupt(*_) -> None:
    global _interrupted
    _interrupted = True
    raise KeyboardInterrupt


def check_interrupted() -> None:
    """Raise KeyboardInterrupt where Ctrl-C was pressed.

    Python raises it wherever it is, and loses it where that is a destructor or a callback of C:
    long work asks again between its steps.
    """
    if _interrupted:
        raise KeyboardInterrupt


def restartable() -> None:
    """Let SIGTERM, by which schedulers of clusters take machines back, end in exit code 75."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(*_) -> None:
    global _terminated
    _terminated = True
    if not _saves:
        raise PreemptedError("stopped by SIGTERM")


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """Within it, SIGTERM raises nothing: the work asks `terminated` now and then, and saves."""
    global _saves
    _saves = True
    try:
        yield
    finally:
        _saves = False


def terminated() -> bool:
    """Whether SIGTERM has come."""
    return _terminated
