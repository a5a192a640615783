"""The flags of a study, and the Plan that they make."""

import dataclasses
import math
import os
import re
import sys
from collections.abc import Sequence

from absl import flags

from xkd_keras import train
from xkd_keras.errors import FlagError
from xkd_keras.flags import config as configs
from xkd_keras.flags import effects, fields
from xkd_keras.flags import peer as peer_options
from xkd_keras.study import shards
from xkd_keras.study.plan import SWEEP_SEED, Arm, Plan

PRESETS = {
    "methods": ("solo", "kd", "dml", "ensemble", "kdcl", "one", "mcod", "xkd"),
    "paper": ("solo", "kd", "mcod"),
    "ablations": (
        "solo",
        "ensemble",
        "ramp",
        "mcod,name=windows_only,distill_growth=constant",
        "mcod,name=windows_decay,distill_growth=decay",
        "mcod",
    ),
}


def define(values: flags.FlagValues) -> None:
    """Define the flags of a run, which all runs of the study share, and those of the study."""
    configs.define(values)
    kwargs = {"flag_values": values, "module_name": sys.argv[0]}
    flags.DEFINE_multi_string(
        "compare",
        [],
        "A method to compare; repeat the flag for several: METHOD[,name=NAME][,option=value...]."
        f" METHOD is one of {', '.join(fields.METHODS)}. Options: {', '.join(effects.COMPARED)};"
        " a second variant of a method needs a name.",
        **kwargs,
    )
    flags.DEFINE_string(
        "preset",
        "",
        f"Methods to compare: {', '.join(PRESETS)}; --compare adds to them.",
        **kwargs,
    )
    flags.DEFINE_multi_string(
        "sweep",
        [],
        "OPTION=VALUE:VALUE..., may be repeated: every method but solo first tries all"
        " combinations on validation images, and uses its best.",
        **kwargs,
    )
    flags.DEFINE_string(
        "shard",
        "",
        "INDEX/COUNT: which part of the runs this process does, where several share --run_dir;"
        " auto in a Slurm array, auto/COUNT in a Kubernetes Indexed Job.",
        **kwargs,
    )
    beside = "Runs side by side, each in its own process; 0: as many as the machine can take."
    for name, default, text, least in (
        ("seeds", 5, "Number of seeds, from --seed on: runs of every method.", 1),
        ("jobs", 1, beside, 0),
        (
            "sweep_seeds",
            3,
            "Number of seeds of the search; its seeds differ from those of the study.",
            1,
        ),
    ):
        flags.DEFINE_integer(name, default, text, least, **kwargs)


def plan(values: flags.FlagValues) -> Plan:
    """Return the plan of parsed flags; raises FlagError for what no study could take.

    It looks at no network of the user's: to import one loads TensorFlow (`train.check_own`).
    """
    base = configs.from_flags(values)
    alone = {"method": "solo", "teacher": "auto", "teacher_run": "", "teacher_peer": ""}
    train.check_flags(dataclasses.replace(base, **alone))  # the methods are checked below
    if base.keep != "last" or base.patience:  # every method gets the same training, and all of it
        name = "keep" if base.keep != "last" else "patience"
        raise FlagError("does not apply to studies; valid: leave it out.", argument=name)
    if base.strategy == "multiworker":
        raise FlagError(
            "received multiworker, which is for a single run; valid: another strategy, and"
            " --shard to divide a study's runs among machines.",
            argument="strategy",
        )
    if values.preset not in ("", *PRESETS):
        raise FlagError.unknown("preset", values.preset, PRESETS)
    grid = parse_grid(values.sweep)
    first = SWEEP_SEED + base.seed
    made = Plan(
        base,
        parse_arms([*PRESETS.get(values.preset, ()), *values.compare]),
        tuple(range(base.seed, base.seed + values.seeds)),
        grid,
        tuple(range(first, first + (values.sweep_seeds if grid else 0))),
        values.jobs,
        shards.parse(values.shard, os.environ),
    )
    check(made)
    return made


