"""ONNX files: from a Keras peer to the file, and back to its answers. Needs the extra `onnx`.

A file takes any batch of images, float32 [B, H, W, C] of pixels 0..255, and returns `logits` and
`probabilities`, float32 [B, classes]; normalisation is inside. Only this module knows ONNX.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from xkd_keras.devices.start_up import quiet
from xkd_keras.errors import InputError, first_line

OPSET = 15  # tf2onnx's own choice; runtimes know it since 2021
_OUTPUTS = ("logits", "probabilities")  # in the order in which a dictionary's are flattened
_BATCH = 64


def convert(
    model: keras.Model,
    about: str,
    class_names: Sequence[str],
    temperature: float = 1.0,
    crop_ratio: float = 1.0,
) -> bytes:
    """Return a peer as an ONNX file.

    Args:
        model: Images [B, H, W, C] of pixels -> logits [B, classes].
        about: A line for people.
        class_names: In the order of the outputs; a JSON list in the file's metadata, as `labels`.
        temperature: By which the logits are divided.
        crop_ratio: As in evaluation, see `data.preparation.evaluation`; in the metadata, too.

    Raises:
        InputError: A layer of the network has no counterpart in ONNX.
    """
    import onnx

    shape = model.input_shape[1:]
    pixels = keras.Input(shape, dtype="float32", name="pixels")
    logits = model(pixels, training=False) * (1.0 / temperature)
    answers = dict(zip(_OUTPUTS, (logits, keras.ops.softmax(logits)), strict=True))
    answering = keras.Model(pixels, answers)
    answering(np.zeros([1, *shape], np.float32))  # Keras exports what was called
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "model.onnx")
        try:
            with quiet():
                answering.export(
                    path,
                    format="onnx",
                    verbose=False,
                    input_signature=[tf.TensorSpec([None, *shape], tf.float32, "pixels")],
                    opset_version=OPSET,
                )
            made = onnx.load(path)
            _name(made, about, class_names, crop_ratio)
            onnx.checker.check_model(made, full_check=True)
        except Exception as error:  # tf2onnx's own errors are plain ones
            reason = first_line(error)[:200]
            raise InputError(f"onnx: cannot be made from this network: {reason}") from None
    return made.SerializeToString()


def sure_from(content: bytes, score: float) -> bytes:
    """Return a file that says from which probability on an answer is one of its classes."""
    import onnx

    made = onnx.load_from_string(content)
    made.metadata_props.add(key="threshold", value=repr(float(score)))
    return made.SerializeToString()


def _name(made, about: str, class_names: Sequence[str], crop_ratio: float) -> None:
    """Give outputs and the batch the names that we promise, and put the metadata in."""
    names = {tensor.name: name for tensor, name in zip(made.graph.output, _OUTPUTS, strict=True)}
    for node in made.graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(name, name) for name in ends]
    for tensor in made.graph.output:
        tensor.name = names[tensor.name]
    for tensor in (*made.graph.input, *made.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    made.doc_string = about
    for key, value in (
        ("labels", json.dumps(list(class_names))),
        ("pixels", "RGB, 0 to 255; the model normalises them itself"),
        ("crop_ratio", repr(float(crop_ratio))),
    ):
        made.metadata_props.add(key=key, value=value)


class Onnx:
    """An ONNX classifier, called as a function: images [n, H, W, C] -> float32 [n, classes].

    Args:
        content: The file.
        threads: Of the runtime; 0: as many as it likes.

    Attributes:
        image_shape: H, W, C.
        labels: The classes in the order of the outputs.
        crop_ratio: As in evaluation, see `data.preparation.evaluation`.

    Raises:
        InputError: Not an ONNX file of ours.
    """

    def __init__(self, content: bytes, threads: int = 0):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, min(threads, 1)
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=providers)
            (pixels,) = self._session.get_inputs()
            self.image_shape = tuple(pixels.shape[1:])
            known = self._session.get_modelmeta().custom_metadata_map
            self.labels = tuple(json.loads(known["labels"]))
            self.crop_ratio = float(known.get("crop_ratio", 1.0))
        except Exception:  # the runtime's errors are plain ones; KeyError: none of ours
            raise InputError(
                "is not an ONNX file made by xkd_keras.export; valid: a file of xkd_keras.export."
            ) from None

    def outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return `logits` and `probabilities` of images, float32 [n, classes]."""
        parts = [
            self._session.run(_OUTPUTS, {"pixels": np.float32(images[i : i + _BATCH])})
            for i in range(0, len(images), _BATCH)
        ]
        return dict(zip(_OUTPUTS, map(np.concatenate, zip(*parts, strict=True)), strict=True))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.outputs(images)["probabilities"]


def read(path: Path) -> Onnx:
    """Return the classifier of a file; raises InputError, which begins with the path."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; valid: a .onnx of xkd_keras.export.")
    try:
        return Onnx(path.read_bytes())
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
