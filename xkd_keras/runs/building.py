"""From a Config, which counts in epochs, to the cohort that it describes, which counts in steps."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from xkd_keras import data as datasets
from xkd_keras import peers
from xkd_keras.data import balance
from xkd_keras.devices import cluster
from xkd_keras.distillation import methods, optimizers, schedules, shares, teachers, updates
from xkd_keras.distillation.cohort import Cohort
from xkd_keras.errors import InputError
from xkd_keras.flags import config as configs
from xkd_keras.flags import fields
from xkd_keras.flags import peer as peer_options
from xkd_keras.flags.peer import Peer
from xkd_keras.peers import stages
from xkd_keras.peers.catalogue import FILE
from xkd_keras.runs import directory as rundir
from xkd_keras.runs import records, whereabouts


def build_cohort(config: configs.Config, data: datasets.Dataset, steps: int) -> Cohort:
    """Return the compiled cohort; initial weights depend only on the seed and the peer's name.

    Args:
        config: Says which peers, how they learn and how they teach each other.
        data: Gives image shape, classes and the statistics that the peers normalise with.
        steps: Steps per epoch.
    """
    config = resolved(config)
    rundir.import_builders(config)  # first: a module may set a policy for all of Keras
    with _policy("none"):
        members = {peer.name: _member(config, data, peer) for peer in config.peers()}
    learning = {}
    for peer in config.peers():
        old = _old(peer, members[peer.name], steps)
        learning[peer.name] = optimizer(peer.learning, config.epochs, steps, old)
    teacher, schedule = distillation(config, steps)
    if teacher == "frozen":
        teacher = frozen_teacher(config, data)
    cohort = Cohort(members, schedule, teacher, **_options(config, data, members))
    if "ensemble" in cohort.learners():  # the teacher: as a peer without options of its own would
        own = fields.learning("", config.learning())
        learning["ensemble"] = optimizer(own, config.epochs, steps)
    jit = _jit(config, cohort)
    cohort.compile(learning, on_nonfinite=config.on_nonfinite, jit_compile=jit)
    return cohort


def _member(config: configs.Config, data: datasets.Dataset, peer: Peer) -> keras.Model:
    """Return a network as it is trained, in the precision of the configuration."""
    with _policy(config.mixed_precision):
        model = build_peer(config, data, peer)
    if peers.is_own(peer.builder) or peer.builder.startswith(FILE):
        rundir.check_loads(peer.name, model)
    return peers.fused(model, config.sync_batch_norm)


def _options(
    config: configs.Config, data: datasets.Dataset, members: Mapping[str, keras.Model]
) -> dict[str, Any]:
    """Return what the cohort is made with beside networks, schedule and teacher."""
    labels, classes = data.train.labels, len(data.class_names)
    return {
        "weights": {peer.name: peer.weight for peer in config.peers()},
        "temperature": config.temperature,
        "term": config.distill_term,
        "distill": {peer.name: peer.distill for peer in config.peers()},
        "adapt": config.distill_adapt,
        "mix": config.mix,
        "seed": config.seed,
        "class_weights": balance.class_weights(config.class_weights, labels, classes),
        "label_smoothing": config.label_smoothing,
        "ema": config.ema,
        "exits": exits(config, members),
        "similarity": config.distill_similarity,
        "recompute": {n: stages.cuts(m) for n, m in members.items()} if config.recompute else None,
    }


def exits(
    config: configs.Config, members: Mapping[str, keras.Model]
) -> dict[str, list[str]] | None:
    """Return by the peer's name the layers that have heads; None where --exits is 0.

    Raises:
        InputError: A network has no stage before its final one, and names no layers.
    """
    found = {}
    for peer in config.peers() if config.exits else ():
        last = stages.ends(members[peer.name])[-config.exits :]
        ends = peer.exits.split(":") if peer.exits else last
        if not ends:
            raise InputError(
                f"'{peer.name}' has no stage before its final one; valid: 0, or"
                f" --peer={peer.builder},exits=LAYER with one of its layers.",
                argument="exits",
            )
        found[peer.name] = ends
    return found or None


def resolved(config: configs.Config) -> configs.Config:
    """Return a configuration in which what its method sets is said, and can be recorded."""
    similarity = methods.own(config.method, "similarity", config.distill_similarity)
    if config.exits and config.distill_similarity is None:
        similarity = 0.0  # the two do not go together
    adapt = methods.own(config.method, "adapt", config.distill_adapt)
    return dataclasses.replace(config, distill_adapt=adapt, distill_similarity=similarity)


def with_batch(config: configs.Config, data: datasets.Dataset, replicas: int = 1) -> configs.Config:
    """Return a configuration that says how many images a step has, given or not."""
    usual = datasets.usual_batch(len(data.train), replicas)
    batch_size = config.batch_size or usual
    check_shared(batch_size, replicas)  # it may be of a run on other devices
    # In evaluation it changes no number; of several machines, each needs equal parts.
    evaluated = -(-config.eval_batch_size // replicas) * replicas
    return dataclasses.replace(config, batch_size=batch_size, eval_batch_size=evaluated)


def check_shared(batch_size: int, replicas: int) -> None:
    """Raise InputError where the devices could not share a batch equally."""
    if batch_size % replicas:
        raise InputError(
            f"received {batch_size}; valid: a multiple of the {replicas} devices.",
            argument="batch_size",
        )


def build_peer(config: configs.Config, data: datasets.Dataset, peer: Peer) -> keras.Model:
    """Return a peer with its first weights, in the precision of Keras' policy."""
    try:
        return peers.build(
            peer.builder,
            data.image_shape,
            len(data.class_names),
            label=peer.name,
            mean=data.mean,
            std=data.std,
            seed=config.seed,
            start=peer.start,
            pixels=peer.pixels,
            new_head=_of_other_classes(peer, data),
        )
    except InputError as error:
        raise InputError(error.message, argument=peer.flag_of(error.argument)) from None


