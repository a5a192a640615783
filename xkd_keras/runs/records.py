"""What the small files of a run say, read without TensorFlow."""

import json
from pathlib import Path

from xkd_keras.errors import InputError, first_line
from xkd_keras.flags import config as configs
from xkd_keras.runs import whereabouts


def finished(run_dir: Path, argument: str = "run_dir") -> tuple[configs.Config, dict]:
    """Return the configuration and the metrics of a finished run; InputError names `argument`."""
    path = run_dir / "metrics.json"
    try:
        metrics = json.loads(path.read_text())
        _ = metrics["data"]["image_shape"], metrics["data"]["fingerprint"]
    except (FileNotFoundError, NotADirectoryError):
        near = whereabouts.near(run_dir)
        raise InputError(
            f"'{run_dir}' contains no finished run{f', but {near!r} does' if near else ''};"
            " valid: a directory that xkd_keras.train has completed (it has a metrics.json).",
            argument=argument,
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is damaged or cannot be read ({first_line(error)}); valid: restore it, or"
            " delete it and start the training command again.",
            argument=argument,
        ) from None
    return configuration(run_dir), metrics


def configuration(run_dir: Path) -> configs.Config:
    """Return what RUN/config.flags says, its images where they are; InputError without it."""
    path = run_dir / "config.flags"
    if not path.is_file():
        raise InputError(
            f"{path} is missing, which records how the run was trained. Restore it, or train"
            " again in another directory."
        )
    return whereabouts.located(configs.read(path), run_dir)
