"""Exact metrics of saved peers and of their ensemble, on any split of any dataset.

python -m xkd_keras.evaluate --run_dir=RUN [--peer=NAME] [--dataset=folder:PATH]
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from xkd_keras import data as datasets
from xkd_keras.data.names import folder_path
from xkd_keras.distillation import shares
from xkd_keras.errors import InputError
from xkd_keras.runs import directory as rundir
from xkd_keras.runs import records
from xkd_keras.runs.scoring import scores


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What networks said of n images.

    Attributes:
        labels: int [n].
        logits: By name, float32 [n, classes].
        milliseconds: By name, the median time of an image in a batch.
        fetch: Positions [k] -> the images as uint8 [k, H, W, 3].
    """

    labels: np.ndarray
    logits: dict[str, np.ndarray]
    milliseconds: dict[str, float]
    fetch: Callable[[Iterable[int]], np.ndarray]


def predict(
    models: dict[str, keras.Model],
    weights: dict[str, float],
    dataset: datasets.Dataset,
    split: str,
    batch_size: int,
) -> Predictions:
    """Return the logits of every model and of their weighted `ensemble`.

    Args:
        models: Images [B, H, W, C] -> logits [B, classes], by name.
        weights: The models' weights in the ensemble, by name.
        dataset: Holds the split; every image of it counts once.
        split: train, validation or test.
        batch_size: Images at once.
    """
    part = getattr(dataset, split)
    calls = {name: tf.function(model, reduce_retracing=True) for name, model in models.items()}
    rows = {name: [] for name in models}
    times = {name: [] for name in models}
    for images, mask in _batches(part, dataset, batch_size):
        for name, call in calls.items():
            if not times[name]:
                call(images, training=False)  # traces the graph, which is not to count
            began = time.perf_counter()
            logits = call(images, training=False).numpy()
            times[name].append(1000 * (time.perf_counter() - began) / len(images))
            rows[name].append(logits[mask])
    logits = {name: np.concatenate(row) for name, row in rows.items()}
    speed = {name: float(np.median(each)) for name, each in times.items()}
    own = shares.normalized(weights, models)
    logits["ensemble"] = sum(np.float32(own[name]) * logits[name] for name in models)
    speed["ensemble"] = sum(speed.values())

    def fetch(indices):
        return datasets.images(part, list(indices), dataset)

    return Predictions(datasets.labels(part), logits, speed, fetch)


def answers(
    call: Callable[[np.ndarray], np.ndarray], dataset: datasets.Dataset, split: str, batch_size: int
) -> np.ndarray:
    """Return what a function of images, float32 [n, H, W, 3], says of a split: [n, classes]."""
    batches = _batches(getattr(dataset, split), dataset, batch_size)
    return np.concatenate([call(images.numpy()[mask]) for images, mask in batches])


def _batches(part, dataset: datasets.Dataset, batch_size: int) -> Iterator:
    """Give batches of a split, and which images are no padding, bool [B].

    Raises:
        InputError: A file is damaged or gone.
    """
    batches = iter(datasets.eval_batches(part, dataset=dataset, batch_size=batch_size))
    while True:
        with datasets.readable(dataset.name):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch[0], batch[2].numpy() > 0


def agreement(logits: dict[str, np.ndarray]) -> float:
    """Return the fraction of (image, pair of peers) that name the same class; 1 for one peer."""
    guesses = [z.argmax(-1) for name, z in logits.items() if name != "ensemble"]
    pairs = [(a, b) for i, a in enumerate(guesses) for b in guesses[:i]]
    return float(np.mean([np.mean(a == b) for a, b in pairs])) if pairs else 1.0


def summarize(models: dict[str, keras.Model], predictions: Predictions) -> dict:
    """Return the part of metrics.json that evaluation fills: peers, ensemble, agreement."""
    parameters = {name: _parameters(model) for name, model in models.items()}
    rows = {
        name: {
            **scores(predictions.labels, logits),
            "parameters": parameters.get(name, sum(parameters.values())),
            "milliseconds_per_image": round(predictions.milliseconds[name], 4),
        }
        for name, logits in predictions.logits.items()
    }
    together = rows.pop("ensemble")
    return {"peers": rows, "ensemble": together, "agreement": agreement(predictions.logits)}


