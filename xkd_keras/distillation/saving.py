"""A Cohort as the plain values of a file, and back to the arguments that make it."""

from collections.abc import Mapping
from typing import Any

import keras

# Attributes of a Cohort that are arguments of the same name, and plain values.
_PLAIN = ("name", "temperature", "adapt", "similarity", "mix", "seed", "class_weights")
_PLAIN += ("label_smoothing", "ema", "recompute")
_DEFAULTS = {"teacher": "mean", "term": "kl"}  # a file of an earlier version has no term


def config(cohort) -> dict[str, Any]:
    """Return what `Cohort.get_config` does: every argument, ready for a file."""
    serialize = keras.saving.serialize_keras_object
    teacher, term, exits = cohort.teacher, cohort.term, cohort.exits
    return {
        **{name: getattr(cohort, name) for name in _PLAIN},
        "peers": serialize(cohort.peers),
        "schedule": serialize(cohort.schedule),
        "teacher": teacher if isinstance(teacher, str) else serialize(teacher),
        "term": term if isinstance(term, str) else serialize(term),
        "weights": dict(cohort.shares),
        "distill": dict(cohort.distill),
        "exits": exits and {name: list(layers) for name, layers in exits.layers_of.items()},
    }


def arguments(config: Mapping, custom_objects: Mapping | None = None) -> dict[str, Any]:
    """Return the arguments of a Cohort from what `config` gave, of earlier versions too."""

    def deserialize(value):
        return keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)

    given = {**_DEFAULTS, **config}
    rest = {name: deserialize(given[name]) for name in ("peers", "schedule")}
    for name in ("teacher", "term"):
        value = given[name]
        rest[name] = value if isinstance(value, str) else deserialize(value)
    return {**given, **rest}
