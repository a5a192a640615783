"""One run of a study, measured: train in memory, follow validation, test once at the end."""

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from xkd_keras import data as datasets
from xkd_keras import files
from xkd_keras.distillation.cohort import Cohort
from xkd_keras.flags import config as configs
from xkd_keras.flags import effects
from xkd_keras.runs import building, checkpoint, evaluation, freezing, result, training
from xkd_keras.runs import directory as rundir
from xkd_keras.study.plan import Task

POINTS = 10  # of the curves over training, on validation images


def run(task: Task) -> None:
    """Train and measure as the task says, and write its result, whole or not at all.

    Raises:
        InputError: The data cannot be used, or a loss is not finite.
    """
    rundir.versions()  # of the code that runs; its files may be others when the run ends
    data = _load(dataclasses.replace(task.config, **_NOT_OF_DATA))
    strategy = building.set_up(task.config)
    config = building.with_batch(task.config, data, strategy.num_replicas_in_sync)
    steps = datasets.steps_per_epoch(data, config.batch_size)
    cohort = _cohort(config, data, steps, strategy)
    watch = Watch(list(cohort.peers))
    with _forgotten_if_it_fails(), training.nonfinite_as_input_error():
        cohort.fit(
            datasets.train_batches(
                data, batch_size=config.batch_size, epochs=config.epochs, seed=config.seed
            ),
            steps_per_epoch=steps,
            epochs=config.epochs,
            validation_data=datasets.eval_batches(
                data.validation, dataset=data, batch_size=config.eval_batch_size
            ),
            validation_freq=_points(config.epochs),
            callbacks=[freezing.Freezing(config.peers()), watch],
            shuffle=False,
            verbose=0,
        )
    strongest = building.distill_weights(cohort.schedule, config.epochs * steps).max()
    measured = {**watch.measured(), "lambda_max": float(strongest)}
    if task.test:
        measured |= _tested(config, cohort, data)
    if task.keep:
        result.save_peers(config, task.networks, cohort, data, measured)
    about = {"data": rundir.about(data), "versions": rundir.versions()}
    about["reading"] = datasets.about_reading(data)
    whole = {"config": dataclasses.asdict(config), **about, **measured}
    files.write(task.result, json.dumps(whole, indent=1) + "\n")


_NOT_OF_DATA = {
    **{name: configs.Config.__dataclass_fields__[name].default for name in effects.COMPARED},
    **{"method": "mcod", "teacher_run": "", "peer": ()},
}


@functools.lru_cache(maxsize=2)
def _load(config: configs.Config) -> datasets.Dataset:
    """Return the data of a configuration, kept for the next method with the same seed."""
    return rundir.load_dataset(config, reader=_read)


_read = functools.lru_cache(maxsize=1)(datasets.read)  # once for all seeds


_TRACED: dict[configs.Config, Cohort] = {}


@contextlib.contextmanager
def _forgotten_if_it_fails() -> Iterator[None]:
    """Begin anew after a run that fails: it may leave layers frozen."""
    try:
        yield
    except BaseException:
        _TRACED.clear()
        raise


def _cohort(config: configs.Config, data: datasets.Dataset, steps: int, strategy) -> Cohort:
    """Return a run's cohort, on the graph of an earlier run that differs in its seed alone.

    To trace a graph takes longer than a small run's training. What a run starts from is all in the
    cohort's variables, so they are built anew and copied. The seed itself is in the graph only
    where it mixes images: there every seed has a graph of its own.
    """
    with strategy.scope():
        fresh = building.build_cohort(config, data, steps)
    if len(_TRACED) > 32:
        _TRACED.clear()
    seed = 0 if config.mix == "none" else config.seed
    same = dataclasses.replace(config, seed=seed, teacher_run="")
    cohort = _TRACED.setdefault(same, fresh)
    for variable, start in zip(checkpoint.state(cohort), checkpoint.state(fresh), strict=True):
        variable.assign(start)
    return cohort


def _points(epochs: int) -> list[int]:
    """Return the epochs (from 1) after which validation is measured, the last among them."""
    return sorted({round(epoch) for epoch in np.linspace(0, epochs, POINTS + 1)[1:]} - {0})


def _tested(config: configs.Config, cohort, data: datasets.Dataset) -> dict[str, Any]:
    """Return the metrics on the test images after the last epoch."""
    shares = cohort.shares
    with cohort.averaged():
        predictions = evaluation.predict(cohort.peers, shares, data, "test", config.eval_batch_size)
    return evaluation.summarize(cohort.peers, predictions)


class Watch(keras.callbacks.Callback):
    """Times the training, without validation, and keeps what validation says.

    Args:
        peers: Names.
    """

    def __init__(self, peers: list[str]):
        super().__init__()
        self.peers, self.rows, self.seconds = peers, [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.began = self.stopped = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.stopped = time.perf_counter()  # validation comes after the last batch

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(self.stopped - self.began)
        if "val_agreement" not in logs:
            return
        row = {
            "epoch": epoch + 1,
            "disagreement": 1.0 - logs["val_agreement"],
            "pairwise_kl": logs["val_pairwise_kl"],
            "distill_weight": logs["distill_weight"],
        }
        for name in [*self.peers, "ensemble"]:
            for kind in ("top1", "cross_entropy"):
                row[f"{name}_{kind}"] = logs[f"val_{name}_{kind}"]
        self.rows.append({name: float(value) for name, value in row.items()})

    def measured(self) -> dict[str, Any]:
        """Return the training's seconds and the rows; the first epoch counts as an average one.

        It traces the graph, which takes as long as some epochs of small data.
        """
        usual = self.seconds[1:] or self.seconds
        seconds = float(np.mean(usual)) * len(self.seconds)
        return {"seconds": round(seconds, 3), "history": self.rows}