def _of_other_classes(peer: Peer, data: datasets.Dataset) -> bool:
    """Whether a peer starts from a network of a run whose classes had other names."""
    path = Path(peer.start or peer.builder.removeprefix(FILE))
    run_dir = path.parent.parent
    of_run = path.parent.name == "peers" and whereabouts.is_run(run_dir)
    if not peers.starts(peer.builder, peer.start) or not of_run:
        return False
    config, metrics = records.finished(run_dir, "start")
    with contextlib.suppress(InputError):  # of Keras' own layers, it needs no module
        rundir.import_builders(config)
    return metrics["data"]["class_names"] != list(data.class_names)


def _old(peer: Peer, model: keras.Model, steps: int) -> updates.Old | None:
    """Return which variables are trained already, where they learn otherwise than the new ones."""
    if not peer.freeze and peer.start_rate == 1.0:
        return None
    count = len(model.trainable_variables) - len(peers.head(model).trainable_variables)
    return updates.Old(count, peer.start_rate, peer.freeze * steps)


@contextlib.contextmanager
def _policy(mixed: str) -> Iterator[None]:
    """Build in that --mixed_precision, whatever policy a user's module has set."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32" if mixed == "none" else f"mixed_{mixed}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _jit(config: configs.Config, cohort: Cohort) -> bool | str:
    """Return Keras' jit_compile: on CPUs XLA makes these networks 1.4 to 14 times slower."""
    if config.jit_compile != "auto":
        return config.jit_compile == "on"
    one_gpu = tf.config.list_logical_devices("GPU")
    return "auto" if one_gpu and cohort.distribute_strategy.num_replicas_in_sync == 1 else False


