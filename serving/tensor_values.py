"""The values of a TensorProto, however a server writes them.

TF Serving with --enable_serialization_as_tensor_content sends whole tensors as bytes; most servers
send one typed value after the other.
"""

import itertools
import math

import numpy as np


def texts(tensor) -> list[bytes]:
    """Return the strings of a TensorProto; as bytes, their lengths come first, as varints."""
    content, count = tensor.tensor_content, math.prod(dim.size for dim in tensor.tensor_shape.dim)
    if not content:
        return list(tensor.string_val)
    lengths, at, shift = [0], 0, 0
    while len(lengths) <= count:
        byte, at = content[at], at + 1
        lengths[-1] |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            lengths, shift = [*lengths, 0], 0
    ends = list(itertools.accumulate(lengths[:-1], initial=at))
    return [content[begin:end] for begin, end in itertools.pairwise(ends)]


def floats(tensor) -> np.ndarray:
    """Return the numbers of a float TensorProto, float [n]."""
    content = tensor.tensor_content
    return np.frombuffer(content, "<f4") if content else np.array(tensor.float_val)
