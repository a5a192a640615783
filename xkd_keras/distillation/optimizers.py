"""One optimizer per peer, as different networks learn differently; Keras sees only one."""

import dataclasses
from collections.abc import Collection, Mapping

import keras
import tensorflow as tf

from xkd_keras.distillation.updates import SGD, AdamW, Old
from xkd_keras.errors import InputError, first_line

OPTIMIZERS = ("sgd", "adamw")


def build(
    kind: str = "sgd",
    learning_rate=0.1,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    old: Old | None = None,
) -> keras.optimizers.Optimizer:
    """Return a Keras optimizer.

    Args:
        kind: `sgd` (weight decay as L2 in the gradient) or `adamw` (decoupled, Loshchilov and
            Hutter, 2019).
        learning_rate: float or schedule of the step.
        momentum: SGD's momentum; 0.9 in every recipe of the paper's networks.
        nesterov: Nesterov's momentum (SGD only).
        weight_decay: >= 0, on every trainable variable.
        clip_norm: Largest norm of the whole peer's gradient; 0 does not clip.
        old: The variables that are trained already, where they learn otherwise than new ones.

    Raises:
        InputError: Unknown kind.
    """
    more = {"global_clipnorm": clip_norm or None}
    more |= {"old": dataclasses.asdict(old)} if old else {}
    if kind == "sgd":
        return SGD(learning_rate, weight_decay, momentum=momentum, nesterov=nesterov, **more)
    if kind == "adamw":
        make = AdamW if old else keras.optimizers.AdamW
        return make(learning_rate, weight_decay=weight_decay, **more)
    raise InputError.unknown("optimizer", kind, OPTIMIZERS)


def by_peer(optimizer, peers: Collection[str]) -> dict[str, keras.optimizers.Optimizer]:
    """Return one optimizer per peer, by name, from one for all (copied) or a dict by name.

    Raises:
        InputError: The dict is not of exactly these peers.
    """
    if isinstance(optimizer, Mapping):
        if set(optimizer) != set(peers):
            raise InputError(
                f"received one for {', '.join(optimizer) or 'no peer'};"
                f" valid: one for each of {', '.join(peers)}.",
                argument="optimizer",
            )
    else:
        optimizer = dict.fromkeys(peers, optimizer)
    chosen = {name: keras.optimizers.get(optimizer[name]) for name in peers}
    shared = len({id(one) for one in chosen.values()}) < len(chosen)
    if not shared:
        return chosen
    return {name: _copied(one) for name, one in chosen.items()}


