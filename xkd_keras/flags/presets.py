"""--preset: flags that suit a kind of data, in the place of those that were not given."""

import dataclasses
import sys
from collections.abc import Collection
from typing import Any

from absl import flags

from xkd_keras import data as datasets
from xkd_keras.errors import FlagError, InputError
from xkd_keras.flags import config as configs
from xkd_keras.flags import parsing

_BATCH = 64
_SMALL = 64**2  # pixels; below, an inception crop of 8 % would leave nothing to see


def photos(config: configs.Config) -> dict[str, Any]:
    """Return the flags for a folder of photographs; README.md has the reasons."""
    height, width = datasets.resolve(config.dataset, None, config.image_size, "auto").image_size
    crops = "crop+flip" if height * width <= _SMALL else "inception"
    return {
        "batch_size": _BATCH if _enough(config) else None,
        "augment": f"{crops}+colour",
        "learning_rate_schedule": "cosine",
        "warmup_epochs": min(2.0, config.epochs / 10),
        "label_smoothing": 0.1,
        "ema": 0.99,
        "keep": "last",
        "patience": 0,
    }


def _enough(config: configs.Config) -> bool:
    """Whether there are four batches of training images: of fewer, what is usual is smaller."""
    if config.batch_size:
        return True  # it was given
    if config.train_examples or not datasets.is_folder(config.dataset):
        return not 0 < config.train_examples < 4 * _BATCH
    try:
        return datasets.training_files(config.dataset, config.validation_fraction) >= 4 * _BATCH
    except (InputError, OSError):  # told where it is read
        return True


_LENGTH = {"epochs": 60}  # what others may depend on
PRESETS = {"photos": photos}


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Define --preset beside the flags of a run."""
    flags.DEFINE_string(
        "preset",
        "",
        "Choose values for the flags that are not given, to suit a kind of data. One of"
        f" {', '.join(PRESETS)}: a folder of photographs. RUN/config.flags records them all.",
        flag_values=values,
        module_name=sys.argv[0],
    )


def from_flags(values: flags.FlagValues = flags.FLAGS) -> configs.Config:
    """Return the Config of parsed flags, --preset among them, and print what that chose."""
    config = configs.from_flags(values)
    if not values.preset:
        return config
    given = {f.name for f in dataclasses.fields(config) if values[f.name].present}
    made = expanded(values.preset, config, given)
    pairs = [
        (f.name, getattr(config, f.name), getattr(made, f.name)) for f in dataclasses.fields(made)
    ]
    chosen = [f"--{name}={parsing.text(now)}" for name, was, now in pairs if now != was]
    print(f"preset {values.preset}: {' '.join(chosen) or 'all its flags were given'}", flush=True)
    return made


def expanded(preset: str, config: configs.Config, given: Collection[str]) -> configs.Config:
    """Return the configuration with a preset's values for all flags but those that were given.

    Args:
        preset: Of `PRESETS`.
        config: As the flags say.
        given: Names of flags that keep their value.

    Raises:
        FlagError: There is no such preset.
    """
    if preset not in PRESETS:
        raise FlagError.unknown("preset", preset, PRESETS)
    for values in (lambda _: _LENGTH, PRESETS[preset]):
        free = {name: value for name, value in values(config).items() if name not in given}
        config = dataclasses.replace(config, **free)
    return config
