"""JSON <-> arrays, as tensorflow_serving/util/json_tensor.cc reads and writes it.

The quick way is one call of NumPy for all numbers of a request. Whatever it cannot vouch for (lists
of unequal length, words among numbers, objects) goes the slow way, value by value, which finds out
what is wrong, or that nothing is.
"""

import base64
import binascii
import itertools
import json
import math
from collections.abc import Mapping, Sequence

import grpc
import numpy as np
import orjson
import tensorflow as tf

from serving.embedded.failure import Failure, invalid

SHOWN = 256  # bytes of a JSON value that a message quotes
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
_TYPES = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}
_WORDS = {None: "Null", True: "True", False: "False"}


def parse(body: bytes):
    """Return the object that a body holds; raises Failure."""
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = _parse_leniently(body)
    if not isinstance(found, dict):
        raise invalid(f"JSON Value: {quoted(found)} Is not object")
    return found


def _parse_leniently(body: bytes):
    """Return JSON that may hold NaN and Infinity, which orjson refuses; raises Failure."""
    try:
        return json.loads(body.decode("utf-8"))
    except json.JSONDecodeError as error:
        offset = len(error.doc[: error.pos].encode())  # bytes, as upstream counts
        raise invalid(f"JSON Parse error: {error.msg}. at offset: {offset}") from None
    except UnicodeDecodeError as error:
        raise invalid(
            f"JSON Parse error: Invalid encoding in string. at offset: {error.start}"
        ) from None
    except RecursionError:
        raise invalid("JSON Parse error: Terminate parsing due to nesting. at offset: 0") from None
    except ValueError:  # a number with more digits than Python converts
        raise invalid("JSON Parse error: Number too big to be stored. at offset: 0") from None


def quoted(value) -> str:
    """Return a JSON value as messages quote it, cut where it is long."""
    try:
        text = json.dumps(value, indent=4, ensure_ascii=False)
    except RecursionError:
        text = "[...]"
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def type_of(value) -> str:
    """Return the name that messages give to the type of a JSON value."""
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    return _TYPES[type(value)]


def is_base64(value) -> bool:
    """Whether a JSON value is {"b64": text}."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def decoded(value) -> bytes:
    """Return the bytes of {"b64": text}; raises Failure."""
    if not is_base64(value):
        raise invalid(f"JSON Value: {quoted(value)} not formatted correctly for base64 data")
    text = "".join(value["b64"].split())
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid("Unable to base64 decode") from None


def to_array(value, dtype: tf.DType) -> np.ndarray:
    """Return a JSON value as a tensor; raises Failure.

    Args:
        value: A number, text, {"b64": text}, or lists of them.
        dtype: Of the signature.
    """
    shape = _shape(value)
    flat = _flat(value, shape)
    quick = None if flat is None else _quickly(flat, dtype)
    if quick is None:
        quick = np.empty(math.prod(shape), dtype.as_numpy_dtype)
        flat = []
        _collect(value, 0, shape, dtype, flat)
        quick[:] = flat
    return quick.reshape(shape)


def _shape(value) -> list[int]:
    """Return the shape that the first element of every list suggests; raises Failure."""
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
    """Return the leaves of nested lists of this shape, None where a list has another length."""
    flat = [value]
    for size in shape:
        if set(map(type, flat)) - {list} or set(map(len, flat)) - {size}:
            return None
        flat = list(itertools.chain.from_iterable(flat))
    return flat


def _quickly(flat: list, dtype: tf.DType) -> np.ndarray | None:
    """Return leaves as an array, None where they have to be looked at one by one."""
    kinds = set(map(type, flat))
    try:
        if dtype in (tf.float32, tf.float64) and kinds <= {int, float}:
            wide = np.array(flat, np.float64)
            with np.errstate(over="ignore"):
                array = wide.astype(dtype.as_numpy_dtype)
            return array if np.array_equal(np.isinf(array), np.isinf(wide)) else None
        if dtype.name in _INTEGERS and kinds <= {int}:
            return np.array(flat, dtype.as_numpy_dtype)  # OverflowError where one does not fit
    except OverflowError:
        pass
    return None


def _collect(value, level: int, shape: Sequence[int], dtype: tf.DType, flat: list) -> None:
    """Append the leaves of a value; raises Failure at the first that does not fit."""
    if isinstance(value, list):
        if level >= len(shape):
            raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
        if len(value) != shape[level]:
            raise invalid(
                f"Encountered list at unexpected size: {len(value)} at level: {level}"
                f" expected size: {shape[level]}"
            )
        for each in value:
            _collect(each, level + 1, shape, dtype, flat)
    elif level != len(shape):
        raise invalid(
            f"JSON Value: {quoted(value)} found at incorrect level: {level + 1} in the JSON DOM."
            f" Expected at level: {len(shape)}"
        )
    else:
        flat.append(_leaf(value, dtype))


def _leaf(value, dtype: tf.DType):
    """Return one value as its dtype takes it; raises Failure."""
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
        raise Failure(
            grpc.StatusCode.UNIMPLEMENTED,
            f"Conversion of JSON Value: {quoted(value)} to type: {_named(dtype)}",
        )
    raise invalid(
        f"JSON Value: {quoted(value)} Type: {type_of(value)} is not of expected type:"
        f" {_named(dtype)}"
    )


def finite(value: int | float, dtype: tf.DType):
    """Return a number; raises Failure where the dtype makes it infinite."""
    try:
        with np.errstate(over="ignore"):
            found = dtype.as_numpy_dtype(value)
    except OverflowError:  # an integer beyond any float
        found = np.inf
    if np.isinf(found) and not (isinstance(value, float) and math.isinf(value)):
        raise invalid(
            f"Cannot convert JSON value: {quoted(value)} to {_named(dtype)} without loss of"
            " precision."
        )
    return found


def _named(dtype: tf.DType) -> str:
    """Return the name of a dtype in the runtime's words."""
    return {"float16": "half", "float32": "float", "float64": "double"}.get(dtype.name, dtype.name)


