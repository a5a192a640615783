"""JSON <-> Classify and Regress, as tensorflow_serving/util/json_tensor.cc reads and writes it."""

import json
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from serving.embedded.errors import invalid
from serving.embedded.json_values import decoded, finite, is_base64, quoted, shortest, type_of

_KINDS = {bytes: "bytes_list", float: "float_list", int: "int64_list"}


def fill(body: Mapping, request) -> None:
    """Fill the input of a ClassificationRequest or RegressionRequest; raises StatusError."""
    examples = request.input.example_list
    if "context" in body:
        examples = request.input.example_list_with_context
        _example(body["context"], examples.context)
    if "examples" not in body:
        raise invalid(
            f"JSON Value: {quoted(body)} When method is classify, key 'examples' is expected and"
            " was not found"
        )
    sent = body["examples"]
    if not isinstance(sent, list):
        raise invalid(f"JSON Value: {quoted(body)} Expecting 'examples' value to be an list/array")
    if not sent:
        raise invalid(f"JSON Value: {quoted(body)} 'examples' value is an empty array")
    for example in sent:
        _example(example, examples.examples.add())


def _example(value, example) -> None:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {type_of(value)}")
    for name, content in value.items():
        elements = content if isinstance(content, list) else [content]
        values = [_value(name, element) for element in elements]
        feature = example.features.feature[name]
        kinds = {type(value) for value in values}
        if len(kinds) > 1:
            kind = _KINDS[type(values[0])].split("_")[0]
            raise invalid(f"Unexpected element type in feature: {name} expecting type: {kind}")
        if kinds:
            getattr(feature, _KINDS[kinds.pop()]).value.extend(values)


def _value(name: str, value):
    """Return an element of a feature as bytes, float or int; raises StatusError."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if is_base64(value):
        return decoded(value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
        return value
    if isinstance(value, float):
        finite(value, tf.float32)  # raises if it is not
        return value
    raise invalid(f"Feature: {name} has element with unexpected JSON type: {type_of(value)}")


def classes(result) -> bytes:
    """Return a ClassificationResult as the body of a response."""
    rows = [
        [[entry.label, shortest(np.float32(entry.score))] for entry in row.classes]
        for row in result.classifications
    ]
    return json.dumps({"results": rows}, ensure_ascii=False).encode()


def values(result) -> bytes:
    """Return a RegressionResult as the body of a response."""
    numbers = [shortest(np.float32(entry.value)) for entry in result.regressions]
    return json.dumps({"results": numbers}).encode()
