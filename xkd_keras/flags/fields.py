"""Every flag of a run once: its default, its help, what is valid."""

import dataclasses
from typing import Any

from xkd_keras import peers


def _flag(default: Any, text: str, *, low=None, high=None, choices=None, identity=True):
    """A field that is also a flag; `identity` says whether another value makes it another run."""
    facts = {"help": text, "low": low, "high": high, "choices": choices, "identity": identity}
    return dataclasses.field(default=default, metadata=facts)


# As in `methods.METHODS` and `teachers.TEACHERS`, which need TensorFlow.
METHODS = ("mcod", "solo", "ensemble", "ramp", "dml", "kdcl", "one", "kd")
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
    skip_unreadable: bool = _flag(
        False, "Leave corrupt images out and list them; else they stop the run."
    )
    duplicates: str = _flag(
        "warn",
        "A folder's identical files in train and test, or under two labels; warn: list them; drop:"
        " keep one of each, and none of two labels; stop: refuse the folder.",
        choices=("warn", "drop", "stop"),
    )
    cache_gib: float = _flag(
        2.0, "Keep a dataset in memory up to this size in GiB; beyond, the order differs.", low=0
    )
    # Peers and how each of them learns; --peer can override everything down to clip_norm.
    peer: tuple[str, ...] = _flag(
        (),
        "A network, repeated: NAME[,option=value...] or your_module:build_fn[,option=value...]."
        f" NAME is one of {', '.join(peers.names())}. Options: name, weight (in the ensemble),"
        " distill (a factor of lambda) and the flags of how a peer learns, without dashes.",
    )
    optimizer: str = _flag("sgd", "Each peer's optimizer.", choices=("sgd", "adamw"))
    learning_rate: float = _flag(0.1, "The largest learning rate.", low=0)
    learning_rate_schedule: str = _flag(
        "step",
        "How the learning rate changes over training.",
        choices=("constant", "step", "cosine"),
    )
    learning_rate_epochs: str = _flag(
        "", "step: epochs at which the rate falls to a tenth, such as 81:122; empty: 1/2 and 3/4."
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
        " others; gated: the others, where they know more than the peer; swapped: the ensemble,"
        " corrected by the label; pairwise: each other one; best, linear, min_logit: computed with"
        " the labels;"
        " gate: a learned mixture; frozen: --teacher_run.",
        choices=("auto", *TEACHERS),
    )
    teacher_run: str = _flag("", "kd: directory of a finished run, whose networks teach.")
    teacher_peer: str = _flag(
        "", "kd: the network of that run that teaches; empty: their ensemble."
    )
    distill_term: str = _flag(
        "kl",
        "What of teacher and peer is compared; kl: the probabilities; standardized: the logits"
        " without their scale; pearson: correlations of the probabilities; refined: what the label"
        " does not correct; reverse: kl from the peer to the teacher.",
        choices=TERMS,
    )
    temperature: float = _flag(
        3.0, "Softens teacher and peers in the distillation term.", low=0.01, high=1000
    )
    distill_weight_max: float = _flag(1.0, "The largest lambda.", low=0)
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
    batch_size: int = _flag(128, "Images per step, over all devices.", low=1)
    eval_batch_size: int = _flag(256, "Images per batch in evaluation.", low=1)
    seed: int = _flag(0, "Seed of weights, order, augmentation and subsets.", low=0, high=2**31 - 1)
    deterministic: bool = _flag(False, "Repeat a run bit by bit, also after interruptions.")
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
    logical_cpus: int = _flag(1, "Split the CPU into N devices, to try mirrored.", low=1, high=64)


# How the peers of a run teach each other.
TEACHING = (
    "teacher",
    "teacher_peer",
    "distill_term",
    "temperature",
    "distill_weight_max",
    "distill_period",
    "distill_duty",
    "distill_start",
    "distill_growth",
)
# How a peer learns; --peer can override each.
LEARNING = (
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


def field(name: str) -> dataclasses.Field:
    """Return the field of a flag; its metadata has help, low, high, choices, identity."""
    return Fields.__dataclass_fields__[name]
