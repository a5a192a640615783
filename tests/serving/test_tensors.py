"""TensorProto <-> NumPy, held to TensorFlow's own conversions."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from serving.embedded import tensors

NAMES = ["float32", "float64", "float16", "bfloat16", "complex64", "complex128", "bool"]
NAMES += [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]


def some(name):
    dtype = tf.as_dtype(name).as_numpy_dtype
    values = np.arange(-3, 3) if name[0] in "fbci" and name != "bool" else np.arange(6)
    values = values * 1.5 if name[0] in "fbc" and name != "bool" else values
    return values.astype(dtype).reshape(2, 3)


def written(array, content=False):
    proto = tensor_pb2.TensorProto()
    tensors.write(array, proto, content)
    return proto


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [False, True])
def test_tensorflow_reads_what_is_written(name, content):
    array = some(name)
    proto = written(array, content)
    assert bool(proto.tensor_content) == content
    read = tf.make_ndarray(proto)
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("name", NAMES)
def test_what_tensorflow_writes_is_read(name):
    array = some(name)
    read = tensors.to_array(tf.make_tensor_proto(array))
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("name", NAMES)
def test_typed_values_are_read(name):
    array = some(name)
    read = tensors.to_array(written(array))
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


def test_texts_are_read_and_written():
    array = np.array([[b"a", b"\xff\x00"]], object)
    proto = written(array)
    assert list(proto.string_val) == [b"a", b"\xff\x00"]
    assert tensors.to_array(proto).tolist() == [[b"a", b"\xff\x00"]]


def typed(shape, **values):
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, **values)
    for n in shape:
        proto.tensor_shape.dim.add(size=n)
    return proto


def test_too_few_values_repeat_the_last_and_none_are_zeros():
    assert tensors.to_array(typed([4], float_val=[1, 2])).tolist() == [1, 2, 2, 2]
    assert tensors.to_array(typed([2])).tolist() == [0, 0]
    assert tensors.to_array(typed([], float_val=[7])).tolist() == 7
    assert tensors.to_array(typed([0, 3])).shape == (0, 3)


def _unknown_rank():
    proto = typed([], float_val=[1])
    proto.tensor_shape.unknown_rank = True
    return proto


@pytest.mark.parametrize(
    "proto",
    [
        tensor_pb2.TensorProto(),
        tensor_pb2.TensorProto(dtype=types_pb2.DT_RESOURCE),
        tensor_pb2.TensorProto(dtype=4242),
        typed([-1], float_val=[1]),
        typed([2], float_val=[1, 2, 3]),
        typed([2], tensor_content=b"1234567"),
        typed([1 << 40, 1 << 40]),
        typed([1 << 33]),
        typed([1 << 30], float_val=[1]),
        _unknown_rank(),
        tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_content=b"abc"),
    ],
    ids=lambda proto: str(proto).replace("\n", " ")[:40],
)
def test_what_is_no_tensor_is_refused(proto):
    with pytest.raises(ValueError):  # noqa: PT011 - nobody sees its text
        tensors.to_array(proto)
