"""A Cohort as the plain values of a file, and back to the arguments that make it."""

from collections.abc import Mapping
from typing import Any

import keras

# Attributes of a Cohort that are arguments of the same name, and plain values.
_PLAIN = ("name", "temperature", "adapt", "similarity", "mix", "seed", "class_weights")
_PLAIN += ("label_smoothing", "ema", "recompute")


def config(cohort) -> dict[str, Any]:
    """Return what `Cohort.get_config` does: every argument, ready for a file."""
    serialize = keras.saving.serialize_keras_object
    functions = {"teacher": cohort.teacher, "term": cohort.term}
    return {
        **{name: getattr(cohort, name) for name in _PLAIN},
        **{"peers": serialize(cohort.peers), "schedule": serialize(cohort.schedule)},
        **{name: f if isinstance(f, str) else serialize(f) for name, f in functions.items()},
        **{"weights": dict(cohort.shares), "distill": dict(cohort.distill)},
        "exits": cohort.exits and {name: list(of) for name, of in cohort.exits.layers_of.items()},
    }


def arguments(config: Mapping, custom_objects: Mapping | None = None) -> dict[str, Any]:
    """Return the arguments of a Cohort from what `config` gave, of earlier versions too."""

    def deserialize(value):
        return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)

    rest = {name: deserialize(config[name]) for name in ("peers", "schedule")}
    for name in ("teacher", "term"):
        value = config.get(name, "kl")  # a file of an earlier version has no term
        rest[name] = value if isinstance(value, str) else deserialize(value)
    return {**config, **rest}