def parse_arms(texts: Sequence[str]) -> tuple[Arm, ...]:
    """Parse every --compare=METHOD[,name=NAME][,option=value...].

    Raises:
        FlagError: An unknown method or option, a bad value, or one name twice.
    """
    arms: dict[str, Arm] = {}
    for text in texts:
        method, *pairs = [part.strip() for part in text.split(",")]
        if method not in fields.METHODS:
            raise FlagError.unknown("compare", method, fields.METHODS)
        names = [pair.partition("=")[2] for pair in pairs if pair.startswith("name=")]
        if len(names) > 1:
            raise FlagError(f"--compare={text}: name: received {len(names)}; valid: one.")
        rest = ",".join(pair for pair in pairs if not pair.startswith("name="))
        options = peer_options.options(f"--compare={text}", rest, effects.COMPARED)
        name = names[0] if names else method
        own = name == method and not (name == "solo" and options)
        if name.lower() in fields.METHODS and not own:
            raise FlagError(
                f"--compare={text}: '{name}' is the name of a method; set another name=..."
            )
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name):
            raise FlagError(
                f"--compare={text}: name: received '{name}'; valid: up to 60 letters, digits, _, -."
            )
        arm = Arm(name, method, options)
        # Names are folders: on some disks A and a would be one.
        there = arms.setdefault(name.lower(), arm)
        if there != arm:
            raise FlagError(f"--compare={text}: '{there.name}' is compared already; set name=...")
    return tuple(arms.values())


def parse_grid(texts: Sequence[str]) -> dict[str, tuple]:
    """Parse every --sweep=OPTION=VALUE:VALUE... into the values of flags."""
    grid: dict[str, tuple] = {}
    for text in texts:
        option, _, values = text.partition("=")
        parts = [part for part in values.split(":") if part]
        if not parts:
            raise FlagError(f"received '{text}'; valid: OPTION=VALUE:VALUE...", argument="sweep")
        each = [
            peer_options.options("--sweep", f"{option}={part}", effects.TEACHING) for part in parts
        ]
        if option in grid:
            raise FlagError(
                f"'{option}' is given twice; join its values by colons.", argument="sweep"
            )
        grid[option] = tuple(dict.fromkeys(value[option] for value in each))
    return grid


def _check_searched(plan: Plan, arm: Arm, searched: Sequence[Arm]) -> None:
    """Raise FlagError for a variant that a search would leave as it is."""
    chosen = plan.left_open(searched[0]) if searched else []
    left = sorted(set(plan.left_open(arm)) - set(chosen))
    if left and arm.method != "solo":
        why, beside = "is not compared", f"--compare={arm.method} beside it, or "
        if searched:
            why, beside = f"sets {left[0]} itself", ""
        raise FlagError(
            f"{arm.name} takes what --sweep chooses for {arm.method}, which {why};"
            f" valid: {beside}{left[0]}=... of its own.",
            argument="compare",
        )


def check(plan: Plan) -> None:
    """Raise FlagError for a study that cannot be run or says nothing."""
    names = [arm.name for arm in plan.arms]
    if not names:
        raise FlagError(
            f"missing. Methods to compare: {', '.join(fields.METHODS)}.", argument="compare"
        )
    taught = any(arm.method == "kd" for arm in plan.arms)
    if plan.base.teacher_peer and not taught:
        raise FlagError("needs --compare=kd, which is not given.", argument="teacher_peer")
    if taught and "solo" not in names and not plan.base.teacher_run:
        raise FlagError(
            "kd needs solo, whose networks teach; or give --teacher_run.", argument="compare"
        )
    if plan.base.teacher != "auto":
        raise FlagError(
            f"received {plan.base.teacher} for all methods, which would make them the same;"
            " valid: --compare=METHOD,teacher=...",
            argument="teacher",
        )
    for arm in plan.arms:
        searched = [each for each in plan.arms if each.name == arm.method]
        _check_searched(plan, arm, searched)
        for tried in (plan.candidates(*searched) if searched else []) or [{}]:
            told = {**tried, **arm.options, "method": arm.method}
            train.check_teaching(dataclasses.replace(plan.base, **told))
        given = [arm.options.get("teacher", "auto"), *plan.grid.get("teacher", ())]
        for teacher in given:
            if teacher != "auto" and (teacher == "frozen") != (arm.method == "kd"):
                raise FlagError(
                    f"{arm.name} cannot have the teacher '{teacher}'.", argument="compare"
                )
        peer = arm.options.get("teacher_peer", plan.base.teacher_peer)
        known = [each.name for each in plan.base.peers()]
        if arm.method == "kd" and peer and peer not in known and not plan.base.teacher_run:
            raise FlagError.unknown("teacher_peer", peer, known)
    if plan.grid and len(plan.seeds) > SWEEP_SEED:
        raise FlagError(f"received {len(plan.seeds)}; valid: 1 to {SWEEP_SEED}.", argument="seeds")
    if plan.grid and math.prod(map(len, plan.grid.values())) > 100:
        raise FlagError(
            "more than 100 settings per method; valid: a smaller search.", argument="sweep"
        )
