"""Single JSON values: parsing, quoting in messages, base64, and numbers without loss.

Source: tensorflow_serving/util/json_tensor.cc.
"""

import base64
import binascii
import json
import math
import re

import numpy as np
import orjson
import tensorflow as tf

from serving.embedded.errors import invalid

SHOWN = 256  # bytes of a JSON value that a message quotes
_TYPES = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}
# A surrogate without its other half, after anything else: no text, though Python takes it for one.
_LONE = re.compile(
    rb"(?:[^\\]++|\\[^u]|\\u(?![dD][89a-fA-F])|\\u[dD][89abAB]..\\u[dD][c-fC-F]..)*+(?=\\u)",
    re.DOTALL,
)
_WORDS = {None: "Null", True: "True", False: "False"}


def parse(body: bytes):
    """Return the object that a body holds; raises StatusError."""
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = _parse_leniently(body)
    if not isinstance(value, dict):
        raise invalid(f"JSON Value: {quoted(value)} Is not object")
    return value


def _parse_leniently(body: bytes):
    """Return JSON that may hold NaN and Infinity, which orjson refuses; raises StatusError."""
    try:
        value = json.loads(body.decode("utf-8"))
        lone = _LONE.match(body)
        if lone:
            raise invalid(
                "JSON Parse error: The surrogate pair in string is invalid. at offset:"
                f" {lone.end()}"
            )
        return value
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
    """Return a JSON value as messages quote it, cut if it is long: the rest is never written."""
    text = ""
    try:
        for part in json.JSONEncoder(indent=4, ensure_ascii=False).iterencode(value):
            text += part
            if len(text) > SHOWN:
                return text[:SHOWN] + "..."
    except RecursionError:
        return "[...]"
    return text


def type_of(value) -> str:
    """Return the name that messages give to the type of a JSON value."""
    if value is None or isinstance(value, bool):
        return _WORDS[value]
    return _TYPES[type(value)]


def is_base64(value) -> bool:
    """Whether a JSON value is {"b64": text}."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def decoded(value) -> bytes:
    """Return the bytes of {"b64": text}; raises StatusError."""
    if not is_base64(value):
        raise invalid(f"JSON Value: {quoted(value)} not formatted correctly for base64 data")
    text = "".join(value["b64"].split())
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise invalid("Unable to base64 decode") from None


def finite(value: int | float, dtype: tf.DType):
    """Return a number; raises StatusError if the dtype makes it infinite."""
    try:
        with np.errstate(over="ignore"):
            number = dtype.as_numpy_dtype(value)
    except OverflowError:  # an integer beyond any float
        number = np.inf
    if np.isinf(number) and not (isinstance(value, float) and math.isinf(value)):
        raise invalid(
            f"Cannot convert JSON value: {quoted(value)} to {dtype_name(dtype)} without loss of"
            " precision."
        )
    return number


def dtype_name(dtype: tf.DType) -> str:
    """Return the name of a dtype in the runtime's words."""
    return {"float16": "half", "float32": "float", "float64": "double"}.get(dtype.name, dtype.name)


def shortest(value: np.floating) -> float:
    """Return a number as the double with the fewest digits that reads back as it.

    It goes through text: a double of the same value has digits that the float never had.
    """
    return float(str(value))
