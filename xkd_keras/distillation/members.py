"""What a cohort may be made of: its peers and its teacher, checked."""

import math
from collections.abc import Callable, Mapping, Sequence

import keras

from xkd_keras.errors import InputError
from xkd_keras.operations import PASSING, back, does, flat

# What gives numbers of a part of the line only, by its name in keras.layers and keras.ops.
_BOUNDED = {"softmax", "sigmoid", "hardsigmoid", "relu", "relu6", "tanh", "softplus", "exp"}


def named(
    peers: Mapping[str, keras.Model] | Sequence[keras.Model],
) -> dict[str, keras.Model]:
    """Return the peers by name; raises InputError for none, a name twice, or `ensemble`."""
    if isinstance(peers, keras.Model):
        raise InputError("received one model; valid: a list of models.", argument="peers")
    peers = peers if isinstance(peers, Mapping) else list(peers)
    for peer in peers.values() if isinstance(peers, Mapping) else peers:
        if not isinstance(peer, keras.Model):
            raise InputError(
                f"received {peer!r}; valid: Keras models (xkd_keras.peers.build makes them).",
                argument="peers",
            )
    if not isinstance(peers, Mapping):
        names = [peer.name for peer in peers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(
                f"the name '{twice[0]}' is used twice; valid: a dict by name.", argument="peers"
            )
        peers = dict(zip(names, peers, strict=True))
    if not peers:
        raise InputError("received none; valid: one or more Keras models.", argument="peers")
    if "ensemble" in peers:
        raise InputError(
            "the name 'ensemble' is taken by the peers' mean; valid: another name.",
            argument="peers",
        )
    return dict(peers)


def classes(
    peers: Mapping[str, keras.Model], teachers: Mapping[str, keras.Model] | None = None
) -> int:
    """Return the number of classes that all peers share, and the models of a frozen teacher.

    Raises:
        InputError: A peer does not return logits [B, C] with C of 2 or more, or they differ in C.
    """
    members = {**peers, **{f"{n} (teacher)": model for n, model in (teachers or {}).items()}}
    counts = {name: _logits(name, member) for name, member in members.items()}
    if len(set(counts.values())) > 1:
        raise InputError(
            f"the numbers of logits differ: {counts}; valid: the same number for all.",
            argument="peers",
        )
    return next(iter(counts.values()))


def _logits(name: str, peer: keras.Model) -> int:
    """Return the number of a peer's logits."""
    inputs = len(getattr(peer, "inputs", None) or [None])
    if inputs != 1:
        raise InputError(f"'{name}' has {inputs} inputs; valid: one, images.", argument="peers")
    shape = getattr(peer, "output_shape", (None,))
    named_outputs = isinstance(getattr(peer, "_outputs_struct", None), Mapping)
    if named_outputs or not shape or isinstance(shape[0], list | tuple):
        what = "outputs by name" if named_outputs else f"{len(shape)} outputs"
        raise InputError(
            f"'{name}' has {what}; valid: one output, the logits [batch, classes].",
            argument="peers",
        )
    count = shape[-1]
    if count is None or count < 2:
        raise InputError(
            f"'{name}' has {count or 'an unknown number of'} logits; valid: a built"
            " functional model with one logit per class, two or more.",
            argument="peers",
        )
    if len(shape) != 2:
        raise InputError(
            f"'{name}' returns {list(shape)}; valid: logits [batch, classes] (pool or flatten"
            " before the last layer).",
            argument="peers",
        )
    ending = _ending(peer)
    if ending:
        raise InputError(
            f"'{name}' ends in {ending}; valid: logits, with no activation on the last layer"
            " (keras.applications: classifier_activation=None).",
            argument="peers",
        )
    return count


def _ending(model: keras.Model) -> str:
    """Return what bounds a model's logits in the end, as "softmax" or "relu"; "" for nothing.

    It is seen as a layer, as a layer's activation and as an operation of keras.ops, also below a
    cast. What a Lambda or a subclassed model does inside is not.
    """
    for operation in back(model):
        if isinstance(operation, keras.Model):
            return _ending(operation)
        what = does(operation)
        if what in _BOUNDED:
            return what
        if what not in PASSING or getattr(operation, "weights", ()):
            return ""
    return ""


def above(argument: str, value: float, low: float, or_equal: bool = False) -> float:
    """Return the value; raises InputError where it is not above `low`."""
    if not (value >= low if or_equal else value > low):
        valid = f"{low} or more" if or_equal else f"a number above {low}"
        raise InputError(f"received {value}; valid: {valid}.", argument=argument)
    return value


def fraction(argument: str, value: float) -> float:
    """Return the value; raises InputError where it is not in 0..1, 1 excluded."""
    if not 0 <= value < 1:
        raise InputError(f"received {value}; valid: 0 to 1, 1 excluded.", argument=argument)
    return float(value)


def factors(
    peers: Mapping[str, keras.Model], given: Mapping[str, float] | None
) -> dict[str, float]:
    """Return each peer's factor of lambda, 1 where it has none of its own.

    Raises:
        InputError: A factor for no peer, or below 0.
    """
    given = by_name("distill", given, "a factor")
    for name, factor in given.items():
        if name not in peers:
            raise InputError.unknown("distill", name, peers, "peer")
        if not factor >= 0:
            raise InputError(f"'{name}': received {factor}; valid: 0 or more.", argument="distill")
    return {name: float(given.get(name, 1.0)) for name in peers}


def by_name(argument: str, given: Mapping | None, what: str) -> Mapping:
    """Return a dict by the peers' names; raises InputError for anything else."""
    if given is not None and not isinstance(given, Mapping):
        raise InputError(f"received {given!r}; valid: a dict, {what} by name.", argument=argument)
    return given or {}


def of_classes(
    name: str, given: Sequence[float] | Mapping[int, float] | None, count: int
) -> list[float] | None:
    """Return a number >= 0 for each class, or None; raises InputError for anything else.

    A dict by the number of the class, as Keras has them, leaves the others at 1.
    """
    if given is None:
        return None
    if isinstance(given, Mapping):
        if strange := [number for number in given if number not in range(count)]:
            raise InputError(
                f"received a weight of class {strange[0]!r}; valid: 0 to {count - 1}.",
                argument=name,
            )
        given = [given.get(number, 1.0) for number in range(count)]
    if isinstance(given, str):
        raise InputError(f"received '{given}'; valid: a number for each class.", argument=name)
    values = [float(value) for value in given]
    if len(values) != count or not all(0 <= value < math.inf for value in values):
        raise InputError(
            f"received {values}; valid: {count} numbers, one for each class, 0 or more.",
            argument=name,
        )
    return values


def opened(
    peers: Mapping[str, keras.Model],
    exits: Mapping[str, Sequence[str]],
    recompute: Mapping[str, Sequence[str]],
) -> dict[str, keras.Model]:
    """Return the peers with the graphs that are nested in them opened, but for those in use."""
    used = {name: [*exits.get(name, ()), *recompute[name]] for name in peers}
    return {name: flat(peer, used[name]) for name, peer in peers.items()}


def separate(peers: Mapping[str, keras.Model], teacher: Callable) -> None:
    """Raise InputError where one variable belongs to two peers, or to a peer and its teacher."""
    owners: dict[int, str] = {}
    frozen = getattr(teacher, "models", {})
    parts = [(f"peer '{name}'", model) for name, model in peers.items()]
    parts += [(f"the teacher's '{name}'", model) for name, model in frozen.items()]
    for owner, model in parts:
        for variable in {id(v): v for v in model.variables}.values():
            other = owners.setdefault(id(variable), owner)
            if other != owner and not (owner.startswith("the") and other.startswith("the")):
                raise InputError(
                    f"{other} and {owner} share the variable '{variable.path}'; valid:"
                    f" {_remedy(model, variable)}.",
                    argument="peers",
                )


def _remedy(model: keras.Model, shared: keras.Variable) -> str:
    """Return what is given instead of a model that shares a variable."""
    for layer in model._flatten_layers():
        known = isinstance(layer, keras.layers.Normalization) and layer.variables
        if any(variable is shared for variable in known or ()):  # set_weights gives it no mean
            return f"for each network a layer of its own, adapted as '{layer.name}' was"
    return "networks of their own (keras.models.clone_model, then set_weights)"
