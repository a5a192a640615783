"""From a Config, which counts in epochs, to schedules and optimizers, which count in steps."""

from collections.abc import Mapping
from typing import Any

import keras

from xkd_keras import config as configs
from xkd_keras import optimizers, schedules


def distillation(config: configs.Config, steps: int):
    """Return lambda(step) of the method, for `steps` steps an epoch."""
    weight, total = config.distill_weight_max, config.epochs * steps
    start = round(config.distill_start * steps)
    if config.method == "solo":
        return schedules.Constant(0.0)
    if config.method == "ensemble":
        return schedules.Constant(weight)
    if config.method == "ramp":
        return schedules.Ramp(weight, total - start, start, config.distill_growth)
    period = max(1, round(config.distill_period * steps))
    window = round(config.distill_duty * period)
    return schedules.Windows(weight, total, period, window, start, config.distill_growth)


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
