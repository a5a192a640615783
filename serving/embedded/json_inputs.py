"""JSON -> arrays: the inputs of a request to predict.

All numbers of a request are converted by one call of NumPy if that is certain to be right. Anything
else (lists of unequal length, words among numbers, objects) is read value by value, which finds out
what is wrong, or that nothing is.

Source: tensorflow_serving/util/json_tensor.cc.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf

from serving.embedded.errors import StatusError, invalid
from serving.embedded.json_values import (
    decoded,
    dtype_name,
    finite,
    is_base64,
    quoted,
    type_of,
)

DEEPEST = 64  # lists within lists
_INTEGERS = {
    "int8": (-(2**31), 2**31 - 1),
    "int16": (-(2**31), 2**31 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "uint8": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}


def inputs_of(body: Mapping, signature) -> dict[str, np.ndarray]:
    """Return the inputs for a signature in the body of a request; raises StatusError."""
    inputs = {name: tf.as_dtype(info.dtype) for name, info in sorted(signature.inputs.items())}
    if "instances" in body:
        if "inputs" in body:
            raise invalid(
                f"JSON Value: {quoted(body)} Not formatted correctly expecting only one of 'inputs'"
                " or 'instances' keys to exist "
            )
        instances = body["instances"]
        if not isinstance(instances, list):
            raise invalid(f"JSON Value: {quoted(body)} Expecting 'instances' to be an list/array")
        if not instances:
            raise invalid(f"JSON Value: {quoted(body)} No values in 'instances' array")
        return rows(instances, inputs)
    if "inputs" in body:
        return columns(body["inputs"], inputs)
    raise invalid("Missing 'inputs' or 'instances' key")


def to_array(value, dtype: tf.DType) -> np.ndarray:
    """Return a JSON value as a tensor; raises StatusError.

    Args:
        value: A number, text, {"b64": text}, or lists of them.
        dtype: Of the signature.
    """
    shape = _shape(value)
    flat = _flat(value, shape)
    array = None if flat is None else _quickly(flat, dtype)
    if array is None:
        array = np.empty(math.prod(shape), dtype.as_numpy_dtype)
        flat = []
        _collect(value, 0, shape, dtype, flat)
        array[:] = flat
    return array.reshape(shape)


def _shape(value) -> list[int]:
    """Return the shape that the first element of every list suggests; raises StatusError."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > DEEPEST:
            raise invalid(f"JSON Value: lists are nested deeper than {DEEPEST}")
        if not value:
            break
        value = value[0]
    return shape


def _flat(value, shape: Sequence[int]) -> list | None:
    """Return the leaves of nested lists of this shape; None if a list has another length."""
    flat = [value]
    for size in shape:
        if set(map(type, flat)) - {list} or set(map(len, flat)) - {size}:
            return None
        flat = list(itertools.chain.from_iterable(flat))
    return flat


def _quickly(flat: list, dtype: tf.DType) -> np.ndarray | None:
    """Return leaves as an array; None if they must be read one by one."""
    kinds = set(map(type, flat))
    try:
        if dtype in (tf.float32, tf.float64) and kinds <= {int, float}:
            wide = np.array(flat, np.float64)
            with np.errstate(over="ignore"):
                array = wide.astype(dtype.as_numpy_dtype)
            return array if np.array_equal(np.isinf(array), np.isinf(wide)) else None
        if dtype.name in _INTEGERS and kinds <= {int}:
            return np.array(flat, dtype.as_numpy_dtype)  # OverflowError if one does not fit
    except OverflowError:
        pass
    return None


def _collect(value, level: int, shape: Sequence[int], dtype: tf.DType, flat: list) -> None:
    """Append the leaves of a value; raises StatusError for the first that does not fit."""
    if isinstance(value, list):
        if level >= len(shape):
            raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
        if len(value) != shape[level]:
            raise invalid(
                f"Encountered list at unexpected size: {len(value)} at level: {level}"
                f" expected size: {shape[level]}"
            )
        for element in value:
            _collect(element, level + 1, shape, dtype, flat)
    elif level != len(shape):
        raise invalid(
            f"JSON Value: {quoted(value)} found at incorrect level: {level + 1} in the JSON DOM."
            f" Expected at level: {len(shape)}"
        )
    else:
        flat.append(_leaf(value, dtype))


