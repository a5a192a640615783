"""Files that are written whole or not at all, and directories with one writer."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from xkd_keras.errors import InputError

# EBADF: NFS locks for writing only what is open for it. ENOTSUP is another number on Macs.
_WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EBADF}


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a path to write to, beside `path`; on leaving, flush it to disk and rename it to `path`.

    Whatever interrupts the writing, `path` holds what it held before or all of the new content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".partial-{path.name}")  # the suffix stays: Keras and NumPy look at it
    try:
        yield beside
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write(path: Path, content: str) -> None:
    """Write a text file whole or not at all."""
    with whole(path) as beside:
        beside.write_text(content, encoding="utf-8")


@contextlib.contextmanager
def turn(directory: Path) -> Iterator[None]:
    """Do something in the directory while no other process does, each in its turn.

    Raises:
        InputError: Its file system has no locks.
    """
    with open(directory / ".turn", "a+") as file:
        if not locked(file, fcntl.LOCK_EX):
            raise InputError(
                f"'{directory}' is on a file system without locks, which processes need to share"
                " a directory; valid: a directory on another file system.",
                argument="run_dir",
            )
        yield


def locked(file: IO, how: int) -> bool:
    """Lock an open file as `fcntl.flock` does; False where the file system has no locks.

    Lustre without `flock` is such, and NFS without its daemon.
    """
    try:
        fcntl.flock(file, how)
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        return False
    return True


def cannot_write(directory: Path | str, error: OSError) -> InputError:
    """Return the error for a directory, of argument `run_dir`, that takes no files."""
    return InputError(
        f"cannot write to '{directory}' ({error.strerror}); valid: a directory that exists or can"
        " be created, and is writable.",
        argument="run_dir",
    )


def without_locks(directory: Path | str) -> str:
    """Return the warning where `locked` said False."""
    return (
        f"'{directory}' is on a file system without locks; make sure that no other process works"
        " in it."
    )


@contextlib.contextmanager
def lock(directory: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold the directory for this process; the system lets go of it however the process ends.

    Args:
        directory: To hold.
        shared: Together with other processes that share it.

    Raises:
        InputError: Another process holds it.
    """
    with open(directory / ".lock", "a+") as file:  # to share it on NFS, it has to be readable
        try:
            if not locked(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB):
                print(f"warning: {without_locks(directory)}", flush=True)
        except BlockingIOError:
            raise InputError(
                f"'{directory}' is in use by another process; valid: wait for it, or"
                " choose another directory.",
                argument="run_dir",
            ) from None
        try:
            yield
        finally:
            if [path.name for path in directory.iterdir()] == [".lock"]:  # nothing was begun
                (directory / ".lock").unlink(missing_ok=True)
