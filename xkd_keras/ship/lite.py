"""TFLite files: from a Keras peer to each variant, and back to probabilities.

Every variant takes one image, float32 [1, H, W, C] of pixels 0..255, and returns probabilities,
float32 [1, classes]; normalisation and softmax are inside. Only this room reads or writes TFLite.
"""

import concurrent.futures
import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert import interpreter, schema_py_generated

from xkd_keras.devices.start_up import quiet
from xkd_keras.errors import InputError, first_line
from xkd_keras.ship import tables

INTEGER = ("int8", "int16x8")
_TYPES = schema_py_generated.TensorType
_DTYPES = {_TYPES.FLOAT32: np.float32, _TYPES.FLOAT16: np.float16, _TYPES.INT8: np.int8}
_INT16X8 = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
_OPERATIONS = {"int8": tf.lite.OpsSet.TFLITE_BUILTINS_INT8, "int16x8": _INT16X8}


@contextlib.contextmanager
def converters(model: keras.Model, temperature: float = 1.0) -> Iterator[Callable[..., bytes]]:
    """Give the function (variant, images) -> TFLite file for one peer.

    Args:
        model: Images [B, H, W, C] of pixels -> logits [B, classes]: Keras 3, of stock layers.
        temperature: By which the logits are divided before the softmax; the converter folds it into
            the weights of a last dense layer.

    The function takes a key of `variants.VARIANTS` and uint8 [n, H, W, C], images that stand for
    all where activations are quantised (None: the model itself has their ranges). It raises
    InputError where this model has no such variant.
    """
    served = tf.Module()
    # Keras 3 wraps the variables of TensorFlow; tf_keras has them bare.
    served.state = [v if isinstance(v, tf.Variable) else v.value for v in model.variables]
    pixels = tf.TensorSpec([1, *model.input_shape[1:]], tf.float32, "pixels")

    @tf.function(input_signature=[pixels])
    def predict(pixels):
        logits = model(pixels, training=False)
        logits = logits if temperature == 1.0 else logits * (1.0 / temperature)
        return {"probabilities": tf.nn.softmax(logits)}

    with tempfile.TemporaryDirectory() as directory:
        try:
            with quiet():
                tf.saved_model.save(served, directory, signatures=predict)
        except tf.errors.OpError as error:
            raise InputError(f"{directory}: cannot be written: {first_line(error)}") from None
        yield lambda variant, images: _convert(directory, variant, images)


def tempered(model: bytes, temperature: float) -> bytes:
    """Return a TFLite file whose softmax divides its logits by a temperature more."""
    changed = tables.read(model)
    kinds = [code.builtinCode for code in changed.operatorCodes]
    for op in changed.subgraphs[0].operators:
        if kinds[op.opcodeIndex] == schema_py_generated.BuiltinOperator.SOFTMAX:
            last = op
    last.builtinOptions.beta /= temperature
    return tables.write(changed)


def _convert(directory: str, variant: str, images: np.ndarray) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(directory)
    if variant != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if variant == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if variant in INTEGER and images is not None:
        converter.representative_dataset = lambda: ([one[None]] for one in np.float32(images))
        converter.target_spec.supported_ops = [_OPERATIONS[variant]]
    try:
        with quiet():
            model = converter.convert()
    except Exception as error:  # the converter's own error is a plain one
        raise InputError(f"{variant}: cannot be made from this network: {_reason(error)}") from None
    if variant in INTEGER and (left := floats(model)):
        raise InputError(
            f"{variant}: {len(left)} tensors stay float, the first is '{left[0]}'; an int8"
            " processor could not run this file."
        )
    return model


def _reason(error: Exception) -> str:
    """Return what matters of the converter's pages."""
    if missing := re.search(r"(?:Custom|Flex) ops: (.+)", str(error)):
        return f"TFLite has no operation {missing[1].strip()}"
    return first_line(error)[:200]


