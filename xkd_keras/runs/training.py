"""A run from its Config to its directory: set up, train or go on, evaluate, report."""

import contextlib
import dataclasses
import datetime
import functools
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from xkd_keras import data as datasets
from xkd_keras import files, peers
from xkd_keras.devices.cluster import cluster
from xkd_keras.distillation.cohort import Cohort
from xkd_keras.errors import InputError
from xkd_keras.flags import command_line
from xkd_keras.flags import config as configs
from xkd_keras.report.run_page import run_page
from xkd_keras.runs import building, callbacks, checkpoint, evaluation
from xkd_keras.runs import directory as rundir


def run(config: configs.Config, more_callbacks: Sequence[keras.callbacks.Callback] = ()) -> dict:
    """Train, evaluate and report in `config.run_dir`, or go on; see `train.train_and_evaluate`."""
    run_dir = Path(config.run_dir)
    strategy = set_up(config)
    chief = cluster.is_chief(strategy)
    with contextlib.ExitStack() as held:
        with cluster.agreed(strategy):
            if chief:
                rundir.claim(config, run_dir)
                held.enter_context(files.lock(run_dir))
        if cluster.from_chief(strategy, chief and (run_dir / "metrics.json").exists()):
            return _complete(run_dir) if chief else {}
        with cluster.agreed(strategy):
            data = rundir.load_dataset(config)
            steps = datasets.steps_per_epoch(data, config.batch_size)
        with strategy.scope():
            cohort = build_cohort(config, data, steps)
        with cluster.agreed(strategy):
            if chief:
                rundir.record(config, run_dir, data)
        with clear_about_loss():
            history = _train(config, run_dir, cohort, data, steps, more_callbacks)
        return _finish(config, run_dir, cohort, data, history) if chief else {}


def _complete(run_dir: Path) -> dict:
    print(f"{run_dir} is complete; delete it to run again")
    return json.loads((run_dir / "metrics.json").read_text())


@contextlib.contextmanager
def clear_about_loss() -> Iterator[None]:
    """Say what to do about a loss that is not finite."""
    try:
        yield
    except FloatingPointError as error:
        raise InputError(f"{error}; valid: a lower learning_rate, or a clip_norm.") from None


def build_cohort(config: configs.Config, data: datasets.Dataset, steps: int) -> Cohort:
    """Return the compiled cohort; initial weights depend only on the seed and the peer's name.

    Args:
        config: Says which peers, how they learn and how they teach each other.
        data: Gives image shape, classes and the statistics that the peers normalise with.
        steps: Steps an epoch.
    """
    members, optimizers = {}, {}
    for peer in config.peers():
        with _policy(config):
            model = build_peer(config, data, peer)
        if ":" in peer.builder:
            rundir.check_loads(peer.name, model)
        members[peer.name] = peers.fused(model, config.sync_batch_norm)
        optimizers[peer.name] = building.optimizer(peer.recipe, config.epochs, steps)
    teacher, schedule = building.distillation(config, steps)
    if teacher == "frozen":
        teacher = building.frozen_teacher(config, data)
    if teacher == "gate":  # it learns as a peer without options of its own would
        own = {name: getattr(config, name) for name in configs.RECIPE}
        optimizers["ensemble"] = building.optimizer(own, config.epochs, steps)
    weights = {peer.name: peer.weight for peer in config.peers()}
    cohort = Cohort(members, schedule, teacher, weights, config.temperature)
    cohort.compile(optimizers, config.on_nonfinite, jit_compile=_jit(config, cohort))
    return cohort


def build_peer(config: configs.Config, data: datasets.Dataset, peer: configs.Peer) -> keras.Model:
    """Return a peer with its first weights, in the precision of Keras' policy."""
    return peers.build(
        peer.builder,
        data.image_shape,
        len(data.class_names),
        label=peer.name,
        mean=data.mean,
        std=data.std,
        seed=config.seed,
    )


@contextlib.contextmanager
def _policy(config: configs.Config) -> Iterator[None]:
    """Build in the precision of the configuration."""
    before = keras.config.dtype_policy()
    if config.mixed_precision != "none":
        keras.config.set_dtype_policy(f"mixed_{config.mixed_precision}")
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
    equally = ["batch_size"]
    if cluster.several(strategy):  # of a batch in evaluation, one machine's may have unequal parts
        equally.append("eval_batch_size")
    for name in equally:
        if getattr(config, name) % replicas:
            raise InputError(
                f"received {getattr(config, name)}; valid: a multiple of the {replicas} devices.",
                argument=name,
            )
    return strategy


def _train(
    config, run_dir: Path, cohort: Cohort, data: datasets.Dataset, steps: int, more_callbacks
) -> list:
    """Train from the newest checkpoint, or the start, to the last epoch; return the history."""
    done = checkpoint.restore(run_dir / "checkpoints", cohort)
    first, strategy = len(done.history), cohort.distribute_strategy
    watching = [callbacks.History(run_dir, done, steps)]
    if cluster.is_chief(strategy):
        _tell(config, run_dir, cohort, data, steps, done)
        watching = [
            # Before the checkpoint: killed between the two, an epoch is told twice, not never.
            keras.callbacks.TensorBoard(run_dir / "logs", write_graph=False),
            *watching,
            callbacks.Progress(list(cohort.peers), config.epochs, steps, done.batch),
        ]
    validation = functools.partial(
        datasets.eval_batches, data.validation, dataset=data, batch_size=config.eval_batch_size
    )
    # What is left of an epoch that was cut, and the whole ones after it.
    parts = [(first, first + 1, done.batch)] if done.batch else []
    parts.append((first + len(parts), config.epochs, 0))
    for begin, end, batch in parts:
        if begin < end:
            train = functools.partial(
                datasets.train_batches,
                data,
                batch_size=config.batch_size,
                epochs=end,
                first_epoch=begin,
                first_batch=batch,
                seed=config.seed,
            )
            reading = datasets.readable(config.dataset)
            with command_line.saving(), cluster.lost_workers(strategy), reading:
                cohort.fit(
                    cluster.distribute(strategy, train),
                    steps_per_epoch=steps - batch,
                    initial_epoch=begin,
                    epochs=end,
                    validation_data=cluster.distribute(strategy, validation),
                    callbacks=[*watching, *more_callbacks],
                    shuffle=False,  # train_batches has
                    verbose=0,
                )
    return done.history