def evaluate_run(
    run_dir: Path,
    names: Iterable[str] = (),
    dataset: str = "",
    split: str = "test",
    skip_unreadable: bool = False,
) -> dict:
    """Evaluate a finished run's peers again.

    Args:
        run_dir: Made by `xkd_keras.train`.
        names: Peers to evaluate; all where empty.
        dataset: Another dataset, with the run's class names or some of them; its own where empty.
        split: train, validation, test, or all of them together.
        skip_unreadable: Leave files of another folder out that cannot be read.

    Returns:
        What `facts` and `summarize` return; for the run's own test split its numbers exactly.

    Raises:
        InputError: The run is not finished, a peer is not in it, or the classes do not fit.
    """
    run = rundir.load_run(run_dir, names, dataset, skip_unreadable)
    parts = [
        predict(run.models, run.weights, run.data, part, run.config.eval_batch_size)
        for part in filled(run.data, split)
    ]
    predictions = joined(parts, run.data.class_names, tuple(run.metrics["data"]["class_names"]))
    found = facts(predictions, run.data)
    found["about"] += doubts(run_dir, run.data, dataset, split)
    return {**found, **summarize(run.models, predictions)}


def doubts(run_dir: Path, data: datasets.Dataset, dataset: str, split: str) -> list[str]:
    """Return a warning where another dataset has images that the run learned from.

    Args:
        run_dir: Of a finished run.
        data: What was read of the dataset.
        dataset: Its name; empty: the run's own.
        split: As of `evaluate_run`.
    """
    config, metrics = records.finished(run_dir)
    if rundir.is_own(config, dataset):
        return []
    try:
        learned = datasets.holds_training_images(config.dataset, dataset, split)
    except (InputError, OSError):  # something in the run's folder, which was not asked for
        learned = False
    if learned:
        return [
            "warning: the run was trained on some of these images, so its numbers are too good;"
            " use other images, or leave --dataset out for the run's own test images"
        ]
    if split in ("validation", "test") and _held_out(dataset, split):
        return []
    if not _same_images(config, metrics["data"], data, dataset):
        return []
    return [
        "warning: these are the images that the run was trained on; if they have moved, write"
        f" their new place into {run_dir / 'config.flags'} (--dataset={dataset})"
    ]


def _held_out(dataset: str, split: str) -> bool:
    """Whether this split of the very images of a run would be one that it did not learn from."""
    if not datasets.is_folder(dataset):
        return True  # divided as the run's are
    return split == "test" and datasets.has_test(Path(folder_path(dataset)))


def _same_images(config, known: dict, data: datasets.Dataset, dataset: str) -> bool:
    """Whether a dataset in another place has all the images of a run, and no others."""
    counts = [len(getattr(data, split)) for split in rundir.SPLITS]
    if sum(counts) != sum(known["examples"].values()):
        return False
    config = dataclasses.replace(config, dataset=dataset)
    try:
        again = rundir.load_dataset(config, "", tuple(known["image_shape"][:2]))
    except InputError:  # as the run's they could not be used: they are others
        return False
    return again.fingerprint == known["fingerprint"]


def facts(predictions: Predictions, data: datasets.Dataset) -> dict:
    """Return what is evaluated on: `examples`, how they were read, and images of each class."""
    counts = np.bincount(predictions.labels)
    return {
        "examples": len(predictions.labels),
        "about": datasets.about_reading(data),
        "data": {"class_counts": {"test": counts[counts > 0].tolist()}},
    }


def filled(data: datasets.Dataset, split: str) -> list[str]:
    """Return the splits that `split` names, "all" or one, without empty ones; some are left."""
    names = [each for each in rundir.SPLITS if split in (each, "all") and len(getattr(data, each))]
    if not names:
        raise InputError(f"{data.name} has no images in split {split}.", argument="split")
    return names


def joined(parts: list[Predictions], names: tuple, known: tuple) -> Predictions:
    """Return the parts as one, labels renumbered from the dataset's classes to the run's."""
    missing = [name for name in names if name not in known]
    if missing:
        raise InputError(
            f"its class '{missing[0]}' is unknown to the run; valid: {', '.join(known)}.",
            argument="dataset",
        )
    number = np.array([known.index(name) for name in names])
    return Predictions(
        number[np.concatenate([part.labels for part in parts])],
        {name: np.concatenate([part.logits[name] for part in parts]) for name in parts[0].logits},
        parts[-1].milliseconds,
        parts[-1].fetch,
    )


def _parameters(model: keras.Model) -> int:
    """Return how many weights a network has that can be learned, frozen ones included.

    Those of `normalize` are of the images, and moving statistics follow what is learned.
    """
    of_images = {id(layer) for layer in model.layers if layer.name == "normalize"}
    layers = [layer for layer in model._flatten_layers() if id(layer) not in of_images]
    return sum(int(np.prod(v.shape)) for layer in layers for v in layer._trainable_variables)