def set_up(config: configs.Config) -> tf.distribute.Strategy:
    """Set seeds, determinism and devices of this process; return the strategy."""
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    strategy = cluster.strategy(config.strategy, config.logical_cpus)
    replicas = strategy.num_replicas_in_sync
    if config.batch_size:  # else `with_batch` finds one
        check_shared(config.batch_size, replicas)
    if config.jit_compile == "on" and replicas > 1:
        raise InputError(
            f"received on, but XLA cannot compile a step of {replicas} devices; valid: auto or"
            " off, or --strategy=one.",
            argument="jit_compile",
        )
    return strategy


def distillation(config: configs.Config, steps: int):
    """Return who teaches (a name in `teachers`, or "frozen") and lambda(step).

    Args:
        config: Says which method, and its options in epochs.
        steps: Steps per epoch.
    """
    # Rounded, periods of 2.5 epochs would no longer fit into 30.
    period = max(1.0, config.distill_period * steps)
    course = methods.Course(
        distill_weight_max=config.distill_weight_max,
        total=config.epochs * steps,
        start=round(config.distill_start * steps),
        period=period,
        window=min(period, round(config.distill_duty * period)),
        growth=config.distill_growth,
    )
    teacher, schedule = methods.METHODS[config.method](course)
    return (teacher if config.teacher == "auto" else config.teacher), schedule


def optimizer(
    learning: Mapping[str, Any], epochs: int, steps: int, old: updates.Old | None = None
) -> keras.optimizers.Optimizer:
    """Return a peer's optimizer: its learning rate over `epochs` of `steps` steps, and the rest.

    Args:
        learning: The flags of `fields.LEARNING`, by name.
        epochs: Epochs of the run.
        steps: Steps per epoch.
        old: The variables that are trained already.
    """
    rate = learning_rate(learning, epochs, steps)
    names = ("momentum", "nesterov", "weight_decay", "clip_norm")
    given = {name: learning[name] for name in names}
    return optimizers.build(learning["optimizer"], rate, old=old, **given)


def learning_rate(learning: Mapping[str, Any], epochs: int, steps: int):
    """Return the learning rate as a function of the step: constant, step or cosine, warmed up."""
    rate = learning["learning_rate"]
    if learning["learning_rate_schedule"] == "cosine":
        schedule = schedules.Cosine(rate, epochs * steps)
    elif learning["learning_rate_schedule"] == "step":
        falls = peer_options.learning_rate_epochs(learning["learning_rate_epochs"], epochs)
        schedule = schedules.Step(rate, [round(epoch * steps) for epoch in falls])
    else:
        schedule = schedules.Constant(rate)
    warm = round(learning["warmup_epochs"] * steps)
    return schedules.WarmUp(schedule, warm) if warm else schedule


def frozen_teacher(config: configs.Config, data: datasets.Dataset) -> teachers.Frozen:
    """Return the networks of `config.teacher_run` as a teacher that does not learn.

    Raises:
        InputError: That run is not finished, was on other classes or another image size, or has no
            such peer.
    """
    run_dir = Path(config.teacher_run)
    taught, metrics = records.finished(run_dir, "teacher_run")
    there = metrics["data"]["class_names"], metrics["data"]["image_shape"]
    if there != (list(data.class_names), list(data.image_shape)):
        raise InputError(
            f"'{run_dir}' was trained on {len(there[0])} classes of {metrics['dataset']}, images"
            f" {there[1]}; valid: a run with the same classes and image size as this one"
            f" ({len(data.class_names)} classes, {list(data.image_shape)}).",
            argument="teacher_run",
        )
    weights = {peer.name: peer.weight for peer in taught.peers()}
    if config.teacher_peer and config.teacher_peer not in weights:
        raise InputError.unknown("teacher_peer", config.teacher_peer, weights)
    names = [config.teacher_peer] if config.teacher_peer else list(weights)
    trained = rundir.load_own(taught, run_dir, names)
    models = {name: peers.fused(model) for name, model in trained.items()}
    return teachers.Frozen(models, shares.normalized(weights, names))


def distill_weights(schedule: Callable, steps: int) -> np.ndarray:
    """Return lambda at each of the steps, float32 [steps]."""
    return np.asarray(schedule(np.arange(steps)))
