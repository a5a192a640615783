"""Arrays -> JSON: the outputs of an answer to predict.

Source: tensorflow_serving/util/json_tensor.cc.
"""

import base64
import json
from collections.abc import Mapping, Sequence

import numpy as np
import orjson

from serving.embedded.errors import invalid
from serving.embedded.json_values import shortest


def write(outputs: Mapping[str, np.ndarray], by_row: bool) -> bytes:
    """Return outputs as the body of a response; raises StatusError.

    Args:
        outputs: By alias, in the order of their names.
        by_row: Write "predictions", one element per example; else "outputs", whole tensors.
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
    content = plain
    if len(plain) == 1:
        (content,) = plain.values()
    elif by_row:
        names = list(plain)
        content = [dict(zip(names, row, strict=True)) for row in zip(*plain.values(), strict=True)]
    body = {"predictions" if by_row else "outputs": content}
    if all_finite:
        return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps(body, ensure_ascii=False).encode()  # orjson writes null for NaN


def _plain(name: str, array: np.ndarray, all_finite: bool):
    """Return a tensor in a form that can be written; numbers stay as they are if all are finite."""
    if array.dtype == object:
        as_bytes = name.endswith("_bytes")
        texts = [_text(value, as_bytes) for value in array.reshape(-1)]
        return _nested(texts, array.shape)
    if array.dtype.kind == "V" or array.dtype == np.float16:
        array = array.astype(np.float32)  # bfloat16, which NumPy does not know, and halves
    if not all_finite:
        values = [shortest(x) if array.dtype.kind == "f" else x.item() for x in array.reshape(-1)]
        return _nested(values, array.shape)
    return np.ascontiguousarray(array) if array.ndim else array[()]


def _nested(flat: list, shape: Sequence[int]):
    """Return leaves as nested lists."""
    array = np.empty(len(flat), object)
    array[:] = flat
    return array.reshape(shape).tolist()


def _text(value: bytes, as_bytes: bool):
    if as_bytes:
        return {"b64": base64.b64encode(value).decode()}
    return value.decode("utf-8", "replace")
