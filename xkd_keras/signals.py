"""Ctrl-C and SIGTERM: what they interrupt, and what is saved first."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

from xkd_keras.errors import PreemptedError

_interrupted = _terminated = False
_saves: Callable[[], bool] = bool  # whether there is anything to save: without `saving`, never


def handle_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt, and be remembered for `check_interrupted`."""
    signal.signal(signal.SIGINT, _interrupt)


def _interrupt(*_) -> None:
    global _interrupted
    if not _interrupted:
        _tell()
    _interrupted = True
    raise KeyboardInterrupt


def _tell() -> None:
    """Say at once that it was heard; not by `print`, which may be what the signal interrupted."""
    with contextlib.suppress(OSError):  # the reader is gone
        os.write(1, b"\nclosing ...\n" if os.isatty(1) else b"closing ...\n")


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
    if not _terminated:
        _tell()
    _terminated = True
    if not _saves():
        raise PreemptedError("stopped by SIGTERM")


@contextlib.contextmanager
def saving(begun: Callable[[], bool]) -> Iterator[None]:
    """Within it, SIGTERM raises nothing: the work asks `terminated` now and then, and saves.

    Args:
        begun: Whether there is anything to save yet; until then SIGTERM raises.
    """
    global _saves
    before, _saves = _saves, begun
    try:
        yield
    finally:
        _saves = before


def terminated() -> bool:
    """Whether SIGTERM has come."""
    return _terminated
