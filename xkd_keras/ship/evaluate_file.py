"""How well a file that was shipped answers, on any images with its classes."""

import time
from pathlib import Path

import numpy as np

from xkd_keras import data as datasets
from xkd_keras.errors import FlagError, InputError
from xkd_keras.flags import config as configs
from xkd_keras.runs import directory as rundir
from xkd_keras.runs import evaluation, records, scoring, whereabouts
from xkd_keras.ship import lite, metadata, onnx_file, savedmodel
from xkd_keras.ship.quality import SMALLEST
from xkd_keras.ship.variants import missing_for_onnx, without_onnx

_BATCH = 256


def evaluate_model(
    path: Path, run_dir: Path | None, dataset: str, split: str, skip_unreadable: bool = False
) -> dict:
    """Evaluate a .tflite or .onnx file or a SavedModel.

    Args:
        path: The file, or the directory of a version.
        run_dir: The run whose images and preprocessing to take; None: the one that `path` is in.
        dataset: Other images; empty: the run's own.
        split: train, validation, test, or all of them together.
        skip_unreadable: Leave files of another folder out that cannot be read.

    Returns:
        `examples`, `about` (how the images were read, a line each), and as of a run with one peer,
        called after the file, what `evaluation.summarize` returns; of a .tflite file the
        cross-entropy counts probabilities below 1e-7 as that.

    Raises:
        InputError: The file is none of ours, no run or dataset is known, or the classes differ.
    """
    run_dir = run_dir or whereabouts.containing(path)
    name = path.name
    if path.suffix == ".tflite":
        call, labels, ratio = _tflite(path)
    elif path.suffix == ".onnx":
        call = _onnx(path)
        labels, ratio = call.labels, call.crop_ratio
    else:
        call = savedmodel.Caller(path)
        labels, ratio, name = call.labels(), call.crop_ratio(), f"{path.parent.name}/{name}"
    data = _data(run_dir, dataset, call.image_shape[:2], labels, skip_unreadable, ratio)
    parts = [_predictions(call, name, data, part) for part in evaluation.filled(data, split)]
    predictions = evaluation.joined(parts, data.class_names, labels)
    row = {
        **scoring.scores(predictions.labels, predictions.logits[name]),
        "milliseconds_per_image": predictions.milliseconds[name],
    }
    found = evaluation.facts(predictions, data)
    found["about"] += evaluation.doubts(run_dir, data, dataset, split) if run_dir else []
    return {**found, "peers": {name: row}, "ensemble": row}


def _tflite(path: Path):
    try:
        content = lite.read(path)
    except InputError as error:
        raise InputError(str(error), argument="model") from None
    try:
        return lite.Lite(content), metadata.labels(content), metadata.crop_ratio(content)
    except InputError as error:
        raise InputError(f"{path}: {error}", argument="model") from None


def _onnx(path: Path) -> onnx_file.Onnx:
    missing = missing_for_onnx()
    if missing:
        raise InputError(f"{path}: {without_onnx(missing)}", argument="model")
    try:
        return onnx_file.read(path)
    except InputError as error:
        raise InputError(str(error), argument="model") from None


def _data(run_dir, dataset: str, size, labels, skip_unreadable, ratio) -> datasets.Dataset:
    """Return the images, cropped as in the run, or without one as the file says by its `ratio`."""
    if run_dir is None and not dataset:
        raise FlagError(
            "missing; give it, as the model is not in a run's directory.", argument="dataset"
        )
    crops = {None: "auto", 1.0: "none"}.get(ratio, "inception")
    config = records.finished(run_dir)[0] if run_dir else configs.Config(augment=crops)
    return rundir.load_dataset(config, dataset, tuple(size), tuple(labels), skip_unreadable)


def _predictions(call, name: str, data: datasets.Dataset, split: str) -> evaluation.Predictions:
    part = getattr(data, split)
    times = []

    def timed(images):
        if not times:
            call(images)  # what is made for the first ones only is not to count
        began = time.perf_counter()
        probabilities = call(images)
        times.append(1000 * (time.perf_counter() - began) / len(images))
        return probabilities

    probabilities = evaluation.answers(timed, data, split, _BATCH)
    logits = {name: np.log(np.maximum(probabilities, SMALLEST))}

    def fetch(indices):
        return datasets.images(part, list(indices), data)

    speed = {name: float(np.median(times))}
    return evaluation.Predictions(datasets.labels(part), logits, speed, fetch)