def _copied(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Return another one that does the same; raises InputError where Keras cannot make it."""
    try:
        copy = type(optimizer).from_config(optimizer.get_config())
    except Exception as error:  # of a schedule of the user's, anything
        raise InputError(
            f"{type(optimizer).__name__} cannot be copied for each peer"
            f" ({first_line(error)[:150]}); valid: a dict by the peer's name, of one for each.",
            argument="optimizer",
        ) from error
    for name in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
        if hasattr(optimizer, name):  # which no configuration has
            setattr(copy, name, getattr(optimizer, name))
            copy._exclude_from_weight_decay_cache = {}
    return copy


def check(by_peer: Mapping[str, keras.optimizers.Optimizer], may_skip: bool) -> None:
    """Refuse what these optimizers ask for and a Cohort would not do.

    Args:
        by_peer: One optimizer per peer, by name.
        may_skip: Whether a peer may sit a step out.

    Raises:
        InputError: A loss scale of their own (a Cohort has one for all peers), or gradients
            accumulated over steps, of which one may be skipped.
    """
    for name, optimizer in by_peer.items():
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        if scaled or optimizer.loss_scale_factor:
            what = "LossScaleOptimizer" if scaled else "loss_scale_factor"
            raise InputError(
                f"'{name}' has {what}; valid: without it (where peers compute in float16, a Cohort"
                " scales their loss itself).",
                argument="optimizer",
            )
        if may_skip and optimizer.gradient_accumulation_steps:
            raise InputError(
                f"'{name}' has gradient_accumulation_steps, but a step may be skipped"
                " (on_nonfinite='skip', or float16); valid: without it, or on_nonfinite='stop'"
                " and float32.",
                argument="optimizer",
            )


@keras.saving.register_keras_serializable("xkd_keras")
class CohortOptimizer(keras.optimizers.Optimizer):
    """The peers' optimizers behind Keras' interface of one.

    `iterations` counts the cohort's steps. `learning_rate` is that of the first peer whose rate is
    not 0 when it is built; setting it (as `ReduceLROnPlateau` and `LearningRateScheduler` do) sets
    the others so that they keep the ratios that they were built with.

    Args:
        optimizers: One Keras optimizer per peer, by the peer's name.
    """

    def __init__(self, optimizers: dict[str, keras.optimizers.Optimizer], name="cohort", **kwargs):
        super().__init__(learning_rate=0.0, name=name, **kwargs)
        self.by_peer = dict(optimizers)
        self.first = next(iter(self.by_peer))

    def build_peers(self, variables: dict[str, list]) -> None:
        """Create the state (momenta, ...) of each peer's optimizer, under the strategy's scope.

        Args:
            variables: What each of them trains.
        """
        for name, optimizer in self.by_peer.items():
            if not optimizer.built:
                optimizer.build(variables[name])
        rates = {name: number(each.learning_rate) for name, each in self.by_peer.items()}
        self.first = next((name for name, rate in rates.items() if rate), self.first)
        base = rates[self.first]
        self.ratios = [rate / base if base else 1.0 for rate in rates.values()]
        self.built = True
        # Where Keras' callbacks (SwapEMAWeights) look for averages.
        averaged = [o for o in self.by_peer.values() if o.use_ema]
        self.use_ema = bool(averaged)
        if averaged:
            self._trainable_variables = [v for o in averaged for v in o._trainable_variables]
            averages = [v for o in averaged for v in o._model_variables_moving_average]
            self._model_variables_moving_average = averages

    def finalize_variable_values(self, var_list):
        """Give peers whose optimizer keeps averages (`use_ema`) those; Keras calls it after fit."""
        for optimizer in self.by_peer.values():
            optimizer.finalize_variable_values(optimizer._trainable_variables)

    def apply_peers(self, gradients: dict[str, list], variables: dict[str, list]) -> None:
        """Apply each peer's gradients (of this replica) to its variables: one cohort step."""
        for name, optimizer in self.by_peer.items():
            optimizer.apply(_clippable(gradients[name], optimizer), variables[name])
        self._iterations.assign_add(1)

    @property
    def learning_rate(self):
        # A value, not the variable of one peer: who assigned to that would leave the others out.
        first = self.by_peer[self.first].learning_rate
        return tf.identity(keras.ops.convert_to_tensor(first))

    @learning_rate.setter
    def learning_rate(self, value):
        for optimizer, ratio in zip(self.by_peer.values(), self.ratios, strict=True):
            optimizer.learning_rate = float(value) * ratio

    def state(self) -> list:
        """Return every variable of every optimizer, in a fixed order: what a checkpoint holds."""
        return [*self.variables, *(v for o in self.by_peer.values() for v in o.variables)]

    def get_config(self):
        optimizers = keras.saving.serialize_keras_object(self.by_peer)
        return {"name": self.name, "optimizers": optimizers}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        optimizers = keras.saving.deserialize_keras_object(config["optimizers"], custom_objects)
        return cls(optimizers, name=config["name"])


def last_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """Return the learning rate of the last step; `learning_rate` is that of the next one."""
    rate = optimizer._learning_rate
    if not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return number(rate)
    return number(rate(max(0, int(number(optimizer.iterations)) - 1)))


def number(variable) -> float:
    """Return a scalar variable or tensor as a float, also a mirrored one."""
    return float(keras.ops.convert_to_numpy(variable))


def _clippable(gradients: list, optimizer) -> list:
    """Clip the sum over the replicas: Keras clips each replica's part and sums afterwards.

    Returned divided by the number of replicas, for Keras' own sum to restore; its own clipping then
    finds nothing to do.
    """
    context = tf.distribute.get_replica_context()
    clips = optimizer.global_clipnorm or optimizer.clipnorm or optimizer.clipvalue
    if not clips or context is None or context.num_replicas_in_sync == 1:
        return gradients
    there = [g for g in gradients if g is not None]  # an unused variable has none
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, there)
    if optimizer.global_clipnorm:
        total, _ = tf.clip_by_global_norm(total, optimizer.global_clipnorm)
    elif optimizer.clipnorm:
        total = [tf.clip_by_norm(g, optimizer.clipnorm) for g in total]
    else:
        total = [tf.clip_by_value(g, -optimizer.clipvalue, optimizer.clipvalue) for g in total]
    parts = iter([g / context.num_replicas_in_sync for g in total])
    return [None if g is None else next(parts) for g in gradients]
