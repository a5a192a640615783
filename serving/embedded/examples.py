"""Classify and Regress: signatures that take serialized tf.Examples.

The wording and the order of the checks are those of
tensorflow_serving/servables/tensorflow/{classifier,regressor,multi_inference}.cc.
"""

from collections.abc import Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import inference_pb2

from serving.embedded.errors import StatusError, invalid
from serving.embedded.servable import DEFAULT_SIGNATURE

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
_NOT_FOUND = "Requested signature not found in model graph"


def multi(servable, request, deadline: float | None = None):
    """Return the answer to a MultiInferenceRequest, without the versions; raises StatusError."""
    response, tasks, names = inference_pb2.MultiInferenceResponse(), [], set()
    for task in request.tasks:
        spec = task.model_spec
        if not spec.name:
            raise invalid("Found ModelSpec with an empty model name.")
        if spec.name != request.tasks[0].model_spec.name:
            raise invalid(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        name = spec.signature_name or DEFAULT_SIGNATURE
        if name in names:
            raise invalid(f"Duplicate evaluation of signature: {name}")
        names.add(name)
        result = response.results.add()
        if task.method_name == CLASSIFY:
            tasks.append((spec, CLASSIFY, result.classification_result))
        elif task.method_name == REGRESS:
            tasks.append((spec, REGRESS, result.regression_result))
        else:
            raise StatusError(
                grpc.StatusCode.UNIMPLEMENTED,
                f"Unsupported signature method_name: {task.method_name}",
            )
    run(servable, request.input, tasks, deadline, alone=False)
    return response


def run(
    servable,
    source,
    tasks: Sequence[tuple],
    deadline: float | None = None,
    alone: bool = True,
) -> None:
    """Run signatures that take tf.Examples.

    Args:
        servable: Runs them.
        source: Input: the examples.
        tasks: (ModelSpec, CLASSIFY or REGRESS, the result message to fill).
        deadline: As in `Servable.run`.
        alone: Whether it is no MultiInference, which words an unknown signature in another way.

    Raises:
        StatusError: A signature does not take examples, or there are none.
    """
    prepared = [(*_task(servable, spec, kind, alone), kind, result) for spec, kind, result in tasks]
    serialized = _serialized(source)
    for name, aliases, kind, result in prepared:
        outputs = servable.run(name, {"inputs": serialized}, aliases, deadline)
        fill = _classes if kind == CLASSIFY else _values
        fill(dict(zip(aliases, outputs, strict=True)), len(serialized), result)


def _task(servable, spec, kind: str, alone: bool) -> tuple[str, list[str]]:
    """Return the name and the outputs of a signature that takes examples; raises StatusError."""
    name = spec.signature_name or DEFAULT_SIGNATURE
    try:
        signature = servable.signature(name)
    except KeyError:
        missing = "No signature was found with the name" if alone else _NOT_FOUND
        raise invalid(f"{missing}: {name}") from None
    what = "classification" if kind == CLASSIFY else "regression"
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    most = 2 if kind == CLASSIFY else 1
    if not 1 <= len(signature.outputs) <= most:
        wanted = "one or two output Tensors, found" if most == 2 else "one output Tensor."
        count = f" {len(signature.outputs)}" if most == 2 else ""
        raise invalid(f"Expected {wanted}{count}")
    if "inputs" not in signature.inputs:
        raise invalid(f"No {what} inputs found in SignatureDef: {name}")
    if signature.inputs["inputs"].dtype != tf.string.as_datatype_enum:
        raise invalid("Expected input Tensor of DT_STRING, serialized tf.Examples")
    known = ("classes", "scores") if kind == CLASSIFY else ("outputs",)
    aliases = [alias for alias in known if alias in signature.outputs]
    if not aliases:
        message = f"No {what} outputs found in SignatureDef: {name}"
        if kind == CLASSIFY:
            message = (
                'Expected classification signature outputs to contain at least one of "classes" or'
                f' "scores". Signature was: {name}'
            )
        raise invalid(message)
    return name, aliases


def _serialized(source) -> np.ndarray:
    """Return the serialized examples of an Input, each after the context; raises StatusError."""
    context, sent = b"", source.example_list
    if source.WhichOneof("kind") == "example_list_with_context":
        sent = source.example_list_with_context
        context = sent.context.SerializeToString()
    if not sent.examples:
        raise invalid("Input is empty.")
    array = np.empty(len(sent.examples), object)
    array[:] = [context + example.SerializeToString() for example in sent.examples]
    return array


def _classes(outputs: Mapping[str, np.ndarray], count: int, result) -> None:
    """Fill a ClassificationResult; raises StatusError unless the outputs are classes."""
    for alias, kind in (("classes", object), ("scores", np.float32)):
        if alias not in outputs:
            continue
        array = outputs[alias]
        if array.ndim != 2:
            shape = ",".join(map(str, array.shape))
            raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got [{shape}]")
        if array.dtype != kind:
            wanted = "DT_STRING" if kind is object else "DT_FLOAT"
            raise invalid(f"Expected {alias} Tensor of {wanted}. Got: {array.dtype}")
        if len(array) != count:
            raise invalid(f"Expected {alias} output batch size of {count}. Got: {len(array)}")
    labels, scores = outputs.get("classes"), outputs.get("scores")
    width = (labels if scores is None else scores).shape[1]
    if labels is not None and labels.shape[1] != width:
        raise invalid(
            "Tensors class and score should match in dim_size(1)."
            f" Got {labels.shape[1]} vs. {width}"
        )
    for i in range(count):
        classes = result.classifications.add().classes
        for c in range(width):
            one = classes.add()
            if labels is not None:
                one.label = _text(labels[i, c])
            if scores is not None:
                one.score = float(scores[i, c])


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _values(outputs: Mapping[str, np.ndarray], count: int, result) -> None:
    """Fill a RegressionResult; raises StatusError unless the output is a number per example."""
    (array,) = outputs.values()
    if not (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)):
        shape = ",".join(map(str, array.shape))
        raise invalid(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got"
            f" [{shape}]"
        )
    if len(array) != count:
        raise invalid(f"Input batch size did not match output batch size: {count} vs. {len(array)}")
    if array.dtype != np.float32:
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {array.dtype}")
    for value in array.reshape(-1):
        result.regressions.add(value=float(value))
