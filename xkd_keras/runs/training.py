"""A run from its Config to its directory: train, or resume, to the last epoch."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np

from xkd_keras import data as datasets
from xkd_keras import files, peers, signals
from xkd_keras.console import many
from xkd_keras.data import splits
from xkd_keras.devices import cluster, collectives, machine
from xkd_keras.distillation import methods, similar
from xkd_keras.distillation.cohort import Cohort
from xkd_keras.errors import InputError
from xkd_keras.flags import config as configs
from xkd_keras.flags import effects
from xkd_keras.peers import graphs
from xkd_keras.runs import (
    building,
    callbacks,
    checkpoint,
    freezing,
    history,
    progress,
    records,
    result,
)
from xkd_keras.runs import directory as rundir


def run(
    config: configs.Config,
    more_callbacks: Sequence[keras.callbacks.Callback] = (),
    after: Callable[[dict], None] | None = None,
) -> dict:
    """Train and evaluate in `config.run_dir`, or resume; see `train.train_and_evaluate`.

    `after`, given the metrics, is what the chief does with a finished run.
    """
    rundir.versions()  # of the code that runs; its files may be others when the run ends
    strategy = building.set_up(config)
    with collectives.lost_workers(strategy):
        metrics = _run(config, strategy, more_callbacks)
        with collectives.agreed(strategy):  # the others wait, as in `_run`
            if metrics and after:
                after(metrics)
        return metrics


def _run(config: configs.Config, strategy, more_callbacks) -> dict:
    run_dir, chief = Path(config.run_dir), cluster.is_chief(strategy)
    with contextlib.ExitStack() as held:
        with collectives.agreed(strategy):
            if chief:
                config = rundir.claim(config, run_dir)
                held.callback(rundir.leave, run_dir)
                held.enter_context(files.lock(run_dir))
        # What a run was begun with, the chief alone has read.
        begun = collectives.text_from_chief(strategy, json.dumps(config.open_options()))
        config = building.resolved(dataclasses.replace(config, **json.loads(begun)))
        if collectives.from_chief(strategy, chief and (run_dir / "metrics.json").exists()):
            return _complete(run_dir) if chief else {}
        with collectives.agreed(strategy):
            data = rundir.load_dataset(config)
            config = building.with_batch(config, data, strategy.num_replicas_in_sync)
            steps = datasets.steps_per_epoch(data, config.batch_size)
        of_chief = collectives.text_from_chief(strategy, data.fingerprint)
        with collectives.agreed(strategy):
            _check_same(data, of_chief, config.dataset)
        with strategy.scope():
            cohort = building.build_cohort(config, data, steps)
        with collectives.agreed(strategy):
            if chief:
                rundir.record(config, run_dir, data)
                for line in datasets.about_reading(data):
                    print(line)
        with nonfinite_as_input_error():
            rows = _train(config, run_dir, cohort, data, steps, more_callbacks)
        # The others wait: those that had ended, a scheduler would not start again with the chief.
        with collectives.agreed(strategy), datasets.readable(config.dataset):
            return result.finish(config, run_dir, cohort, data, rows) if chief else {}


def _check_same(data: datasets.Dataset, of_chief: str, name: str) -> None:
    """Raise InputError in a worker whose images are not the chief's: some may be test images."""
    if data.fingerprint != of_chief:
        raise InputError(
            f"this worker and the chief have different images in '{name}' (here {len(data.train)}"
            " for training); valid: the same files on every machine.",
            argument="dataset",
        )


def _complete(run_dir: Path) -> dict:
    _, metrics = records.finished(run_dir)
    print(f"{run_dir} is complete; delete it to run again")
    return metrics


@contextlib.contextmanager
def nonfinite_as_input_error() -> Iterator[None]:
    """Say what to do about a loss that is not finite."""
    try:
        yield
    except FloatingPointError as error:
        raise InputError(f"{error}; valid: a lower learning_rate, or a clip_norm.") from None


