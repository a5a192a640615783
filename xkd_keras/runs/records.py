"""What the small files of a run say, read without TensorFlow."""

import json
import re
from pathlib import Path

from xkd_keras.errors import InputError, first_line
from xkd_keras.flags import config as configs
from xkd_keras.runs import whereabouts

_CHECKPOINT = re.compile(r"epoch-(\d{4,})(?:-batch-(\d{6,}))?\.npz")


def finished(run_dir: Path, argument: str = "run_dir") -> tuple[configs.Config, dict]:
    """Return the configuration and the metrics of a finished run; InputError names `argument`."""
    path = run_dir / "metrics.json"
    try:
        metrics = json.loads(path.read_text())
        _ = metrics["data"]["image_shape"], metrics["data"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        if gone or not whereabouts.is_run(run_dir):
            raise _no_run(run_dir, argument) from None
        raise InputError(
            f"{path} is damaged or cannot be read ({first_line(error)}); valid:"
            f" {remedy(run_dir, path)}.",
            argument=argument,
        ) from None
    return configuration(run_dir, complete=True), metrics


def _no_run(run_dir: Path, argument: str) -> InputError:
    near = whereabouts.near(run_dir)
    return InputError(
        f"'{run_dir}' contains no finished run{f', but {near!r} does' if near else ''};"
        " valid: a directory that xkd_keras.train has completed (it has a metrics.json).",
        argument=argument,
    )


def remedy(run_dir: Path, path: Path) -> str:
    """Return what to do about a file that training wrote at its end: there it may write it again.

    Without a checkpoint, the same command would train from the first epoch.
    """
    if not checkpoints(run_dir / "checkpoints"):
        return f"restore {path.name} from a copy, or train again in another directory"
    metrics = run_dir / "metrics.json"
    first = "" if path == metrics else "restore the file, or "
    return (
        f"{first}delete {metrics} and run the training command again: it rewrites the file from"
        " the last checkpoint in RUN/checkpoints"
    )


def checkpoint_name(epochs: int, batch: int) -> str:
    """Return what the file is called that holds the state after so many epochs and batches."""
    return f"epoch-{epochs:04d}{f'-batch-{batch:06d}' if batch else ''}.npz"


def checkpoints(directory: Path) -> list[Path]:
    """Return the checkpoints, newest first; copies that people or programs made are none."""
    found = [(_CHECKPOINT.fullmatch(path.name), path) for path in directory.glob("epoch-*.npz")]
    places = {path: (int(name[1]), int(name[2] or 0)) for name, path in found if name}
    return sorted(places, key=places.get, reverse=True)


def configuration(run_dir: Path, complete: bool = False) -> configs.Config:
    """Return what RUN/config.flags says, its images where they are; InputError without it.

    `complete`: as of `whereabouts.located`.
    """
    path = run_dir / "config.flags"
    if not path.is_file():
        raise InputError(
            f"{path} is missing, which records how the run was trained. Restore it, or train"
            " again in another directory."
        )
    return whereabouts.located(configs.read(path), run_dir, complete)
