"""From a Config, which counts in epochs, to schedules and optimizers, which count in steps."""

from collections.abc import Mapping
from typing import Any

import keras

from xkd_keras import config as configs
from xkd_keras import methods, optimizers, schedules


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
