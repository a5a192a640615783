"""Every flag once: a frozen Config, its absl flags, its validation and its file."""

import collections
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from xkd_keras import peers
from xkd_keras.errors import FlagError, InputError
from xkd_keras.flags import parsing


def _flag(default: Any, text: str, *, low=None, high=None, choices=None, identity=True):
    """A field that is also a flag; `identity` says whether another value makes it another run."""
    facts = {"help": text, "low": low, "high": high, "choices": choices, "identity": identity}
    return dataclasses.field(default=default, metadata=facts)


# As in `methods.METHODS` and `teachers.TEACHERS`, which need TensorFlow.
METHODS = ("mcod", "solo", "ensemble", "ramp", "dml", "kdcl", "one", "kd")
TEACHERS = ("mean", "leave_one_out", "pairwise", "best", "linear", "min_logit", "gate", "frozen")
HALVES = ("float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Config:
    """One run, whole: what `--flagfile=RUN/config.flags` repeats. Field names are flag names."""

    run_dir: str = _flag("", "Directory of the run; made, or resumed.", identity=False)
    # Data.
    dataset: str = _flag(
        "",
        "digits, glyphs, cifar10, cifar100, imagenet2012, tfds:NAME, or your own: folder:PATH.",
    )
    data_dir: str = _flag("", "Where TFDS keeps data; its own default if empty.", identity=False)
    image_size: int = _flag(0, "Height and width in pixels; 0: the dataset's usual.", low=0)
    augment: str = _flag(
        "auto",
        "How training images vary; auto: the dataset's usual.",
        choices=("auto", "none", "crop", "crop_flip", "inception"),
    )
    train_examples: int = _flag(0, "Stratified, seeded subset of train; 0: all of it.", low=0)
    validation_fraction: float = _flag(
        0.1,
        "Part of train held out where the dataset has a test but no validation split.",
        low=0.01,
        high=0.5,
    )
    skip_unreadable: bool = _flag(False, "Leave corrupt images out and list them, not stop.")
    cache_gib: float = _flag(
        2.0, "Keep a dataset in memory up to this size in GiB; beyond, the order differs.", low=0
    )
    # Peers and how each of them learns; --peer can override everything down to clip_norm.
    peer: tuple[str, ...] = _flag(
        (),
        "A network, repeated: NAME[,option=value...] or your_module:build_fn[,option=value...]."
        f" NAME is one of {', '.join(peers.names())}. Options: name, weight (in the ensemble),"
        " and the flags of how a peer learns, without dashes.",
    )
    optimizer: str = _flag("sgd", "Each peer's optimizer.", choices=("sgd", "adamw"))
    learning_rate: float = _flag(0.1, "Its largest learning rate.", low=0)
    learning_rate_schedule: str = _flag(
        "step", "Its course over training.", choices=("constant", "step", "cosine")
    )
    learning_rate_epochs: str = _flag(
        "", "step: the epochs, as 81:122, at which the rate falls to a tenth; empty: 1/2 and 3/4."
    )
    warmup_epochs: float = _flag(0.0, "Epochs in which the rate rises linearly.", low=0)
    momentum: float = _flag(0.9, "SGD's momentum.", low=0, high=1)
    nesterov: bool = _flag(False, "Nesterov's momentum.")
    weight_decay: float = _flag(5e-4, "L2 in the gradient (sgd) or decoupled (adamw).", low=0)
    clip_norm: float = _flag(0.0, "Largest norm of a peer's gradient; 0: not clipped.", low=0)
    # How they teach each other.
    method: str = _flag(
        "mcod",
        "mcod: windows of growing weight; solo: each alone; ensemble: constant weight; ramp:"
        " growing without windows; dml, kdcl, one: other methods; kd: a teacher trained before.",
        choices=METHODS,
    )
    teacher: str = _flag(
        "auto",
        "Who teaches; auto: the method's own; mean: the ensemble; leave_one_out: that of the"
        " others; pairwise: each other one; best, linear, min_logit: made with the labels' help;"
        " gate: a learned mixture; frozen: --teacher_run.",
        choices=("auto", *TEACHERS),
    )
    teacher_run: str = _flag("", "kd: directory of a finished run, whose networks teach.")
    teacher_peer: str = _flag("", "kd: its network that teaches; empty: their ensemble.")
    temperature: float = _flag(
        3.0, "Softens teacher and peers in the distillation term.", low=0.01, high=1000
    )
    distill_weight_max: float = _flag(1.0, "lambda at full strength.", low=0)
    distill_period: float = _flag(
        2.0, "mcod: epochs of one period, alone first and then distilling.", low=0.001
    )
    distill_duty: float = _flag(0.5, "mcod: part of a period that distils.", low=0, high=1)
    distill_start: float = _flag(0.0, "mcod, ramp: epochs before the first period.", low=0)
    distill_growth: str = _flag(
        "linear",
        "mcod, ramp: how lambda grows from window to window, or step to step; decay: it falls.",
        choices=("constant", "linear", "cosine", "exponential", "sigmoid", "decay"),
    )
    # The run.
    export: tuple[str, ...] = _flag(
        (),
        "A peer to export when the run is complete, or ensemble, or all; repeated. See"
        " xkd_keras.export.",
        identity=False,
    )
    epochs: int = _flag(30, "Passes over the training images.", low=1)
    batch_size: int = _flag(128, "Images a step, over all devices.", low=1)
    eval_batch_size: int = _flag(256, "Images at once in evaluation.", low=1)
    seed: int = _flag(0, "Of weights, order, augmentation and subsets.", low=0, high=2**31 - 1)
    deterministic: bool = _flag(False, "Bit-identical repetition, also after interruptions.")
    strategy: str = _flag(
        "auto",
        "Devices: auto (all GPUs), one, mirrored (all GPUs or logical CPUs), multiworker (the"
        " machines that TF_CONFIG or Slurm names), or tpu.",
        choices=("auto", "one", "mirrored", "multiworker", "tpu"),
    )
    sync_batch_norm: bool = _flag(
        False, "Batch normalisation over the batches of all devices, not of each."
    )
    mixed_precision: str = _flag(
        "none", "Compute in half precision, for GPUs and TPUs.", choices=("none", *HALVES)
    )
    jit_compile: str = _flag(
        "auto", "XLA; auto: as Keras does on GPUs, off on CPUs.", choices=("auto", "on", "off")
    )
    on_nonfinite: str = _flag(
        "stop",
        "A loss that is not finite: stop, or skip that step for that peer.",
        choices=("stop", "skip"),
    )
    logical_cpus: int = _flag(1, "Split the CPU in N devices, to try mirrored.", low=1, high=64)

    def __post_init__(self):
        for name in ("peer", "export"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for field in dataclasses.fields(self):
            parsing.check(f"--{field.name}", getattr(self, field.name), field.metadata)
        parsing.check_epochs("--learning_rate_epochs", self.learning_rate_epochs)

    def require(self, *names: str) -> None:
        """Raise FlagError for the first of these flags that was left empty."""
        for name in names:
            if not getattr(self, name):
                raise FlagError(f"missing. {_field(name).metadata['help']}", argument=name)

    def peers(self) -> "list[Peer]":
        """Return the parsed --peer flags; of two with one name, the second is called NAME-2."""
        parsed, seen = [], collections.Counter()
        for text in self.peer:
            peer = parse_peer(text, self)
            seen[peer.name] += 1
            if seen[peer.name] > 1:
                peer = dataclasses.replace(peer, name=f"{peer.name}-{seen[peer.name]}")
            parsed.append(peer)
        names = [peer.name for peer in parsed]
        if len(set(names)) < len(names):
            raise FlagError(
                f"two have one name, of {', '.join(names)}; set name=...", argument="peer"
            )
        return parsed

    def differences(self, other: "Config") -> list[str]:
        """Return a line for each flag that makes `other` another run than this one."""
        names = [f.name for f in dataclasses.fields(self) if f.metadata["identity"]]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        return [
            f"--{name} was {parsing.shown(was)} and is {parsing.shown(now)}"
            for name, was, now in pairs
            if was != now
        ]

    def flags(self) -> str:
        """Return the text of a flag file that repeats this run."""
        lines = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            values = value if isinstance(value, tuple) else [value]
            lines += [f"--{field.name}={parsing.text(v)}" for v in values]
        return "\n".join(lines) + "\n"


# How the peers of a run teach each other.
TEACHING = (
    "teacher",
    "teacher_peer",
    "temperature",
    "distill_weight_max",
    "distill_period",
    "distill_duty",
    "distill_start",
    "distill_growth",
)
RECIPE = (
    "optimizer",
    "learning_rate",
    "learning_rate_schedule",
    "learning_rate_epochs",
    "warmup_epochs",
    "momentum",
    "nesterov",
    "weight_decay",
    "clip_norm",
)


@dataclasses.dataclass(frozen=True)
class Peer:
    """One parsed --peer: its name, the builder of its network, its ensemble weight, its recipe."""

    name: str
    builder: str
    weight: float
    recipe: dict[str, Any]


def parse_peer(text: str, config: Config) -> Peer:
    """Parse NAME[,option=value...]; options left out are the flags of the same name.

    Raises:
        FlagError: An option that is unknown, has no value or a bad one, or an unusable name.
    """
    builder, *pairs = [part.strip() for part in text.split(",")]
    if not builder:
        raise FlagError(f"received '{text}'; valid: NAME[,option=value...].", argument="peer")
    values: dict[str, Any] = {name: getattr(config, name) for name in RECIPE}
    extra = {"name": builder.rpartition(":")[2], "weight": 1.0}
    for pair in pairs:
        option, equals, value = pair.partition("=")
        where = f"--peer={text}: {option or pair!r}"
        if option not in (*extra, *RECIPE):
            raise FlagError.unknown("peer", option, (*extra, *RECIPE), "option")
        if not equals or not value:
            raise FlagError(f"{where}: has no value; valid: {option}=VALUE.")
        if option in extra:
            extra[option] = value if option == "name" else parsing.number(where, value, float)
        else:
            values[option] = parsing.parse(where, value, _field(option))
    # The name becomes a file's and a variable's: only what all systems and Keras take.
    usable = peers.LABEL.fullmatch(extra["name"])
    if not usable or extra["name"] == "ensemble":
        raise FlagError(
            f"--peer={text}: cannot be named '{extra['name']}'; valid: letters, digits, '-', '_'"
            " and '.', not 'ensemble'; set it with name=..."
        )
    if not extra["weight"] >= 0:
        raise FlagError(f"--peer={text}: weight: received {extra['weight']}; valid: 0 or more.")
    return Peer(extra["name"], builder, extra["weight"], values)


def learning_rate_epochs(text: str, epochs: int) -> list[float]:
    """Return the epochs at which the rate falls: those of `text` (81:122), else 1/2 and 3/4."""
    return [float(part) for part in text.split(":")] if text else [epochs / 2, epochs * 3 / 4]


def options(flag: str, text: str, names: Sequence[str]) -> dict[str, Any]:
    """Parse `option=value,...`, where options are flags of these names, into their values.

    Raises:
        FlagError: An option that is unknown, is given twice, has no value or a bad one.
    """
    values: dict[str, Any] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        option, equals, value = pair.partition("=")
        if option not in names:
            raise FlagError.unknown(flag.removeprefix("--"), option, names, "option")
        if option in values or not equals or not value:
            raise FlagError(f"{flag}: received '{pair}'; valid: {option}=VALUE, once.")
        values[option] = parsing.parse(f"{flag}: {option}", value, _field(option))
    return values


def read(path: Path) -> Config:
    """Return the Config of a flag file as `Config.flags` writes it."""
    values = flags.FlagValues()
    define(values)
    try:
        values(["config", f"--flagfile={path}"])
        return from_flags(values)
    except (flags.Error, FlagError) as error:
        raise InputError(f"{path}: not a configuration of a run: {error}") from None


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Define every field of Config as a flag."""
    for field in dataclasses.fields(Config):
        text, choices = field.metadata["help"], field.metadata["choices"]
        kwargs = {"flag_values": values, "module_name": sys.argv[0]}
        if field.type is int:
            flags.DEFINE_integer(field.name, field.default, text, **kwargs)
        elif field.type is float:
            flags.DEFINE_float(field.name, field.default, text, **kwargs)
        elif field.type is bool:
            flags.DEFINE_bool(field.name, field.default, text, **kwargs)
        elif isinstance(field.default, tuple):
            flags.DEFINE_multi_string(field.name, list(field.default), text, **kwargs)
        else:
            text = f"{text} One of {', '.join(choices)}." if choices else text
            flags.DEFINE_string(field.name, field.default, text, **kwargs)


def from_flags(values: flags.FlagValues = flags.FLAGS) -> Config:
    """Return the Config of parsed flags; raises FlagError for a value that no run could take."""
    return Config(**{f.name: values[f.name].value for f in dataclasses.fields(Config)})


def _field(name: str) -> dataclasses.Field:
    return Config.__dataclass_fields__[name]
