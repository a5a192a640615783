"""Where artifacts are made, apart from those that are there, and how they are put in place."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from xkd_keras import files
from xkd_keras.errors import InputError
from xkd_keras.ship import savedmodel


@contextmanager
def opened(run_dir: Path) -> Iterator[Path]:
    """Hold the run and give a directory on its disk to make things in; it is gone afterwards."""
    export = run_dir / "export"
    if export.exists() and not export.is_dir():
        raise InputError(f"{export}: is a file; valid: a directory, or a path that does not exist.")
    with files.lock(run_dir):
        for left in run_dir.glob(".partial-*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        directory = Path(tempfile.mkdtemp(prefix=".partial-", dir=run_dir))
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def placed(stage: Path, export: Path, names: Sequence[str]) -> Iterator[None]:
    """Put files in place; where anything fails, all is as it was: a server would load versions."""
    versions, replaced, kept = [], [], Path(tempfile.mkdtemp(dir=stage))
    try:
        for name in sorted(names, key=lambda name: (stage / name).is_dir()):
            target = export / name
            if (stage / name).is_dir():
                base, version = target.parent, int(target.name)
                versions.append(savedmodel.place(stage / name, base, version))
            else:
                if target.exists():
                    _second_name(target, kept / target.name)
                replaced.append(target)
                with files.whole(target) as beside:
                    shutil.move(stage / name, beside)
        yield
    except BaseException:
        for version in versions:
            shutil.rmtree(version, ignore_errors=True)
        for target in replaced:
            with suppress(OSError):  # what cannot be put back keeps no other from it
                _put_back(kept / target.name, target)
        raise


def _put_back(kept: Path, target: Path) -> None:
    if not kept.exists():
        target.unlink(missing_ok=True)
        return
    with files.whole(target) as beside:
        shutil.move(kept, beside)


def _second_name(file: Path, name: Path) -> None:
    try:
        os.link(file, name)
    except OSError:  # not every file system has links
        shutil.copyfile(file, name)
