"""TensorProto <-> NumPy, as `Tensor::FromProto` and `Tensor::AsProtoField` do it.

`tf.make_ndarray` and `tf.make_tensor_proto` do not: the first rejects what the runtime accepts, the
second writes `tensor_content` where clients of TF Serving read `float_val`.
"""

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

# The typed field of each dtype, and the type of its numbers.
_FIELDS = {
    types_pb2.DT_FLOAT: ("float_val", np.float32),
    types_pb2.DT_DOUBLE: ("double_val", np.float64),
    types_pb2.DT_INT32: ("int_val", np.int32),
    types_pb2.DT_INT16: ("int_val", np.int16),
    types_pb2.DT_INT8: ("int_val", np.int8),
    types_pb2.DT_UINT8: ("int_val", np.uint8),
    types_pb2.DT_UINT16: ("int_val", np.uint16),
    types_pb2.DT_INT64: ("int64_val", np.int64),
    types_pb2.DT_UINT32: ("uint32_val", np.uint32),
    types_pb2.DT_UINT64: ("uint64_val", np.uint64),
    types_pb2.DT_BOOL: ("bool_val", np.bool_),
    types_pb2.DT_STRING: ("string_val", np.object_),
    types_pb2.DT_HALF: ("half_val", np.float16),
    types_pb2.DT_BFLOAT16: ("half_val", tf.bfloat16.as_numpy_dtype),
    types_pb2.DT_COMPLEX64: ("scomplex_val", np.complex64),
    types_pb2.DT_COMPLEX128: ("dcomplex_val", np.complex128),
}
# Fields with the same layout in a message as in memory. They are read as bytes, because a list of
# Python floats is slow.
_PACKED = {"float_val": np.float32, "double_val": np.float64}
MOST = 1 << 31  # elements
FILLED = 64 << 20  # bytes: a shape alone could ask for any amount of memory
DEEPEST = 64  # dimensions; NumPy has no more
_STRING = 32  # bytes of an empty string, in NumPy and the runtime


def to_array(proto: tensor_pb2.TensorProto, most: int = FILLED) -> np.ndarray:
    """Return a tensor's values.

    Both forms are read, typed values and `tensor_content`. As upstream does, the last typed value
    is repeated if there are too few, and a tensor without values is all zeros.

    Args:
        proto: The tensor.
        most: Bytes that may be added so.

    Raises:
        ValueError: It is not a valid tensor.
    """
    if proto.dtype not in _FIELDS:
        raise ValueError(f"dtype {proto.dtype}")
    field, dtype = _FIELDS[proto.dtype]
    if proto.tensor_shape.unknown_rank:
        raise ValueError("unknown rank")
    shape, size = _shape(proto)
    if proto.tensor_content:
        if field == "string_val" or len(proto.tensor_content) != size * np.dtype(dtype).itemsize:
            raise ValueError("tensor_content of another length")
        return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
    values = _typed(proto, field, dtype)
    if len(values) > size:
        raise ValueError(f"{len(values)} values for {size}")
    if len(values) < size:
        if filled(proto) > most:
            raise ValueError(f"shape {shape} without its values")
        filler = values[-1] if len(values) else (b"" if field == "string_val" else dtype(0))
        values = np.concatenate([values, np.full(size - len(values), filler, dtype)])
    return values.reshape(shape)


def _shape(proto) -> tuple[list[int], int]:
    """Return the shape of a tensor and its number of elements; raises ValueError."""
    if len(proto.tensor_shape.dim) > DEEPEST:
        raise ValueError(f"{len(proto.tensor_shape.dim)} dimensions")
    shape = [dim.size for dim in proto.tensor_shape.dim]
    size = math.prod(shape)
    if any(n < 0 for n in shape) or size > MOST:
        raise ValueError(f"shape {shape}")
    return shape, size


def filled(proto: tensor_pb2.TensorProto) -> int:
    """Return the bytes that `to_array` will add to those that were sent: a shape asks for them."""
    if proto.dtype not in _FIELDS or proto.tensor_content:
        return 0
    field, dtype = _FIELDS[proto.dtype]
    try:
        _, size = _shape(proto)
    except ValueError:
        return 0  # which `to_array` tells
    values = len(getattr(proto, field)) // (2 if field.endswith("complex_val") else 1)
    width = _STRING if field == "string_val" else np.dtype(dtype).itemsize
    return max(0, size - values) * width


def _typed(proto, field: str, dtype) -> np.ndarray:
    """Return the typed values of a tensor as a vector."""
    values = getattr(proto, field)
    if field in _PACKED:
        alone = tensor_pb2.TensorProto()
        getattr(alone, field).MergeFrom(values)
        width = np.dtype(dtype).itemsize * len(values)
        packed = alone.SerializeToString()
        return np.frombuffer(packed, dtype, offset=len(packed) - width)
    if field == "string_val":
        strings = np.empty(len(values), object)
        strings[:] = list(values)
        return strings
    if field == "half_val":
        return np.array(values, np.uint32).astype(np.uint16).view(dtype)
    if field.endswith("complex_val"):
        parts = np.array(values, np.float64)
        return (parts[0::2] + 1j * parts[1::2]).astype(dtype)
    return np.array(values, np.int64 if field == "int_val" else dtype).astype(dtype)


def write(array: np.ndarray, proto: tensor_pb2.TensorProto, content: bool = False) -> None:
    """Write values into an empty message.

    Args:
        array: Any shape; strings as objects (bytes).
        proto: Filled.
        content: Whether to use `tensor_content`; upstream's
            --enable_serialization_as_tensor_content.
    """
    array = np.asarray(array)
    proto.dtype = tf.as_dtype(array.dtype).as_datatype_enum
    field, dtype = _FIELDS[proto.dtype]
    for n in array.shape:
        proto.tensor_shape.dim.add(size=n)
    flat = np.ascontiguousarray(array, dtype).reshape(-1)
    if field == "string_val":
        proto.string_val.extend(tf.compat.as_bytes(text) for text in flat)
    elif content:
        proto.tensor_content = flat.tobytes()
    elif field == "half_val":
        proto.half_val.extend(flat.view(np.uint16).tolist())
    elif field.endswith("complex_val"):
        getattr(proto, field).extend(np.stack([flat.real, flat.imag], -1).reshape(-1).tolist())
    else:
        getattr(proto, field).extend(flat.tolist())
