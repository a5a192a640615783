"""Where the folder of a run's images is: for commands in another directory, or on another day."""

import contextlib
import dataclasses
import json
import os
from pathlib import Path

from xkd_keras.data import names
from xkd_keras.errors import InputError, nearest
from xkd_keras.flags import config as configs


def containing(path: Path) -> Path | None:
    """Return the directory of the finished run that a file is in, if it is in one."""
    return next(filter(is_run, path.resolve().parents), None)


def is_run(directory: Path) -> bool:
    """Whether a directory holds a finished run: other programs write a metrics.json, too."""
    return all((directory / name).is_file() for name in ("metrics.json", "config.flags"))


def near(path: Path) -> str:
    """Return the finished run that was meant by a path that is none, as it may be; else "".

    That is the one that the path is in, the one nearest by name beside it, or the only one in it.
    """
    if found := containing(path):
        return str(found)
    beside = {each.name for each in _runs_in(path.parent)} - {path.name}
    if name := nearest(path.name, sorted(beside)):
        return str(path.parent / name)
    within = _runs_in(path)
    return str(within[0]) if len(within) == 1 else ""


def _runs_in(directory: Path) -> list[Path]:
    return [each.parent for each in directory.glob("*/metrics.json") if is_run(each.parent)]


def folder_fact(config: configs.Config) -> dict[str, str]:
    """Return what data.json says of it: the whole `path` of a folder, nothing of other data."""
    if not names.is_folder(config.dataset):
        return {}
    return {"path": os.path.realpath(names.folder_path(config.dataset))}


def located(config: configs.Config, run_dir: Path, complete: bool = False) -> configs.Config:
    """Return the configuration with the folder where it was in training, if it is not here.

    Of a run that is `complete`, also where another folder here has the same relative path. (The
    folder of a run that goes on may be a copy, as its images will tell.)
    """
    path = names.folder_path(config.dataset)
    other = complete and names.is_folder(config.dataset) and not os.path.isabs(path)
    if not (other or _missing(config)):
        return config
    there = _recorded(run_dir, "path")
    if not os.path.isdir(there) or there == os.path.realpath(path):
        return config
    return dataclasses.replace(config, dataset=f"folder:{there}")


def followed(before: configs.Config, now: configs.Config, run_dir: Path) -> configs.Config:
    """Return a run's configuration with the folder that is given now, if its own has gone.

    Whether it is the same one, its images tell: `directory.record` compares them, of a run that is
    not finished.
    """
    moved = _missing(before) and names.is_folder(now.dataset) and not _missing(now)
    moved = moved and not (run_dir / "metrics.json").exists()
    known = moved and fingerprint(run_dir)
    return dataclasses.replace(before, dataset=now.dataset) if known else before


def changed(config: configs.Config, run_dir: Path) -> InputError:
    """Return the error for images that are not those that a run was begun with."""
    was, now = _recorded(run_dir, "path"), folder_fact(config).get("path", "")
    if was and was != now:
        return InputError(
            f"the images of '{config.dataset}' are not those that '{run_dir}' was started with"
            f" (in '{was}'); valid: those images in their new place, or another directory.",
            argument="dataset",
        )
    return InputError(
        f"the images of '{config.dataset}' have changed since '{run_dir}' was"
        " started; restore them, or choose another directory.",
        argument="dataset",
    )


def fingerprint(run_dir: Path) -> str:
    """Return that of the images that a run was begun with; empty where data.json is damaged."""
    return _recorded(run_dir, "fingerprint")


def _recorded(run_dir: Path, name: str) -> str:
    """Return what a run's data.json says; empty where it does not."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return json.loads((run_dir / "data.json").read_text())[name]
    return ""


def check(config: configs.Config, run_dir: Path) -> None:
    """Raise InputError where the folder that a run was trained on has gone."""
    if _missing(config):
        raise InputError(
            f"the images of '{run_dir}' are no longer in '{names.folder_path(config.dataset)}';"
            f" put them back, or write their new place into {run_dir / 'config.flags'}"
            " (--dataset=folder:PATH).",
            argument="dataset",
        )


def _missing(config: configs.Config) -> bool:
    folder = names.folder_path(config.dataset)
    return names.is_folder(config.dataset) and not os.path.isdir(folder)