def floats(model: bytes) -> list[str]:
    """Return the names of the float tensors of a TFLite file, but for its inputs and outputs."""
    graph = tables.read(model).subgraphs[0]
    edges = {*graph.inputs, *graph.outputs}
    return [
        tensor.name.decode()
        for i, tensor in enumerate(graph.tensors)
        if tensor.type in (_TYPES.FLOAT32, _TYPES.FLOAT16, _TYPES.FLOAT64) and i not in edges
    ]


def kernels(model: bytes) -> list[np.ndarray]:
    """Return the kernels of convolutions and dense layers as stored: [channels out, ...]."""
    whole, codes = tables.read(model), schema_py_generated.BuiltinOperator
    graph, kinds = whole.subgraphs[0], [code.builtinCode for code in whole.operatorCodes]
    # A half precision kernel is made float32 by an operation of its own.
    stored = {
        op.outputs[0]: op.inputs[0]
        for op in graph.operators
        if kinds[op.opcodeIndex] == codes.DEQUANTIZE
    }
    constants = []
    for op in graph.operators:
        if kinds[op.opcodeIndex] in (codes.CONV_2D, codes.FULLY_CONNECTED):
            tensor = graph.tensors[stored.get(op.inputs[1], op.inputs[1])]
            data = whole.buffers[tensor.buffer].data
            constants.append(
                np.frombuffer(data.tobytes(), _DTYPES[tensor.type]).reshape(tensor.shape)
            )
    return constants


class Lite:
    """A TFLite classifier, called as a function: images [n, H, W, C] -> float32 [n, classes].

    Args:
        content: The file.
        threads: Images that are computed side by side, each by one thread, as a single image leaves
            a second one idle; 0: as many as there are cores, up to 8.

    Raises:
        InputError: Not a TFLite file, or not of one image and its probabilities.
    """

    def __init__(self, content: bytes, threads: int = 0):
        self._content, self._threads = content, threads or min(os.cpu_count() or 1, 8)
        try:
            self._interpreters = [_opened(content)]
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"is not a TFLite model that can run here ({first_line(error)[:200]}); valid: a"
                " file of xkd_keras.export."
            ) from None
        inputs = self._interpreters[0].get_input_details()
        outputs = self._interpreters[0].get_output_details()
        self.image_shape = tuple(int(n) for n in inputs[0]["shape"][1:])
        self.classes = int(outputs[0]["shape"][-1])
        same = len(inputs) == len(outputs) == 1 and len(inputs[0]["shape"]) == 4
        same &= inputs[0]["shape"][0] == 1 and len(outputs[0]["shape"]) == 2
        if not same or {inputs[0]["dtype"], outputs[0]["dtype"]} != {np.float32}:
            raise InputError(
                "is not an image classifier made by xkd_keras.export, because its inputs or"
                " outputs differ; valid: a file of xkd_keras.export."
            )
        self._input, self._output = inputs[0]["index"], outputs[0]["index"]

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        answers = np.empty((len(images), self.classes), np.float32)
        parts = np.array_split(np.arange(len(images)), max(1, min(self._threads, len(images))))
        self._interpreters += [_opened(self._content) for _ in parts[len(self._interpreters) :]]

        def answer(own, part):
            for i in part:
                own.set_tensor(self._input, np.float32(images[i])[None])
                own.invoke()
                answers[i] = own.get_tensor(self._output)[0]

        if len(parts) == 1:  # a thread of its own would take as long as a small network
            answer(self._interpreters[0], parts[0])
            return answers
        with concurrent.futures.ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(answer, self._interpreters, parts))
        return answers


def _opened(content: bytes) -> interpreter.Interpreter:
    with quiet():
        opened = interpreter.Interpreter(model_content=content, num_threads=1)
        opened.allocate_tensors()
    return opened


def read(path: Path) -> bytes:
    """Return the content of a .tflite file; raises InputError where there is none."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; valid: a file of xkd_keras.export.")
    return path.read_bytes()