def _tell(config, run_dir: Path, cohort: Cohort, data, steps: int, done) -> None:
    """Say what is trained on, and from where the run goes on."""
    first = len(done.history)
    print(
        f"{config.dataset}: {len(data.train)} training, {len(data.validation)} validation,"
        f" {len(data.test)} test images, {len(data.class_names)} classes;"
        f" {steps} steps an epoch; devices: {cluster.counted(cohort.distribute_strategy)}"
    )
    if config.method != "solo" and not strengths(cohort.schedule, config.epochs * steps).any():
        print("note: lambda is 0 throughout; shorten --distill_period or --distill_start")
    if first:
        callbacks.write_history(run_dir, done.history)
    if first or done.batch:
        within = f", step {done.batch} of {steps}" if done.batch else ""
        print(f"going on after epoch {first} of {config.epochs}{within}")
    if first < config.epochs:
        print("each line: the teacher's weight lambda, then top-1 on the validation images")


def _finish(config, run_dir: Path, cohort: Cohort, data: datasets.Dataset, history: list) -> dict:
    """Save the peers, evaluate the saved files once on test, write metrics and report."""
    _save_models(config, run_dir, cohort, data)
    models = rundir.load_peers(run_dir, cohort.peers)
    weights = dict(zip(cohort.peers, cohort.ensemble_weights, strict=True))
    predictions = evaluation.predict(models, weights, data, "test", config.eval_batch_size)
    result = evaluation.summarize(models, predictions)
    for name, row in result["peers"].items():
        row["file"] = f"peers/{name}.keras"
    metrics = {**_circumstances(config, run_dir, cohort, data, history), **result}
    strength = strengths(cohort.schedule, history[-1]["step"])
    run_page.write(run_dir, metrics, history, predictions, strength)
    # Last: its presence says that the run is complete.
    files.write(run_dir / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    return metrics


def report_again(run: rundir.Run, predictions: evaluation.Predictions, manifest: dict) -> None:
    """Write the report of a finished run anew, with what was exported of it."""
    table = run.directory / "logs" / "history.csv"
    if not table.exists():  # the networks that a study keeps have no report
        return
    history = callbacks.read_history(run.directory)
    steps = datasets.steps_per_epoch(run.data, run.config.batch_size)
    _, schedule = building.distillation(run.config, steps)
    strength = strengths(schedule, history[-1]["step"])
    run_page.write(run.directory, run.metrics, history, predictions, strength, manifest)


def save_peers(config, run_dir: Path, cohort: Cohort, data: datasets.Dataset, measured) -> None:
    """Write the least that `--teacher_run` and evaluation need of a run: no logs, no report."""
    _save_models(config, run_dir, cohort, data)
    files.write(run_dir / "config.flags", dataclasses.replace(config, run_dir=str(run_dir)).flags())
    metrics = {"dataset": config.dataset, "data": rundir.about(data), **measured}
    files.write(run_dir / "metrics.json", json.dumps(metrics, indent=1) + "\n")


def _save_models(config, run_dir: Path, cohort: Cohort, data: datasets.Dataset) -> None:
    """Write RUN/peers/NAME.keras: stock layers, float32."""
    for peer in config.peers():
        model = peers.stock(cohort.peers[peer.name])
        if config.mixed_precision != "none":
            half, model = model, build_peer(config, data, peer)
            model.set_weights(half.get_weights())
        with files.whole(run_dir / "peers" / f"{peer.name}.keras") as beside:
            model.save(beside)


def _circumstances(config, run_dir: Path, cohort: Cohort, data, history: list) -> dict:
    """Return the part of metrics.json that says what was run, on what, and how long."""
    seconds = sum(row["seconds"] for row in history)
    return {
        "dataset": config.dataset,
        "method": config.method,
        "seed": config.seed,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": "python -m xkd_keras.train "
        + shlex.join([f"--flagfile={run_dir / 'config.flags'}", f"--run_dir={run_dir}-again"]),
        "config": dataclasses.asdict(config),
        "versions": rundir.versions(),
        "data": rundir.about(data),
        "training": {
            "epochs": len(history),
            "steps": history[-1]["step"],
            "batch_size": config.batch_size,
            "seconds": round(seconds, 3),
            "steps_per_second": round(history[-1]["step"] / seconds, 3),
            "replicas": cohort.distribute_strategy.num_replicas_in_sync,
            "skipped": {name: _skipped(history, name) for name in cohort.peers},
        },
    }


def _skipped(history: list, name: str) -> int:
    """Return the steps that a peer sat out: its loss or gradients were not finite."""
    return int(sum(row.get(f"{name}_skipped", 0) for row in history))


def strengths(schedule: Callable, steps: int) -> np.ndarray:
    """Return lambda at each of the steps, float32 [steps]."""
    return np.asarray(schedule(np.arange(steps)))
