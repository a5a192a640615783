"""What is made once for a whole test run, whichever of its processes comes first."""

import fcntl
import os


def directory(tmp_path_factory):
    """Return where the processes of this test run share what they make."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made(shared, name, make):
    """Return `shared / name`, made by the first that comes; others wait for it."""
    path, done = shared / name, shared / f".{name}-made"
    with open(shared / f".{name}-lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(path)
            done.touch()
    return path