def _leaf(value, dtype: tf.DType):
    """Return one value as its dtype takes it; raises StatusError."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if dtype in (tf.float32, tf.float64) and number:
        return finite(value, dtype)
    if dtype.name in _INTEGERS and number and isinstance(value, int):
        low, high = _INTEGERS[dtype.name]
        if low <= value <= high:
            return np.array(value).astype(dtype.as_numpy_dtype)
    if dtype == tf.bool and isinstance(value, bool):
        return value
    if dtype == tf.string:
        if isinstance(value, str):
            return value.encode("utf-8", "surrogatepass")
        if isinstance(value, dict):
            return decoded(value)
    if dtype not in (tf.float32, tf.float64, tf.bool, tf.string) and dtype.name not in _INTEGERS:
        raise StatusError(
            grpc.StatusCode.UNIMPLEMENTED,
            f"Conversion of JSON Value: {quoted(value)} to type: {dtype_name(dtype)}",
        )
    raise invalid(
        f"JSON Value: {quoted(value)} Type: {type_of(value)} is not of expected type:"
        f" {dtype_name(dtype)}"
    )


def rows(instances, inputs: Mapping[str, tf.DType]) -> dict[str, np.ndarray]:
    """Return the inputs in "instances", one element per example; raises StatusError.

    Args:
        instances: The value of that key.
        inputs: The dtype of each input of the signature.
    """
    first = instances[0]
    if not isinstance(first, dict) and len(inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors"
            " required as per tensorinfo_map"
        )
    named = isinstance(first, dict) and not is_base64(first)
    columns = {name: [] for name in inputs}
    for i, instance in enumerate(instances):
        if named != (isinstance(instance, dict) and not is_base64(instance)):
            wanted, got = ("object", "list") if named else ("value/list", "object")
            raise invalid(f"Expecting {wanted} but got {got} at item {i} of input list")
        if not named:
            columns[next(iter(inputs))].append(instance)
            continue
        if instance.keys() != inputs.keys():
            _wrong_keys(i, instance, inputs)
        for name, value in instance.items():
            columns[name].append(value)
    return {name: _column(name if named else None, columns[name], inputs[name]) for name in inputs}


def _wrong_keys(i: int, row: Mapping, inputs: Mapping) -> None:
    for name in row:
        if name not in inputs:
            raise invalid(
                f"Failed to process element: {i} key: {name} of 'instances' list. Error:"
                f" INVALID_ARGUMENT: JSON object: does not have named input: {name}"
            )
    raise invalid(
        f"Failed to process element: {i} of 'instances' list. JSON object: {quoted(row)} keys must"
        f" be equal to: {','.join(sorted(inputs))}"
    )


def _column(name: str | None, values: list, dtype: tf.DType) -> np.ndarray:
    """Return the values of one input, one element per example; raises StatusError."""
    try:
        return to_array(values, dtype)
    except StatusError:
        pass  # the element to blame is looked for below
    first = None
    for i, value in enumerate(values):
        try:
            array = to_array(value, dtype)
            if first is None:
                first = array
            elif array.size != first.size:
                raise invalid(f"Expecting tensor size: {first.size} but got: {array.size}")
            elif array.shape != first.shape:
                shapes = [",".join(map(str, tensor.shape)) for tensor in (first, array)]
                raise invalid(f"Expecting shape [{shapes[0]}] but got: [{shapes[1]}]")
        except StatusError as error:
            key = "" if name is None else f" key: {name}"
            raise invalid(
                f"Failed to process element: {i}{key} of 'instances' list. Error: {error.status}"
            ) from None
    raise invalid(f"JSON Value: {quoted(values)} is not a tensor")


def columns(value, inputs: Mapping[str, tf.DType]) -> dict[str, np.ndarray]:
    """Return the inputs in "inputs", whole tensors; raises StatusError.

    Args:
        value: The value of that key.
        inputs: The dtype of each input of the signature.
    """
    if not isinstance(value, dict) or is_base64(value):
        if len(inputs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors"
                " required as per tensorinfo_map"
            )
        ((name, dtype),) = inputs.items()
        return {name: to_array(value, dtype)}
    tensors = {}
    for name, dtype in sorted(inputs.items()):
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        tensors[name] = to_array(value[name], dtype)
    return tensors
