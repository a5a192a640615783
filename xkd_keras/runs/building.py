"""From a Config, which counts in epochs, to schedules and optimizers, which count in steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from xkd_keras import data as datasets
from xkd_keras import peers
from xkd_keras.distillation import methods, optimizers, schedules, teachers
from xkd_keras.errors import InputError
from xkd_keras.flags import config as configs
from xkd_keras.runs import directory as rundir
from xkd_keras.runs import evaluation


def distillation(config: configs.Config, steps: int):
    """Return who teaches (a name in `teachers`, or "frozen") and lambda(step).

    Args:
        config: Says which method, and its options in epochs.
        steps: Steps an epoch.
    """
    period = max(1, round(config.distill_period * steps))
    course = methods.Course(
        weight=config.distill_weight_max,
        total=config.epochs * steps,
        start=round(config.distill_start * steps),
        period=period,
        window=round(config.distill_duty * period),
        growth=config.distill_growth,
    )
    teacher, schedule = methods.METHODS[config.method](course)
    return (teacher if config.teacher == "auto" else config.teacher), schedule


def optimizer(recipe: Mapping[str, Any], epochs: int, steps: int) -> keras.optimizers.Optimizer:
    """Return a peer's optimizer: its learning rate over `epochs` of `steps` steps, and the rest.

    Args:
        recipe: The flags of `config.RECIPE`, by name.
        epochs: Epochs of the run.
        steps: Steps an epoch.
    """
    rate = learning_rate(recipe, epochs, steps)
    names = ("momentum", "nesterov", "weight_decay", "clip_norm")
    return optimizers.build(recipe["optimizer"], rate, **{name: recipe[name] for name in names})


def learning_rate(recipe: Mapping[str, Any], epochs: int, steps: int):
    """Return the learning rate as a function of the step: constant, step or cosine, warmed up."""
    rate = recipe["learning_rate"]
    if recipe["learning_rate_schedule"] == "cosine":
        schedule = schedules.Cosine(rate, epochs * steps)
    elif recipe["learning_rate_schedule"] == "step":
        falls = configs.learning_rate_epochs(recipe["learning_rate_epochs"], epochs)
        schedule = schedules.Step(rate, [round(epoch * steps) for epoch in falls])
    else:
        schedule = schedules.Constant(rate)
    warm = round(recipe["warmup_epochs"] * steps)
    return schedules.WarmUp(schedule, warm) if warm else schedule


def frozen_teacher(config: configs.Config, data: datasets.Dataset) -> teachers.Frozen:
    """Return the networks of `config.teacher_run` as a teacher that does not learn.

    Raises:
        InputError: That run is not finished, was on other classes or another image size, or has no
            such peer.
    """
    run_dir = Path(config.teacher_run)
    taught, metrics = rundir.finished(run_dir, "--teacher_run")
    there = metrics["data"]["class_names"], metrics["data"]["image_shape"]
    if there != (list(data.class_names), list(data.image_shape)):
        raise InputError(
            f"'{run_dir}' knows {len(there[0])} classes of {metrics['dataset']},"
            f" images {there[1]}; valid: a run on the same classes and image size as this one"
            f" ({len(data.class_names)} classes, {list(data.image_shape)}).",
            argument="teacher_run",
        )
    weights = {peer.name: peer.weight for peer in taught.peers()}
    if config.teacher_peer and config.teacher_peer not in weights:
        raise InputError.unknown("teacher_peer", config.teacher_peer, weights)
    names = [config.teacher_peer] if config.teacher_peer else list(weights)
    rundir.import_builders(taught)
    models = {name: peers.fused(model) for name, model in rundir.load_peers(run_dir, names).items()}
    return teachers.Frozen(models, evaluation.shares(names, weights))