def _train(
    config, run_dir: Path, cohort: Cohort, data: datasets.Dataset, steps: int, more_callbacks
) -> list:
    """Train from the newest checkpoint, or the start, to the last epoch; return the history."""
    done = checkpoint.restore(run_dir / "checkpoints", cohort)
    first, strategy = len(done.history), cohort.distribute_strategy
    kept = callbacks.Recorder(run_dir, done, steps, config.keep, config.patience)
    watching = [freezing.Freezing(config.peers()), kept]
    if cluster.is_chief(strategy):
        _tell(config, run_dir, cohort, data, steps, done)
        watching = [
            # TensorBoard is not to log a validation that SIGTERM cut.
            keras.callbacks.LambdaCallback(on_epoch_end=kept.stop_if_cut),
            # Before the checkpoint: killed between the two, an epoch is logged twice, not lost.
            callbacks.Events(run_dir / "logs"),
            *watching,
            progress.Progress(list(cohort.peers), config.epochs, steps, done.batch),
        ]
    validation = functools.partial(
        datasets.eval_batches, data.validation, dataset=data, batch_size=config.eval_batch_size
    )

    def begun():  # several machines must stop after the same step, be it the first
        return kept.begun or cluster.several(strategy)

    # What is left of an epoch that was cut, and the whole ones after it.
    parts = [(first, first + 1, done.batch)] if done.batch else []
    parts.append((first + len(parts), config.epochs, 0))
    if done.batch == steps:
        begin, _, _ = parts.pop(0)
        with datasets.readable(config.dataset):
            batches = collectives.distribute(strategy, validation)
            callbacks.validate(cohort, [*watching, *more_callbacks], begin, batches)
    for begin, end, batch in parts:
        if begin < end and not callbacks.ended(cohort, done.history, config.patience):
            if cluster.is_chief(strategy) and not kept.begun:
                rundir.begin_anew(run_dir)
            train = functools.partial(
                datasets.train_batches,
                data,
                batch_size=config.batch_size,
                epochs=end,
                first_epoch=begin,
                first_batch=batch,
                seed=config.seed,
            )
            with signals.saving(begun), datasets.readable(config.dataset):
                cohort.fit(
                    collectives.distribute(strategy, train),
                    steps_per_epoch=steps - batch,
                    initial_epoch=begin,
                    epochs=end,
                    validation_data=collectives.distribute(strategy, validation),
                    callbacks=[*watching, *more_callbacks],
                    shuffle=False,  # train_batches has
                    verbose=0,
                )
    if cluster.is_chief(strategy) and len(done.history) < config.epochs:
        print(f"stopped early: no network improved in {config.patience} epochs")
    return done.history


def _tell(config, run_dir: Path, cohort: Cohort, data, steps: int, done) -> None:
    """Print what is trained on, and from where the run resumes."""
    first = len(done.history)
    print(
        f"{config.dataset}: {len(data.train)} training, {len(data.validation)} validation,"
        f" {len(data.test)} test images, {len(data.class_names)} classes;"
        f" {steps} steps of {many(config.batch_size, 'image')} per epoch;"
        f" devices: {cluster.counted(cohort.distribute_strategy)}"
    )
    if cluster.kind(cohort.distribute_strategy) == "CPU" and machine.gpu():
        print(
            "note: TensorFlow finds no GPU, though this machine has an NVIDIA one: check that its"
            " driver works, and install with `pip install '.[gpu]'`"
        )
    for peer in config.peers():
        print(f"{peer.name}: {result.learning_line(peer)}")
    for note in _notes(config, cohort, data, config.epochs * steps):
        print(f"note: {note}")
    if first:
        history.write(run_dir, done.history)
    if first or done.batch:
        within = f", step {done.batch} of {steps}" if done.batch else ""
        print(f"resuming after epoch {first} of {config.epochs}{within}")
    if first < config.epochs:
        hearing = cohort.mastery and config.method != "solo"
        heard = " times how well the teachers fit the training images" if hearing else ""
        print(
            f"each line shows the weight of teaching (lambda{heard}) and the top-1 on validation"
            " images"
        )


def _notes(config, cohort: Cohort, data, total: int) -> Iterator[str]:
    """Yield what a person may want to choose otherwise, for a run of `total` steps."""
    counts = np.bincount(data.train.labels, minlength=len(data.class_names))
    if splits.uneven(counts) and (config.class_weights, config.sampling) == ("none", "plain"):
        most, least = (data.class_names[f(counts)] for f in (np.argmax, np.argmin))
        yield (
            f"uneven classes: {counts.max()} training images of {most}, {counts.min()} of"
            f" {least}; --sampling=balanced or --class_weights=balanced makes rare classes count"
            " more"
        )
    each = config.batch_size // cohort.distribute_strategy.num_replicas_in_sync
    if each < min(16, config.batch_size) and not config.sync_batch_norm:
        yield (
            f"each device gets {many(each, 'image')} per step, which is few for batch"
            " normalisation; use a larger --batch_size, --sync_batch_norm or --strategy=one"
        )
    reach = 1 / (1 - config.ema) if config.ema else 0
    if 5 * reach > total:
        yield (
            f"--ema={config.ema:g} averages the weights of about {reach:.0f} steps, and the run"
            f" has only {total}, so the averages lag behind; choose a smaller --ema, or more"
            " epochs"
        )
    members = cohort.peers.items() if cohort.similarity else ()
    unread = [name for name, peer in members if similar.features(peer) is None]
    if unread:
        yield f"the features of {', '.join(unread)} cannot be read, so only logits are compared"
    for peer in config.peers():
        again = graphs.normalises_again(cohort.peers[peer.name])
        if again and peers.is_own(peer.builder):
            yield (
                f"{peer.name} normalises pixels in its layer '{again}', but receives normalised"
                " pixels: remove that layer"
            )
    yield from effects.without(config, {"distill_adapt": methods.own(config.method, "adapt", None)})
    if config.exits and methods.own(config.method, "similarity", None):
        yield f"with --exits={config.exits}, features are not compared (--distill_similarity=0)"
    if not config.exits and any(peer.exits for peer in config.peers()):
        yield "exits=... of a --peer has no effect without --exits"
    if len(cohort.peers) == 1 and config.method != "solo" and not config.teacher_run:
        yield "a single network has no teacher and learns as with --method=solo; add a --peer"
    if config.method != "solo" and not building.distill_weights(cohort.schedule, total).any():
        yield (
            "lambda is 0 throughout, so nothing is taught; shorten --distill_period or"
            " --distill_start"
        )
