"""Exact metrics of saved peers and of their ensemble, on any split of any dataset.

python -m xkd_keras.evaluate --run_dir=RUN [--peer=NAME] [--dataset=folder:PATH]
"""

import dataclasses
import json
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from xkd_keras import config as configs
from xkd_keras import data as datasets
from xkd_keras import peers, teachers
from xkd_keras.errors import InputError, unknown

SPLITS = ("train", "validation", "test")


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


def load_peers(run_dir: Path, names: Iterable[str]) -> dict[str, keras.Model]:
    """Return the trained peers of a run as plain Keras loads them."""
    loaded = {}
    for name in names:
        path = run_dir / "peers" / f"{name}.keras"
        remedy = (
            f"delete {run_dir / 'metrics.json'} and start the training command again: it writes the"
            " file anew from the last checkpoint in RUN/checkpoints."
        )
        if path.is_file():
            path.open("rb").close()  # what may not be read is not damaged
        if not zipfile.is_zipfile(path):
            state = "is damaged" if path.exists() else "is missing"
            raise InputError(f"{path}: {state}; {remedy}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loaded[name] = keras.models.load_model(path, compile=False)
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = str(error).strip().splitlines()[0].rstrip(":. ")
            raise InputError(
                f"{path}: cannot be read as a Keras model ({reason}); {remedy}"
            ) from None
    return loaded


def check_loads(name: str, model: keras.Model) -> None:
    """Raise InputError where a saved `model` could not be loaded again: before it is trained."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.keras"
        try:
            model.save(path)
            keras.models.load_model(path, compile=False)
        except OSError:  # the disk, not the network
            raise
        except Exception as error:  # a user's classes may fail in any way
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"--peer: '{name}' could not be loaded after saving ({reason}); valid: Keras"
                " layers, or classes with get_config() and"
                " @keras.saving.register_keras_serializable()."
            ) from None


def frozen_teacher(config: configs.Config, data: datasets.Dataset) -> teachers.Frozen:
    """Return the networks of `config.teacher_run` as a teacher that does not learn.

    Raises:
        InputError: That run is not finished, was on other classes or another image size, or has no
            such peer.
    """
    run_dir = Path(config.teacher_run)
    taught, metrics = finished(run_dir, "--teacher_run")
    there = metrics["data"]["class_names"], metrics["data"]["image_shape"]
    if there != (list(data.class_names), list(data.image_shape)):
        raise InputError(
            f"--teacher_run: '{run_dir}' knows {len(there[0])} classes of {metrics['dataset']},"
            f" images {there[1]}; valid: a run on the same classes and image size as this one"
            f" ({len(data.class_names)} classes, {list(data.image_shape)})."
        )
    weights = {peer.name: peer.weight for peer in taught.peers()}
    if config.teacher_peer and config.teacher_peer not in weights:
        raise InputError(unknown("--teacher_peer", config.teacher_peer, weights))
    names = [config.teacher_peer] if config.teacher_peer else list(weights)
    import_builders(taught)
    models = {name: peers.fused(model) for name, model in load_peers(run_dir, names).items()}
    return teachers.Frozen(models, shares(names, weights))


def shares(names: Iterable[str], weights: Mapping[str, float]) -> dict[str, float]:
    """Return these peers' weights in their ensemble, summing to 1.

    Of peers that all have weight 0, each has the same.
    """
    weights = {name: weights[name] for name in names}
    total = sum(weights.values())
    return {name: w / total if total else 1 / len(weights) for name, w in weights.items()}


def import_builders(config: configs.Config) -> None:
    """Import the users' modules of a run's peers: they may register classes that files need."""
    for peer in config.peers():
        if ":" in peer.builder:
            peers.check(peer.builder)


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
    for images, _, mask in datasets.eval_batches(part, dataset=dataset, batch_size=batch_size):
        for name, call in calls.items():
            began = time.perf_counter()
            logits = call(images, training=False).numpy()
            times[name].append(1000 * (time.perf_counter() - began) / batch_size)
            rows[name].append(logits[mask.numpy() > 0])
    logits = {name: np.concatenate(row) for name, row in rows.items()}
    # The first batch traces the graph; it only counts where there is no other.
    speed = {name: float(np.median(each[1:] or each)) for name, each in times.items()}
    each = shares(models, weights)
    logits["ensemble"] = sum(np.float32(each[name]) * logits[name] for name in models)
    speed["ensemble"] = sum(speed.values())

    def fetch(indices):
        return datasets.images(part, list(indices), dataset)

    return Predictions(datasets.labels(part), logits, speed, fetch)


def answers(
    call: Callable[[np.ndarray], np.ndarray], dataset: datasets.Dataset, split: str, batch_size: int
) -> np.ndarray:
    """Return what a function of images, float32 [n, H, W, 3], says of a split: [n, classes]."""
    part = getattr(dataset, split)
    batches = datasets.eval_batches(part, dataset=dataset, batch_size=min(batch_size, len(part)))
    return np.concatenate([call(images.numpy()[mask > 0]) for images, _, mask in batches])


def scores(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Return top-1, top-5 (beyond 10 classes), cross-entropy in nats, calibration error (ece).

    Args:
        labels: int [n].
        logits: float [n, classes].
    """
    z = logits.astype(np.float64)
    own = z[np.arange(len(z)), labels][:, None]
    rank = np.sum(z > own, axis=-1)
    shift = z.max(axis=-1, keepdims=True)
    log_sum = np.log(np.sum(np.exp(z - shift), axis=-1)) + shift[:, 0]
    result = {"top1": float(np.mean(z.argmax(-1) == labels))}
    if z.shape[-1] > 10:
        result["top5"] = float(np.mean(rank < 5))
    result["cross_entropy"] = float(np.mean(log_sum - own[:, 0]))
    confidence = np.exp(z.max(axis=-1) - log_sum)
    return {**result, "ece": calibration_error(confidence, z.argmax(-1) == labels)}


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error: sum over bins of |mean confidence - accuracy| n_bin/n.

    Bins of equal width over 0..1, each with its upper edge (Guo et al., ICML 2017, equation 3).

    Args:
        confidence: float [n], the probability of the answer.
        right: bool [n], whether the answer was right.
        bins: Their number; 15 in the paper.
    """
    number = np.clip(np.ceil(confidence * bins) - 1, 0, bins - 1).astype(int)
    gaps = np.bincount(number, weights=confidence - right, minlength=bins)
    return float(np.sum(np.abs(gaps)) / len(confidence))


def agreement(logits: dict[str, np.ndarray]) -> float:
    """Return the fraction of (image, pair of peers) that name the same class; 1 for one peer."""
    guesses = [z.argmax(-1) for name, z in logits.items() if name != "ensemble"]
    pairs = [(a, b) for i, a in enumerate(guesses) for b in guesses[:i]]
    return float(np.mean([np.mean(a == b) for a, b in pairs])) if pairs else 1.0


def summarize(models: dict[str, keras.Model], predictions: Predictions) -> dict:
    """Return the part of metrics.json that evaluation fills: peers, ensemble, agreement."""
    parameters = {name: _trainable(model) for name, model in models.items()}
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
    run_dir: Path, names: Iterable[str] = (), dataset: str = "", split: str = "test"
) -> dict:
    """Evaluate a finished run's peers again.

    Args:
        run_dir: Made by `xkd_keras.train`.
        names: Peers to evaluate; all where empty.
        dataset: Another dataset, with the run's class names or some of them; its own where empty.
        split: train, validation, test, or all of them together.

    Returns:
        `examples` and what `summarize` returns; for the run's own test split its numbers exactly.

    Raises:
        InputError: The run is not finished, a peer is not in it, or the classes do not fit.
    """
    run = load_run(run_dir, names, dataset)
    parts = [
        predict(run.models, run.weights, run.data, part, run.config.eval_batch_size)
        for part in (SPLITS if split == "all" else (split,))
    ]
    predictions = joined(parts, run.data.class_names, tuple(run.metrics["data"]["class_names"]))
    return {"examples": len(predictions.labels), **summarize(run.models, predictions)}


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run as it lies on disk.

    Attributes:
        directory: RUN.
        config: What was run.
        metrics: What RUN/metrics.json holds.
        data: Its images, or those asked for.
        models: Its trained peers by name, as plain Keras loads them.
        weights: Of all peers in the ensemble, by name.
    """

    directory: Path
    config: configs.Config
    metrics: dict
    data: datasets.Dataset
    models: dict[str, keras.Model]
    weights: dict[str, float]


def load_run(run_dir: Path, names: Iterable[str] = (), dataset: str = "") -> Run:
    """Return a finished run with its images, or others, and its peers, or some of them.

    Raises:
        InputError: The run is not finished, a peer is not in it or cannot be read, or the run's own
            images have changed.
    """
    config, metrics = finished(run_dir)
    weights = {peer.name: peer.weight for peer in config.peers()}
    for name in names:
        if name not in weights:
            raise InputError(unknown("--peer", name, weights))
    import_builders(config)
    models = load_peers(run_dir, names or weights)
    for name, model in models.items():
        _check_shapes(run_dir / "peers" / f"{name}.keras", model, metrics["data"])
    data = load_dataset(config, dataset, image_size=metrics["data"]["image_shape"][0])
    own = dataset in ("", config.dataset)
    if own and data.fingerprint != metrics["data"]["fingerprint"]:
        raise InputError(
            f"--dataset: the images of '{config.dataset}' have changed since the run; restore them,"
            " or evaluate a copy in another place."
        )
    return Run(run_dir, config, metrics, data, models, weights)


def _check_shapes(path: Path, model: keras.Model, data: dict) -> None:
    """Refuse a network that does not take the run's images or has other classes."""
    own = (None, *data["image_shape"]), (None, len(data["class_names"]))
    found = tuple(model.input_shape), tuple(model.output_shape)
    if found != own:
        raise InputError(
            f"{path}: is not a network of this run: it makes {found[1]} of {found[0]}, and the"
            f" run's make {own[1]} of {own[0]}; restore the file."
        )


def load_dataset(config: configs.Config, name: str = "", image_size: int = 0) -> datasets.Dataset:
    """Return the run's dataset, or the one called `name` at the run's size and preprocessing."""
    other = bool(name) and name != config.dataset
    return datasets.load(
        name or config.dataset,
        image_size=image_size or config.image_size,
        augment=config.augment,
        train_examples=0 if other else config.train_examples,
        validation_fraction=config.validation_fraction,
        seed=config.seed,
        data_dir=config.data_dir or None,
        skip_unreadable=config.skip_unreadable,
        cache_gib=config.cache_gib,
    )


def finished(run_dir: Path, flag: str = "--run_dir") -> tuple[configs.Config, dict]:
    """Return the configuration and the metrics of a finished run; InputError names `flag`."""
    try:
        metrics = json.loads((run_dir / "metrics.json").read_text())
        _ = metrics["data"]["image_shape"], metrics["data"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{flag}: '{run_dir}' holds no finished run; valid: a directory that"
            " xkd_keras.train has completed (it has a metrics.json)."
        ) from None
    return configs.read(run_dir / "config.flags"), metrics


def joined(parts: list[Predictions], found: tuple, known: tuple) -> Predictions:
    """Return the parts as one, labels renumbered from the dataset's classes to the run's."""
    missing = [name for name in found if name not in known]
    if missing:
        raise InputError(
            f"--dataset: its class '{missing[0]}' is unknown to the run; valid: {', '.join(known)}."
        )
    number = np.array([known.index(name) for name in found])
    return Predictions(
        number[np.concatenate([part.labels for part in parts])],
        {name: np.concatenate([part.logits[name] for part in parts]) for name in parts[0].logits},
        parts[-1].milliseconds,
        parts[-1].fetch,
    )


def _trainable(model: keras.Model) -> int:
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
