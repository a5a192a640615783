"""Which epoch of each network is kept, and when a run ends before its last epoch.

Both are functions of the history alone, so that a run that resumes needs to know no more. The
weights of a network's best epoch lie beside the checkpoints, `best-NAME-0012.npz`, written before
the checkpoint of that epoch; older ones go after it. So every checkpoint that can be resumed from
has the best of its history, whenever the process is killed.
"""

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from xkd_keras import files
from xkd_keras.distillation.cohort import Cohort
from xkd_keras.errors import InputError
from xkd_keras.runs import checkpoint
from xkd_keras.runs.history import best


def exhausted(rows: Sequence[Mapping], names: Iterable[str], patience: int) -> bool:
    """Whether no network has become better in the last `patience` epochs; 0: never."""
    if not patience or not rows:
        return False
    return len(rows) - max(best(rows, names).values()) >= patience


def save(directory: Path, cohort: Cohort, rows: Sequence[Mapping]) -> None:
    """Write the weights (or their averages) of networks whose best epoch is the last of `rows`.

    Args:
        directory: Where the checkpoints of the run are.
        cohort: As it is after that epoch.
        rows: Of the history.
    """
    names = [name for name, epoch in best(rows, cohort.peers).items() if epoch == len(rows)]
    with cohort.averaged():
        for name in names:
            arrays = {f"{i:05d}": checkpoint.array(v) for i, v in _variables(cohort, name)}
            with files.whole(_path(directory, name, len(rows))) as beside:
                np.savez(beside, **arrays)


def tidy(directory: Path, names: Iterable[str], rows: Sequence[Mapping]) -> None:
    """Remove what neither the newest checkpoint needs, nor the one before it."""
    names = list(names)
    histories = [rows[: len(rows) - back] for back in range(checkpoint.KEEP)]
    wanted = {
        _path(directory, name, epoch)
        for history in histories
        if history
        for name, epoch in best(history, names).items()
    }
    for path in set(directory.glob("best-*.npz")) - wanted:
        path.unlink()


def put(directory: Path, cohort: Cohort, rows: Sequence[Mapping]) -> dict[str, int]:
    """Give every network the weights of its best epoch; return these epochs by name.

    Raises:
        InputError: A file is gone or damaged.
    """
    epochs = best(rows, cohort.peers)
    for name, epoch in epochs.items():
        path, variables = _path(directory, name, epoch), _variables(cohort, name)
        try:
            with np.load(path) as file:
                arrays = [file[f"{i:05d}"] for i, _ in variables]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path}: is missing or damaged ({error}); restore it, or train in another"
                " directory."
            ) from None
        for (_, variable), array in zip(variables, arrays, strict=True):
            variable.assign(array)
    return epochs


def _variables(cohort: Cohort, name: str) -> list[tuple]:
    return list(enumerate(cohort.peers[name].variables))


def _path(directory: Path, name: str, epoch: int) -> Path:
    return directory / f"best-{name}-{epoch:04d}.npz"
