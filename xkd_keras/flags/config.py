"""The frozen Config of a run: from flags, from a file, and back."""

import collections
import dataclasses
import sys
from pathlib import Path
from typing import Any

from absl import flags

from xkd_keras import data as datasets
from xkd_keras.errors import FlagError, InputError
from xkd_keras.flags import fields, flagfiles, parsing
from xkd_keras.flags.peer import Peer, parse_peer


@dataclasses.dataclass(frozen=True)
class Config(fields.Fields):
    """One run, whole: what `--flagfile=RUN/config.flags` repeats. Field names are flag names."""

    def __post_init__(self):
        for name in ("peer", "export"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        for name in ("run_dir", "data_dir", "teacher_run"):
            object.__setattr__(self, name, parsing.path(getattr(self, name), name))
        for field in dataclasses.fields(self):
            parsing.check(f"--{field.name}", getattr(self, field.name), field.metadata)
        parsing.check_epochs("--learning_rate_epochs", self.learning_rate_epochs)
        datasets.check_augment(self.augment)
        object.__setattr__(self, "image_size", datasets.size_text(self.image_size))

    def require(self, *names: str) -> None:
        """Raise FlagError for the first of these flags that was left empty."""
        for name in names:
            if not getattr(self, name):
                help_text = fields.field(name).metadata["help"]
                if name == "peer":  # whose help is long, as it names every network
                    help_text = (
                        "Give one network or several: --peer=alexnet --peer=resnet20. --help"
                        " lists all."
                    )
                raise FlagError(f"missing. {help_text}", argument=name)

    def peers(self) -> list[Peer]:
        """Return the parsed --peer flags; of two with one name, the second is called NAME-2.

        ResNet and resnet are one name, too: on some disks they would be one file.
        """
        parsed, seen = [], collections.Counter()
        for text in self.peer:
            peer = parse_peer(text, self)
            key = peer.name.lower()
            seen[key] += 1
            if seen[key] > 1:
                peer = dataclasses.replace(peer, name=f"{peer.name}-{seen[key]}")
            parsed.append(peer)
        names = [peer.name for peer in parsed]
        if len({name.lower() for name in names}) < len(names):
            raise FlagError(
                f"two peers have the same name ({', '.join(names)}); set name=...", argument="peer"
            )
        return parsed

    def learning(self) -> dict[str, Any]:
        """Return the learning options of all peers by name; None for those that were not given."""
        return {name: getattr(self, name) for name in fields.LEARNING}

    def open_options(self) -> dict[str, Any]:
        """Return by name the options that have no default of their own; None if not given."""
        names = [field.name for field in dataclasses.fields(self) if field.default is None]
        return {name: getattr(self, name) for name in names}

    def continuing(self, before: "Config") -> "Config":
        """Return this configuration of a run that was begun as `before`.

        Options that are not given and have no default of their own are those that it was begun
        with: earlier versions gave all networks and methods the same.
        """
        left = [name for name, value in self.open_options().items() if value is None]
        return dataclasses.replace(self, **{name: getattr(before, name) for name in left})

    def differences(self, other: "Config") -> list[str]:
        """Return a line for each flag that makes `other` another run than this one."""
        names = [f.name for f in dataclasses.fields(self) if f.metadata["identity"]]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return [
            f"--{name} was {parsing.shown(was)} and is {parsing.shown(now)}"
            for name, was, now in pairs
            if was != now and not (name == "dataset" and datasets.same(was, now))
        ]

    def flags(self) -> str:
        """Return the text of a flag file that repeats this run: every flag that has a value."""
        lines = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            values = value if isinstance(value, tuple) else [value] if value is not None else []
            lines += [f"--{field.name}={parsing.text(v)}" for v in values]
        return "\n".join(lines) + "\n"


def read(path: Path) -> Config:
    """Return the Config of a flag file as `Config.flags` writes it."""
    values = flags.FlagValues()
    define(values)
    try:
        values(["config", *flagfiles.expanded([f"--flagfile={path}"])])
        return from_flags(values)
    except (flags.Error, FlagError) as error:
        raise InputError(f"{path}: not a configuration of a run: {error}") from None


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Define every field of Config as a flag."""
    for field in dataclasses.fields(Config):
        text, choices = field.metadata["help"], field.metadata["choices"]
        kwargs = {"flag_values": values, "module_name": sys.argv[0]}
        kind = fields.kind(field)
        if kind is int:
            flags.DEFINE_integer(field.name, field.default, text, **kwargs)
        elif kind is float:
            flags.DEFINE_float(field.name, field.default, text, **kwargs)
        elif kind is bool:
            flags.DEFINE_bool(field.name, field.default, text, **kwargs)
        elif kind is tuple:
            flags.DEFINE_multi_string(field.name, list(field.default), text, **kwargs)
        else:
            text = f"{text} One of {', '.join(choices)}." if choices else text
            flags.DEFINE_string(field.name, field.default, text, **kwargs)


def from_flags(values: flags.FlagValues = flags.FLAGS) -> Config:
    """Return the Config of parsed flags; raises FlagError for a value that no run could take."""
    return Config(**{f.name: values[f.name].value for f in dataclasses.fields(Config)})
