"""JSON <-> Classify and Regress, as tensorflow_serving/util/json_tensor.cc reads and writes it."""

import json
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from serving.embedded.failure import invalid
from serving.embedded.json_tensor import (
    decoded,
    finite,
    is_base64,
    quoted,
    shortest,
    type_of,
)

_KINDS = {bytes: "bytes_list", float: "float_list", int: "int64_list"}


def fill(body: Mapping, request) -> None:
    """Fill the input of a ClassificationRequest or RegressionRequest; raises Failure."""
    examples = request.input.example_list
    if "context" in body:
        examples = request.input.example_list_with_context
        _example(body["context"], examples.context)
    if "examples" not in body:
        raise invalid(
            f"JSON Value: {quoted(body)} When method is classify, key 'examples' is expected and"
            " was not found"
        )
    found = body["examples"]
    if not isinstance(found, list):
        raise invalid(f"JSON Value: {quoted(body)} Expecting 'examples' value to be an list/array")
    if not found:
        raise invalid(f"JSON Value: {quoted(body)} 'examples' value is an empty array")
    for each in found:
        _example(each, examples.examples.add())


def _example(value, example) -> None:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {type_of(value)}")
    for name, content in value.items():
        values = [
            _value(name, each) for each in (content if isinstance(content, list) else [content])
        ]
        feature = example.features.feature[name]
        kinds = {type(each) for each in values}
        if len(kinds) > 1:
            kind = _KINDS[type(values[0])].split("_")[0]
            raise invalid(f"Unexpected element type in feature: {name} expecting type: {kind}")
        if kinds:
            getattr(feature, _KINDS[kinds.pop()]).value.extend(values)


def _value(name: str, value):
    """Return an element of a feature as bytes, float or int; raises Failure."""
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
        finite(value, tf.float32)  # raises where it is not
        return value
    raise invalid(f"Feature: {name} has element with unexpected JSON type: {type_of(value)}")


def classes(result) -> bytes:
    """Return a ClassificationResult as the body of a response."""
    found = [
        [[each.label, shortest(np.float32(each.score))] for each in one.classes]
        for one in result.classifications
    ]
    return json.dumps({"results": found}, ensure_ascii=False).encode()


def values(result) -> bytes:
    """Return a RegressionResult as the body of a response."""
    found = [shortest(np.float32(each.value)) for each in result.regressions]
    return json.dumps({"results": found}).encode()
