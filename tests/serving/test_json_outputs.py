"""Tensors -> JSON: the shortest digits that read back, and what JSON has no words for."""

import base64
import json

import numpy as np
import pytest

from serving.embedded import json_outputs
from serving.embedded.errors import StatusError


def test_floats_are_written_shortest_and_with_a_point():
    values = np.array([0.1, 1, -2.5, 1e20, 1e-7, 16777216, np.float32(1 / 3)], np.float32)
    text = json_outputs.write({"y": values}, by_row=True).decode()
    written = text[text.index("[") + 1 : text.index("]")].split(",")
    assert written[:3] == ["0.1", "1.0", "-2.5"]
    assert all("." in number or "e" in number for number in written)
    np.testing.assert_array_equal(np.array(written, np.float32), values)
    assert all(len(number.replace("-", "")) <= 11 for number in written)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(np.float64(0.1), "0.1"), (np.float64(1) / 3, "0.3333333333333333")],
        *[(np.float32(0.1), "0.1"), (np.float32(3), "3.0"), (np.float64(-2), "-2.0")],
        *[(np.float16(1.5), "1.5"), (np.int64(7), "7"), (np.bool_(True), "true")],
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("beside", [None, np.float32("nan")], ids=["finite", "beside NaN"])
def test_a_number_has_the_digits_of_its_dtype(value, text, beside):
    outputs = {"y": value} if beside is None else {"x": beside, "y": value}
    written = json_outputs.write({name: np.asarray(x) for name, x in outputs.items()}, False)
    assert written.decode().rstrip("}").rpartition(":")[2].strip() == text


def test_what_is_not_finite_is_written_as_upstream_does():
    values = np.array([[np.nan, 0.1], [np.inf, -np.inf]], np.float32)
    text = json_outputs.write({"y": values}, by_row=False).decode()
    assert text.replace(" ", "") == '{"outputs":[[NaN,0.1],[Infinity,-Infinity]]}'


def test_one_output_has_no_name_and_several_have():
    y, n = np.array([[1.0], [2.0]], np.float32), np.array([3, 4])
    row = json.loads(json_outputs.write({"y": y}, by_row=True))
    assert row == {"predictions": [[1.0], [2.0]]}
    rows = json.loads(json_outputs.write({"n": n, "y": y}, by_row=True))
    assert rows == {"predictions": [{"n": 3, "y": [1.0]}, {"n": 4, "y": [2.0]}]}
    columns = json.loads(json_outputs.write({"n": n, "y": y}, by_row=False))
    assert columns == {"outputs": {"n": [3, 4], "y": [[1.0], [2.0]]}}


def test_texts_are_written_as_text_and_bytes_as_base64():
    texts = np.array(["ä".encode(), b"\xff"], object)
    answer = json.loads(json_outputs.write({"a": texts, "a_bytes": texts}, by_row=True))
    assert answer["predictions"][0]["a"] == "ä"
    assert base64.b64decode(answer["predictions"][1]["a_bytes"]["b64"]) == b"\xff"


def test_rows_need_equal_batches_and_a_batch():
    one, two = np.zeros([1], np.float32), np.zeros([2], np.float32)
    with pytest.raises(
        StatusError, match="Tensor name: b has inconsistent batch size: 2 expecting: 1"
    ):
        json_outputs.write({"a": one, "b": two}, by_row=True)
    with pytest.raises(StatusError, match="Tensor name: a has no shape information"):
        json_outputs.write({"a": np.float32(1)}, by_row=True)
    assert json.loads(json_outputs.write({"a": np.float32(1)}, by_row=False)) == {"outputs": 1.0}
