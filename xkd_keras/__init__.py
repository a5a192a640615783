"""Co-train different networks, let their ensemble teach each of them, ship the small one."""

import json
import os
import pkgutil
import sys
from pathlib import Path

__version__ = "0.1.0"
# Importing TensorFlow takes seconds; a wrong flag should not wait.
_LAZY = {
    "Cohort": "distillation.cohort.Cohort",
    "losses": "distillation.losses",
    "optimizers": "distillation.optimizers",
    "schedules": "distillation.schedules",
    "teachers": "distillation.teachers",
    "data": "data",
    "peers": "peers",
}
# What the package is written for, by the names of Keras' own configuration.
_KERAS = {"backend": "tensorflow", "image_data_format": "channels_last", "floatx": "float32"}
_MARK = "_XKD_KERAS_COMMAND"  # in the environment of our commands, for the processes they start


def __getattr__(name: str):
    if name in _LAZY:
        if name == "Cohort":  # one with layers of ours loads where this is imported
            pkgutil.resolve_name("xkd_keras.peers.batch_norm")
        return pkgutil.resolve_name(f"xkd_keras.{_LAZY[name]}")
    raise AttributeError(f"module 'xkd_keras' has no attribute '{name}'")


def _runs_a_command() -> bool:
    """Whether this process is `python -m xkd_keras...`, or was started by one."""
    after = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else []
    return _MARK in os.environ or "".join(after[:1]).partition(".")[0] == __name__


def _configured() -> dict[str, str]:
    """Return how Keras is configured: as it is, or as it will be when it is imported."""
    if keras := sys.modules.get("keras"):
        return {name: getattr(keras.config, name)() for name in _KERAS}
    home = Path(os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras"))  # maybe homeless
    try:
        stored = json.loads((home / "keras.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stored = {}
    return {**stored, "backend": os.environ["KERAS_BACKEND"]}


def _check(configured: dict[str, str]) -> None:
    """Raise ImportError where a program of the user's has configured Keras otherwise."""
    for name, needed in _KERAS.items():
        if configured.get(name, needed) != needed:
            variable = "KERAS_BACKEND" if name == "backend" else f"{name} of keras.json"
            raise ImportError(
                f"xkd_keras: Keras' {name} is '{configured[name]}'; valid: '{needed}' (set"
                f" {variable} before Keras is imported)."
            )


# TensorFlow's start-up notices say nothing about the user's run. 2 is what we set ourselves, and
# what the processes inherit that a program starts after it has imported this package.
QUIET = "2"
WANTS_LOGS = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", QUIET) in ("0", "1")
RUNS_A_COMMAND = _runs_a_command()  # else a program of the user's, who may want all of Keras
if RUNS_A_COMMAND:  # which is ours from its first line: `start_up` sets the rest
    os.environ |= {"KERAS_BACKEND": "tensorflow", _MARK: "1"}
else:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    _check(_configured())
