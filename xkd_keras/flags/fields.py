"""Every flag of a run once: its default, its help, what is valid."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from xkd_keras import peers
from xkd_keras.flags.peer_help import peer_help


def _flag(
    default: Any,
    text: str,
    *,
    usual=None,
    low=None,
    high=None,
    choices=None,
    identity=True,
    learning=False,
):
    """A field that is also a flag.

    Args:
        default: Its value where none was given.
        text: Its help.
        usual: Its value for most, where the default is None: the method's own.
        low: The smallest valid value.
        high: The largest.
        choices: All valid values.
        identity: Whether another value makes it another run.
        learning: Whether each network may have its own default; the flag's is then None, and
            `usual` in its metadata that of most networks.
    """
    facts = {"help": text, "low": low, "high": high, "choices": choices, "identity": identity}
    if learning:
        shown = default if default != "" else "empty"
        facts["help"] += f" Default: the network's own (see --peer), else {shown}."
    return dataclasses.field(
        default=None if learning else default,
        metadata={**facts, "usual": default if usual is None else usual, "learning": learning},
    )


# As in `methods.METHODS` and `teachers.TEACHERS`, which need TensorFlow.
METHODS = ("xkd", "mcod", "solo", "ensemble", "ramp", "dml", "kdcl", "one", "kd")
TERMS = ("kl", "standardized", "pearson", "refined", "reverse")
TEACHERS = (
    "mean",
    "leave_one_out",
    "gated",
    "swapped",
    "pairwise",
    "best",
    "linear",
    "min_logit",
    "gate",
    "frozen",
)
HALVES = ("float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Fields:
    """The flags of a run and their defaults; `Config` adds what can be done with them."""

    run_dir: str = _flag("", "Directory of the run; created, or resumed.", identity=False)
    # Data.
    dataset: str = _flag(
        "", "digits, glyphs, cifar10, cifar100, imagenet2012, tfds:NAME, or your own: folder:PATH."
    )
    data_dir: str = _flag("", "Where TFDS keeps its data; empty: its own default.", identity=False)
    image_size: str = _flag(
        "0", "Side in pixels, or HEIGHTxWIDTH such as 96x128; 0: the dataset's usual size."
    )
    augment: str = _flag(
        "auto",
        "How training images are varied; auto: as usual for the dataset; none, crop, crop_flip,"
        " inception; or parts joined by +: crop, flip, inception, rotate, colour, randaugment (or"
        " randaugment:N:M), erase.",
    )
    train_examples: int = _flag(0, "Size of a stratified, seeded subset of train; 0: all.", low=0)
    validation_fraction: float = _flag(
        0.1,
        "Fraction of the training images held out for validation, where there is no split for it.",
        low=0.01,
        high=0.5,
    )
    skip_unreadable: bool = _flag(
        False, "Skip corrupt images and list them; otherwise they stop the run."
    )
    duplicates: str = _flag(
        "warn",
        "What to do about identical files of a folder in train and test, or under two labels;"
        " warn: list them; drop: keep one of each, and none that has two labels; stop: refuse the"
        " folder.",
        choices=("warn", "drop", "stop"),
    )
    class_weights: str = _flag(
        "none",
        "How much an image counts in training; balanced: in inverse proportion to the size of its"
        " class; sqrt: in inverse proportion to the square root of that size; none: all alike.",
        choices=("none", "balanced", "sqrt"),
    )
    sampling: str = _flag(
        "plain",
        "Which training images an epoch contains; plain: each once; balanced: equally many of"
        " every class, rare classes repeated.",
        choices=("plain", "balanced"),
    )
    cache_gib: float = _flag(
        2.0,
        "Datasets up to this size, in GiB, are kept in memory; larger ones are read in"
        " another order.",
        low=0,
    )
    # Peers and how each of them learns; --peer can override everything down to clip_norm.
    peer: tuple[str, ...] = _flag((), peer_help())
    optimizer: str | None = _flag(
        "sgd", "Each peer's optimizer.", choices=("sgd", "adamw"), learning=True
    )
    learning_rate: float | None = _flag(0.1, "The largest learning rate.", low=0, learning=True)
    learning_rate_schedule: str | None = _flag(
        "step",
        "How the learning rate changes over training.",
        choices=("constant", "step", "cosine"),
        learning=True,
    )
    learning_rate_epochs: str | None = _flag(
        "",
        "step: epochs at which the learning rate falls to a tenth, such as 81:122; empty: after"
        " 1/2 and 3/4 of the epochs.",
        learning=True,
    )
    warmup_epochs: float | None = _flag(
        0.0, "Epochs at the start in which the learning rate rises linearly.", low=0, learning=True
    )
    momentum: float | None = _flag(0.9, "Momentum of SGD.", low=0, high=1, learning=True)
    nesterov: bool | None = _flag(False, "Nesterov's momentum.", learning=True)
    weight_decay: float | None = _flag(
        5e-4, "Weight decay: L2 in the gradient (sgd) or decoupled (adamw).", low=0, learning=True
    )
    clip_norm: float | None = _flag(
        0.0, "Largest norm of a peer's gradient; 0: not clipped.", low=0, learning=True
    )
    # How they teach each other.
    method: str = _flag(
        "xkd",
        "xkd: each network learns from the others, weighted by how well they fit the training"
        " images, and features are compared; mcod: the ensemble teaches, in windows of growing"
        " weight; solo: each network alone; ensemble: the ensemble teaches with constant weight;"
        " ramp: with growing weight, without windows; dml, kdcl, one: other published methods;"
        " kd: a teacher that was trained before.",
        choices=METHODS,
    )
    teacher: str = _flag(
        "auto",
        "Who teaches; auto: the method's own teacher; mean: the ensemble; leave_one_out: the"
        " ensemble of the others; gated: the others, where they know more than the peer; swapped:"
        " the ensemble, corrected by the label; pairwise: every other network separately; best,"
        " linear, min_logit: computed from the labels; gate: a learned mixture; frozen:"
        " --teacher_run.",
        choices=("auto", *TEACHERS),
    )
    teacher_run: str = _flag("", "kd: directory of a finished run, whose networks teach.")
    teacher_peer: str = _flag(
        "", "kd: the network of that run that teaches; empty: their ensemble."
    )
    distill_term: str = _flag(
        "kl",
        "How teacher and peer are compared; kl: by their probabilities; standardized: by the"
        " logits without their scale; pearson: by correlations of the probabilities; refined: by"
        " the teacher's confidence, and kl over the classes it ranks below the label; reverse: kl"
        " from the peer to the teacher.",
        choices=TERMS,
    )
    temperature: float = _flag(
        3.0, "Softens teacher and peers in the distillation term.", low=0.01, high=1000
    )
    distill_weight_max: float = _flag(1.0, "The largest lambda.", low=0)
    distill_period: float = _flag(
        2.0, "mcod: epochs of a period; networks learn alone first, then distil.", low=0.001
    )
    distill_duty: float = _flag(
        0.5, "mcod: fraction of a period in which networks distil.", low=0, high=1
    )
    distill_start: float = _flag(0.0, "mcod, ramp: epochs before the first period.", low=0)
    distill_growth: str = _flag(
        "linear",
        "How lambda grows, from window to window (mcod) or from step to step (ramp); decay: it"
        " falls.",
        choices=("constant", "linear", "cosine", "exponential", "sigmoid", "decay"),
    )
    distill_adapt: float | None = _flag(
        None,
        "How much a teacher's training cross-entropy CE lowers its influence: its weight and"
        " lambda are multiplied by exp(-X CE) (dml, kdcl, one: only lambda); 0: not at all."
        " Default: 1 for xkd, else 0.",
        usual=0.0,
        low=0,
        high=100,
    )
    distill_similarity: float | None = _flag(
        None,
        "Weight of a second term: networks learn from each other which images of a batch are"
        " alike, by the features that enter their last layers; 0: none. Default: 1.5625 for xkd"
        " without --exits, else 0.",
        usual=0.0,
        low=0,
    )
    exits: int = _flag(
        0,
        "Adds heads on the last N stages of each network before its final one, for training only:"
        " they learn from the labels, and from the others' heads by kl, whatever the teacher.",
        low=0,
        high=4,
    )
    mix: str = _flag(
        "none",
        "Mix half of the training batches, alike for all peers: cutmix (rectangles), mixup (pixels"
        " of both), both.",
        choices=("none", "cutmix", "mixup", "both"),
    )
    label_smoothing: float = _flag(
        0.0,
        "Fraction of each label that the training loss spreads over all classes, such as 0.1; 0:"
        " off.",
        low=0,
        high=0.99,
    )
    ema: float = _flag(
        0.0,
        "Decay of moving averages of all weights, such as 0.999; the averages are then validated,"
        " evaluated, saved and exported; 0: off.",
        low=0,
        high=0.999999,
    )
    # The run.
    export: tuple[str, ...] = _flag(
        (),
        "A peer to export when the run is complete, or ensemble, or all. See xkd_keras.export.",
        identity=False,
    )
    epochs: int = _flag(30, "Passes over the training images.", low=1)
    keep: str = _flag(
        "last",
        "Which epoch of each network is evaluated, saved and exported; best: the one with the"
        " highest top-1 on the validation images.",
        choices=("last", "best"),
    )
    patience: int = _flag(
        0,
        "Stop after this many epochs without improvement of any network on the validation images;"
        " 0: never. The learning-rate schedule still spans all --epochs.",
        low=0,
    )
    batch_size: int | None = _flag(
        None,
        "Images per step, over all devices. Default: 128, or less for few images.",
        usual=128,
        low=1,
    )
    eval_batch_size: int = _flag(
        256, "Images per batch in evaluation, over all devices.", low=1, identity=False
    )
    seed: int = _flag(0, "Seed of weights, order, augmentation and subsets.", low=0, high=2**31 - 1)
    deterministic: bool = _flag(False, "Repeat a run bit by bit, even after interruptions.")
    strategy: str = _flag(
        "auto",
        "Devices: auto (all GPUs), one, mirrored (all GPUs or logical CPUs), multiworker (the"
        " machines named by TF_CONFIG or Slurm), or tpu.",
        choices=("auto", "one", "mirrored", "multiworker", "tpu"),
    )
    sync_batch_norm: bool = _flag(False, "Batch-normalise over the batches of all devices.")
    mixed_precision: str = _flag(
        "none", "Compute in half precision, for GPUs and TPUs.", choices=("none", *HALVES)
    )
    recompute: bool = _flag(
        False, "Recompute activations in the backward pass: less memory, more time."
    )
    jit_compile: str = _flag(
        "auto", "Use XLA; auto: Keras' choice on one GPU, else off.", choices=("auto", "on", "off")
    )
    on_nonfinite: str = _flag(
        "stop",
        "What to do if a loss is not finite: stop, or skip that step for that peer.",
        choices=("stop", "skip"),
    )
    logical_cpus: int = _flag(1, "Split the CPU into N devices, to try mirrored.", low=1, high=64)


# How a peer learns; --peer can override each.
LEARNING = tuple(
    name for name, each in Fields.__dataclass_fields__.items() if each.metadata["learning"]
)


def learning(builder: str, given: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """Return how a peer learns, whole: as was given, else as suits the network, else as most do.

    Args:
        builder: What it is built from, as for `peers.build`; empty for a teacher that learns.
        given: The options that were given, by name; None is as good as not given.
        start: What weights it starts from.
    """
    given = {name: value for name, value in given.items() if value is not None}
    own = peers.suits(builder, start, given.get("optimizer"))
    usual = {name: field(name).metadata["usual"] for name in LEARNING}
    return {name: {**usual, **own, **given}[name] for name in LEARNING}


def kind(each: dataclasses.Field) -> type:
    """Return the type of a flag's values."""
    return type(each.metadata["usual"])


def field(name: str) -> dataclasses.Field:
    """Return the field of a flag; its metadata is that of `_flag`."""
    return Fields.__dataclass_fields__[name]
