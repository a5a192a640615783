"""What the small files of a run say, read without TensorFlow."""

import json
from pathlib import Path

from xkd_keras.errors import InputError
from xkd_keras.flags import config as configs
from xkd_keras.runs import whereabouts


def finished(run_dir: Path, argument: str = "run_dir") -> tuple[configs.Config, dict]:
    """Return the configuration and the metrics of a finished run; InputError names `argument`."""
    try:
        metrics = json.loads((run_dir / "metrics.json").read_text())
        _ = metrics["data"]["image_shape"], metrics["data"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        near = whereabouts.near(run_dir)
        raise InputError(
            f"'{run_dir}' contains no finished run{f', but {near!r} does' if near else ''};"
            " valid: a directory that xkd_keras.train has completed (it has a metrics.json).",
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
