"""SavedModels as TensorFlow Serving expects them: BASE/VERSION, pixels or encoded images in.

They hold nothing of ours: plain `tf.saved_model.load` runs them in a process without this package.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from xkd_keras.data import preparation
from xkd_keras.devices.start_up import quiet
from xkd_keras.distillation import shares as ensemble_shares
from xkd_keras.errors import InputError, first_line
from xkd_keras.ship.metadata import CROP_RATIO, LABELS, as_lines, from_lines

DECODED = 4  # images of a request that are decoded at a time: each may take 300 MB, turned 600
_BATCH = 64  # images of a call when a model is run back
TOP = 5  # classes that `serving_bytes` names


class Served(tf.Module):
    """Models as signatures; see `write`. Holds variables and functions, no Keras objects."""

    def __init__(
        self,
        models: Mapping[str, keras.Model],
        shares: Mapping[str, float],
        labels: Path,
        crop_ratio: float,
        threshold: float,
    ):
        super().__init__()
        self.state = [v.value for model in models.values() for v in model.variables]
        self.labels = tf.saved_model.Asset(labels)
        names = tf.constant(from_lines(labels.read_text(encoding="utf-8")))
        shape = next(iter(models.values())).input_shape[1:]
        top = min(TOP, len(names))
        batch = [None, *shape]

        def predict(pixels):
            # Without it, a wrong rank ends the caller's process, and a wrong size is answered.
            pixels = tf.ensure_shape(pixels, batch)
            stacked = ensemble_shares.stacked([models[name] for name in shares], pixels)
            logits = ensemble_shares.ensemble(stacked, list(shares.values()))
            return {"logits": logits, "probabilities": tf.nn.softmax(logits)}

        def predict_bytes(image_bytes):
            def prepare(encoded):
                image = preparation.decode(encoded)
                return preparation.evaluation(image, shape[:2], crop_ratio)

            spec = tf.TensorSpec(shape, tf.float32)
            images = tf.map_fn(
                prepare, image_bytes, fn_output_signature=spec, parallel_iterations=DECODED
            )
            answers = predict(images)
            # By the logits: where the network is sure, small probabilities are all the same 0.
            _, classes = tf.math.top_k(answers["logits"], top)
            scores = tf.gather(answers["probabilities"], classes, batch_dims=1)
            names_of = {"classes": classes, "labels": tf.gather(names, classes), "scores": scores}
            least = tf.fill(tf.shape(image_bytes), tf.constant(threshold, tf.float32))
            return {**answers, **names_of, "threshold": least}

        self.functions = {
            "serving_default": _traced(predict, tf.TensorSpec(batch, tf.float32, "pixels")),
            "serving_uint8": _traced(
                lambda pixels: predict(tf.cast(pixels, tf.float32)),
                tf.TensorSpec(batch, tf.uint8, "pixels"),
            ),
            "serving_bytes": _traced(
                predict_bytes, tf.TensorSpec([None], tf.string, "image_bytes")
            ),
        }


def _traced(function, spec):
    return tf.function(function, input_signature=[spec])


def write(
    directory: Path,
    models: Mapping[str, keras.Model],
    shares: Mapping[str, float],
    class_names: Sequence[str],
    crop_ratio: float,
    example: np.ndarray,
    name: str,
    threshold: float = 0.0,
) -> None:
    """Write a SavedModel of one peer, or of several as their ensemble.

    Signatures, B any batch, C classes, K = min(5, C):
        serving_default: `pixels` float32 [B, H, W, 3], 0..255 -> `logits`, `probabilities`, float32
            [B, C].
        serving_uint8: the same for `pixels` uint8.
        serving_bytes: `image_bytes` string [B], encoded images of any size, prepared as in
            evaluation -> the same, and of the K most probable `classes` int32, `labels` string and
            `scores` float32, all [B, K]; and `threshold` float32 [B], always the same: an image
            whose first score is below it may be of none of the classes.

    Args:
        directory: To be made.
        models: Peers: images [B, H, W, 3] -> logits [B, C].
        shares: Their weights in the sum of the logits; 1 in all, divided by a temperature.
        class_names: C labels; also in assets/labels.txt.
        crop_ratio: As in evaluation; see `data.preparation.evaluation`.
        example: uint8 [H, W, 3], an image to warm up with.
        name: Of the model in the warm-up requests.
        threshold: 0..1; 0: every image is of one of the classes.
    """
    directory.mkdir(parents=True)
    labels = directory / LABELS
    labels.write_text(as_lines(class_names), encoding="utf-8")
    served = Served(models, shares, labels, crop_ratio, threshold)
    try:
        with quiet():
            tf.saved_model.save(served, directory, signatures=served.functions)
    except tf.errors.OpError as error:
        full = "No space left on device" in error.message
        why = "No space left on device" if full else first_line(error)
        raise InputError(f"{directory}: cannot be written: {why}") from None
    labels.unlink()  # it is in assets now
    extra = directory / "assets.extra"
    extra.mkdir()
    (extra / CROP_RATIO).write_text(f"{float(crop_ratio)!r}\n", encoding="utf-8")
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        for request in _warm_up(name, example):
            log = prediction_log_pb2.PredictLog(request=request)
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())


def _warm_up(name: str, example: np.ndarray) -> list[predict_pb2.PredictRequest]:
    """Return a request for every signature, so that no user waits for the first."""
    requests = []
    encoded = tf.io.encode_png(example).numpy()
    for signature, key, value in (
        ("serving_default", "pixels", np.float32(example)[None]),
        ("serving_uint8", "pixels", example[None]),
        ("serving_bytes", "image_bytes", np.array([encoded], object)),
    ):
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = name, signature
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        requests.append(request)
    return requests


def versions(base: Path) -> list[int]:
    """Return the versions of a model, lowest first."""
    entries = base.iterdir() if base.is_dir() else ()
    return sorted(int(path.name) for path in entries if path.name.isdigit())


def place(directory: Path, base: Path, version: int) -> Path:
    """Move a finished SavedModel to BASE/VERSION; raises InputError where that exists."""
    base.mkdir(parents=True, exist_ok=True)
    target = base / str(version)
    try:
        os.rename(directory, target)  # fails on a directory that holds anything
    except OSError:
        if not target.exists():
            raise
        shutil.rmtree(directory, ignore_errors=True)
        raise InputError(
            f"{target} already exists; valid: a new number.", argument="version"
        ) from None
    return target


class Caller:
    """A SavedModel on disk as a function: images [n, H, W, C] -> probabilities, float32 [n, C].

    Args:
        path: BASE/VERSION.

    Raises:
        InputError: Nothing of the kind is there, or it lacks what `write` gives it.
    """

    def __init__(self, path: Path):
        self._path = path
        try:
            with quiet():
                self._loaded = tf.saved_model.load(str(path))
            self._predict = self._loaded.signatures["serving_default"]
            (pixels,) = self._predict.structured_input_signature[1].values()
            self.image_shape = tuple(pixels.shape[1:])
            _ = self._predict.structured_outputs["probabilities"]  # KeyError: none of ours
        except (OSError, ValueError, KeyError, tf.errors.OpError):
            raise InputError(
                f"{path}: is not a SavedModel of xkd_keras.export; valid: a directory of a version,"
                " as export/savedmodel/NAME/1."
            ) from None

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return `logits` and `probabilities` of images, float32 [n, C]."""
        parts = [
            self._predict(pixels=tf.constant(images[i : i + _BATCH], tf.float32))
            for i in range(0, len(images), _BATCH)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def of_bytes(self, encoded: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Return what `serving_bytes` answers to encoded images."""
        signature = self._loaded.signatures["serving_bytes"]
        outputs = signature(image_bytes=tf.constant(list(encoded), tf.string))
        return {name: value.numpy() for name, value in outputs.items()}

    def crop_ratio(self) -> float | None:
        """Return how `serving_bytes` crops images; None of an earlier version."""
        file = self._path / "assets.extra" / CROP_RATIO
        return float(file.read_text(encoding="utf-8")) if file.is_file() else None

    def labels(self) -> tuple[str, ...]:
        """Return the class names in the order of the outputs."""
        asset = Path(self._loaded.labels.asset_path.numpy().decode())
        return from_lines(asset.read_text(encoding="utf-8"))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.outputs(images)["probabilities"]
