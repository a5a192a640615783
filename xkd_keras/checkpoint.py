"""The whole state of a run in one file, written whole or not at all.

`epoch-0012.npz` holds every variable of every peer and optimizer (weights, moving statistics,
momenta, seeds of dropout, the step) and the history so far. The order and augmentation of the data
are functions of (seed, epoch), so nothing else is needed to go on as if nothing had happened. The
CRC that the zip format keeps of each entry tells a damaged file.
"""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np

from xkd_keras import files
from xkd_keras.cohort import Cohort
from xkd_keras.errors import InputError

KEEP = 2  # one to fall back to, should the newest be damaged


def save(directory: Path, cohort: Cohort, history: list[dict]) -> Path:
    """Write the state after the last epoch of `history`; older files but KEEP are removed.

    Args:
        directory: Where the checkpoints of the run are.
        cohort: Compiled.
        history: One dict an epoch, JSON-serialisable.

    Returns:
        The new file.
    """
    variables = state(cohort)
    arrays = {f"{i:05d}": _array(variable) for i, variable in enumerate(variables)}
    about = {"history": history, "variables": len(variables)}
    path = directory / f"epoch-{len(history):04d}.npz"
    with files.whole(path) as beside:
        np.savez(beside, about=np.array(json.dumps(about)), **arrays)
    for old in _found(directory)[KEEP:]:
        old.unlink()
    return path


def restore(directory: Path, cohort: Cohort) -> list[dict]:
    """Put the newest readable state into the cohort; say so on stderr if a newer one is damaged.

    Args:
        directory: Where the checkpoints of the run are; may not exist.
        cohort: Compiled, of the same peers and optimizers.

    Returns:
        The history up to that state; empty if there is none, and then nothing is changed.

    Raises:
        InputError: Every file is damaged, or they are of other peers.
    """
    found = _found(directory)
    for path in found:
        try:
            with np.load(path) as file:
                about = json.loads(str(file["about"]))
                arrays = [file[f"{i:05d}"] for i in range(about["variables"])]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            print(f"warning: {path} is damaged ({error}); trying the one before", file=sys.stderr)
            continue
        _assign(path, cohort, arrays)
        return about["history"]
    if found:
        raise InputError(f"{directory}: every checkpoint is damaged; delete it to start over.")
    return []


def state(cohort: Cohort) -> list:
    """Return every variable of peers, teacher and optimizers in a fixed order: all that a run is.

    Metrics are not among them: they start anew each epoch.
    """
    peers = [variable for peer in cohort.peers.values() for variable in peer.variables]
    return [*peers, *cohort.of_teacher(), *cohort.optimizer.state()]


def _array(variable) -> np.ndarray:
    array = np.asarray(variable)
    # NumPy writes bfloat16 but cannot read it; float32 holds every value of it.
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def _assign(path: Path, cohort: Cohort, arrays: list[np.ndarray]) -> None:
    variables = state(cohort)
    shapes = [tuple(variable.shape) for variable in variables]
    if shapes != [array.shape for array in arrays]:
        raise InputError(f"{path}: is of other peers or optimizers than this configuration's.")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _found(directory: Path) -> list[Path]:
    """Return the checkpoints, newest first."""
    return sorted(directory.glob("epoch-*.npz"), key=_epoch, reverse=True)


def _epoch(path: Path) -> int:
    return int(path.stem.partition("-")[2])