def rows(instances, inputs: Mapping[str, tf.DType]) -> dict[str, np.ndarray]:
    """Return the inputs that "instances" gives, one element an example; raises Failure.

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
    for i, each in enumerate(instances):
        if named != (isinstance(each, dict) and not is_base64(each)):
            wanted, got = ("object", "list") if named else ("value/list", "object")
            raise invalid(f"Expecting {wanted} but got {got} at item {i} of input list")
        if not named:
            columns[next(iter(inputs))].append(each)
            continue
        if each.keys() != inputs.keys():
            _wrong_keys(i, each, inputs)
        for name, value in each.items():
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
    """Return the values of one input, an element an example; raises Failure."""
    try:
        return to_array(values, dtype)
    except Failure:
        pass  # which element it was is told below
    first = None
    for i, value in enumerate(values):
        try:
            array = to_array(value, dtype)
            if first is None:
                first = array
            elif array.size != first.size:
                raise invalid(f"Expecting tensor size: {first.size} but got: {array.size}")
            elif array.shape != first.shape:
                shapes = [",".join(map(str, each.shape)) for each in (first, array)]
                raise invalid(f"Expecting shape [{shapes[0]}] but got: [{shapes[1]}]")
        except Failure as failure:
            key = "" if name is None else f" key: {name}"
            raise invalid(
                f"Failed to process element: {i}{key} of 'instances' list. Error: {failure.status}"
            ) from None
    raise invalid(f"JSON Value: {quoted(values)} is not a tensor")


def columns(value, inputs: Mapping[str, tf.DType]) -> dict[str, np.ndarray]:
    """Return the inputs that "inputs" gives, whole tensors; raises Failure.

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
    found = {}
    for name, dtype in sorted(inputs.items()):
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
        found[name] = to_array(value[name], dtype)
    return found


def inputs_of(body: Mapping, signature) -> dict[str, np.ndarray]:
    """Return the inputs that the body of a request gives to a signature; raises Failure."""
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


def answer(outputs: Mapping[str, np.ndarray], by_row: bool) -> bytes:
    """Return outputs as the body of a response; raises Failure.

    Args:
        outputs: By alias, in the order of their names.
        by_row: As "predictions", an element an example; or as "outputs", whole tensors.
    """
    size = None
    for name, array in outputs.items() if by_row else ():
        if array.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        if size not in (None, len(array)):
            raise invalid(
                f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {size}"
            )
        size = len(array)
    all_finite = all(np.isfinite(a).all() for a in outputs.values() if a.dtype.kind in "fV")
    plain = {name: _plain(name, array, all_finite) for name, array in outputs.items()}
    found = plain
    if len(plain) == 1:
        (found,) = plain.values()
    elif by_row:
        names = list(plain)
        found = [dict(zip(names, row, strict=True)) for row in zip(*plain.values(), strict=True)]
    body = {"predictions" if by_row else "outputs": found}
    if all_finite:
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps(body, ensure_ascii=False).encode()  # orjson writes null for NaN


def _plain(name: str, array: np.ndarray, all_finite: bool):
    """Return a tensor as what can be written; numbers stay as they are where all are finite."""
    if array.dtype == object:
        as_bytes = name.endswith("_bytes")
        texts = [_text(each, as_bytes) for each in array.reshape(-1)]
        return _nested(texts, array.shape)
    if array.dtype.kind == "V" or array.dtype == np.float16:
        array = array.astype(np.float32)  # bfloat16, which NumPy does not know, and halves
    if not all_finite:
        values = [shortest(x) if array.dtype.kind == "f" else x.item() for x in array.reshape(-1)]
        return _nested(values, array.shape)
    return np.ascontiguousarray(array) if array.ndim else array[()]


def shortest(value: np.floating) -> float:
    """Return a number as the double with the fewest digits that reads back as it.

    Through text: a double of the same value has digits that the float never had.
    """
    return float(str(value))


def _nested(flat: list, shape: Sequence[int]):
    """Return leaves as nested lists."""
    array = np.empty(len(flat), object)
    array[:] = flat
    return array.reshape(shape).tolist()


def _text(value: bytes, as_bytes: bool):
    if as_bytes:
        return {"b64": base64.b64encode(value).decode()}
    return value.decode("utf-8", "replace")
