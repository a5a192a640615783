"""The whole state of a run in one file, written whole or not at all.

`epoch-0012.npz` holds every variable of every peer and optimizer (weights, moving statistics,
momenta, seeds of dropout, averages, the step) and the history so far; `epoch-0012-batch-000345.npz`
also the running metrics after that many batches of the thirteenth epoch. The order and augmentation
of the data are functions of (seed, epoch), so nothing else is needed to resume as if nothing had
happened.
The CRC that the zip format keeps of each entry reveals a damaged file.
"""

import dataclasses
import json
import sys
import zipfile
from pathlib import Path

import numpy as np

from xkd_keras import files
from xkd_keras.devices import cluster, collectives
from xkd_keras.distillation.cohort import Cohort
from xkd_keras.errors import InputError
from xkd_keras.runs import records

KEEP = 2  # one to fall back to, should the newest be damaged


@dataclasses.dataclass
class Position:
    """How far a run is.

    Attributes:
        history: One dict per finished epoch, JSON-serialisable.
        batch: Batches done of the epoch after them.
        seconds: What those batches took.
        metrics: Their running metrics, one array per variable; none where batch is 0.
    """

    history: list[dict] = dataclasses.field(default_factory=list)
    batch: int = 0
    seconds: float = 0.0
    metrics: list[np.ndarray] = dataclasses.field(default_factory=list)


def save(
    directory: Path, cohort: Cohort, history: list[dict], batch: int = 0, seconds: float = 0.0
) -> Path | None:
    """Write the state; older files but KEEP are removed. Every worker calls it, the chief writes.

    Args:
        directory: Where the checkpoints of the run are.
        cohort: Compiled.
        history: One dict per finished epoch, JSON-serialisable.
        batch: Batches done of the next epoch.
        seconds: What those batches took.

    Returns:
        The new file; None where another worker writes it.
    """
    variables = [*state(cohort), *(_metrics(cohort) if batch else ())]
    arrays = {f"{i:05d}": array(variable) for i, variable in enumerate(variables)}
    if not cluster.is_chief(cohort.distribute_strategy):
        return None
    about = {"history": history, "batch": batch, "seconds": seconds, "variables": len(variables)}
    path = directory / records.checkpoint_name(len(history), batch)
    with files.whole(path) as beside:
        np.savez(beside, about=np.array(json.dumps(about)), **arrays)
    for old in records.checkpoints(directory)[KEEP:]:
        old.unlink()
    return path


def restore(directory: Path, cohort: Cohort) -> Position:
    """Put the newest readable state into the cohort; say so on stderr if a newer one is damaged.

    Every worker calls it; the chief reads.

    Args:
        directory: Where the checkpoints of the run are; may not exist.
        cohort: Compiled, of the same peers and optimizers.

    Returns:
        How far the run was; nowhere if there is no file, and then nothing is changed. Only the
        chief's has the rows of the history, those of others are empty.

    Raises:
        InputError: Every file is damaged, or they are of other peers.
    """
    strategy, variables = cohort.distribute_strategy, state(cohort)
    with collectives.agreed(strategy):
        about, arrays = _newest(directory, variables) if cluster.is_chief(strategy) else ({}, [])
    done, batch = len(about.get("history", ())), about.get("batch", 0)
    done, batch = (int(n) for n in collectives.from_chief(strategy, np.array([done, batch])))
    if not done and not batch:
        return Position()
    metrics = _metrics(cohort) if batch else []
    # (To read a metric would ask all workers for their parts.)
    arrays = arrays or [_zeros(variable) for variable in [*variables, *metrics]]
    arrays = collectives.from_chief(strategy, arrays)
    for variable, array in zip(variables, arrays, strict=False):
        variable.assign(array)
    history = about.get("history", [{}] * done)
    return Position(history, batch, about.get("seconds", 0.0), arrays[len(variables) :])


def state(cohort: Cohort) -> list:
    """Return all that a run is: variables of peers, teacher, optimizers, averages, in their order.

    Metrics are not among them: they start anew each epoch.
    """
    peers = [variable for peer in cohort.peers.values() for variable in peer.variables]
    averages = cohort.averages.variables if cohort.averages else []
    return [*peers, *cohort.of_teacher(), *cohort.optimizer.state(), *averages]


def metrics(cohort: Cohort) -> list[np.ndarray]:
    """Return the running metrics of an epoch, as `Position.metrics` holds them."""
    return [array(variable) for variable in _metrics(cohort)]


def put_metrics(cohort: Cohort, arrays: list[np.ndarray]) -> None:
    """Set the running metrics of an epoch to what `Position.metrics` holds."""
    for variable, array in zip(_metrics(cohort), arrays, strict=True):
        variable.assign(array)


def _metrics(cohort: Cohort) -> list:
    return [variable for metric in cohort.metrics for variable in metric.variables]


def array(variable) -> np.ndarray:
    """Return a variable's value as NumPy can write it and read it again."""
    value = np.asarray(variable)
    # NumPy writes bfloat16 but cannot read it; float32 holds every value of it.
    return value.astype("float32") if value.dtype.name == "bfloat16" else value


def _zeros(variable) -> np.ndarray:
    """Return zeros that are as `array` would be."""
    dtype = "float32" if variable.dtype == "bfloat16" else variable.dtype
    return np.zeros(variable.shape, dtype)


def _newest(directory: Path, variables: list) -> tuple[dict, list[np.ndarray]]:
    """Return what the newest readable file says and holds; empty if there is no file."""
    paths = records.checkpoints(directory)
    for path in paths:
        try:
            with np.load(path) as file:
                about = json.loads(str(file["about"]))
                arrays = [file[f"{i:05d}"] for i in range(about["variables"])]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            print(
                f"warning: {path} is damaged ({error}); trying the previous checkpoint",
                file=sys.stderr,
            )
            continue
        shapes = [tuple(variable.shape) for variable in variables]
        if shapes != [array.shape for array in arrays][: len(shapes)]:
            raise InputError(
                f"{path}: was saved with other peers or optimizers than this configuration has."
            )
        return about, arrays
    if paths:
        raise InputError(f"{directory}: every checkpoint is damaged; delete it to start over.")
    return {}, []
