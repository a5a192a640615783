"""JSON <-> tensors: what is read, what is written, and the words for what cannot be."""

import base64
import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from serving.embedded import json_examples, json_tensor
from serving.embedded.errors import StatusError


def signature(**dtypes):
    made = meta_graph_pb2.SignatureDef()
    for name, dtype in dtypes.items():
        made.inputs[name].dtype = tf.as_dtype(dtype).as_datatype_enum
    return made


def read(body, **dtypes):
    return json_tensor.inputs_of(json_tensor.parse(body.encode()), signature(**dtypes))


def failure(body, **dtypes):
    with pytest.raises(StatusError) as caught:
        read(body, **(dtypes or {"x": "float32"}))
    return caught.value


@pytest.mark.parametrize("key", ["instances", "inputs"])
@pytest.mark.parametrize(
    ("dtype", "text", "values"),
    [
        ("float32", "[[1, 2.5], [3e2, -4]]", [[1, 2.5], [300, -4]]),
        ("float64", "[0.1, 1e300]", [0.1, 1e300]),
        ("float32", "[NaN, Infinity, -Infinity, 1]", [np.nan, np.inf, -np.inf, 1]),
        ("float32", "[16777217]", [16777216]),
        ("int32", "[[-2147483648], [2147483647]]", [[-2147483648], [2147483647]]),
        ("int64", "[9223372036854775807]", [9223372036854775807]),
        ("uint64", "[18446744073709551615]", [18446744073709551615]),
        ("uint8", "[0, 255]", [0, 255]),
        ("bool", "[true, false]", [True, False]),
        ("string", '["ä", {"b64": "/wA="}]', ["ä".encode(), b"\xff\x00"]),
    ],
)
def test_lists_become_tensors(key, dtype, text, values):
    (found,) = read(f'{{"{key}": {text}}}', x=dtype).values()
    assert found.dtype == tf.as_dtype(dtype).as_numpy_dtype
    np.testing.assert_array_equal(found, np.array(values, found.dtype))


def test_columns_may_be_scalars_and_empty():
    assert read('{"inputs": 3}', x="float32")["x"].shape == ()
    assert read('{"inputs": []}', x="float32")["x"].shape == (0,)
    assert read('{"inputs": [[], []]}', x="float32")["x"].shape == (2, 0)
    assert read('{"inputs": {"b64": "YQ=="}}', x="string")["x"].item() == b"a"


def test_several_inputs_come_by_name():
    rows = '{"instances": [{"a": [1, 2], "b": "x"}, {"b": "y", "a": [3, 4]}]}'
    columns = '{"inputs": {"a": [[1, 2], [3, 4]], "b": ["x", "y"]}}'
    for body in (rows, columns):
        found = read(body, a="float32", b="string")
        assert found["a"].tolist() == [[1, 2], [3, 4]]
        assert found["b"].tolist() == [b"x", b"y"]


def test_one_input_may_come_by_name_and_base64_is_no_object():
    assert read('{"instances": [{"x": 1}, {"x": 2}]}', x="float32")["x"].tolist() == [1, 2]
    assert read('{"instances": [{"b64": "YQ=="}]}', x="string")["x"].tolist() == [b"a"]
    assert read('{"instances": [{"x": {"b64": "YQ=="}}]}', x="string")["x"].tolist() == [b"a"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "JSON Parse error: The document is empty"),
        ("{", "JSON Parse error: "),
        ('{"instances": [1,]}', "JSON Parse error: "),
        ("[" * 100_000, "JSON Parse error: "),
        ("[1]", "JSON Value: [\n    1\n] Is not object"),
        ("{}", "Missing 'inputs' or 'instances' key"),
        ('{"instances": [1], "inputs": [1]}', "Not formatted correctly expecting only one of"),
        ('{"instances": 1}', "Expecting 'instances' to be an list/array"),
        ('{"instances": []}', "No values in 'instances' array"),
        ('{"inputs": "a"}', 'JSON Value: "a" Type: String is not of expected type: float'),
        ('{"inputs": null}', "JSON Value: null Type: Null is not of expected type: float"),
        ('{"inputs": [true]}', "JSON Value: true Type: True is not of expected type: float"),
        ('{"inputs": [1, false]}', "JSON Value: false Type: False is not of expected type: float"),
        ('{"inputs": {"x": {}}}', "JSON Value: {} Type: Object is not of expected type: float"),
        (
            '{"inputs": [[1, 2], [3]]}',
            "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
        ),
        ('{"inputs": [1, [2]]}', "Encountered list at unexpected level: 1 expected < 1"),
        (
            '{"inputs": [[1], 2]}',
            "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        ('{"inputs": {"y": 1}}', "Missing named input: x in 'inputs' object."),
        (
            '{"instances": [[1, 2], [3]]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT:"
            " Expecting tensor size: 2 but got: 1",
        ),
        (
            '{"instances": [[[1, 2]], [[1], [2]]]}',
            "Error: INVALID_ARGUMENT: Expecting shape [1,2] but got: [2,1]",
        ),
        (
            '{"instances": [1, "a"]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT:"
            ' JSON Value: "a" Type: String is not of expected type: float',
        ),
        ('{"instances": [[1], {"x": 1}]}', "Expecting value/list but got object at item 1 of"),
        ('{"instances": [{"x": 1}, [1]]}', "Expecting object but got list at item 1 of input list"),
        (
            '{"instances": [{"z": 1}]}',
            "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT:"
            " JSON object: does not have named input: z",
        ),
        ('{"instances": [{"x": 1}, {}]}', "keys must be equal to: x"),
        (
            '{"instances": [{"x": 1}, {"x": "a"}]}',
            "Failed to process element: 1 key: x of 'instances' list. Error: INVALID_ARGUMENT:"
            ' JSON Value: "a" Type: String is not of expected type: float',
        ),
        ('{"inputs": 1e39}', "Cannot convert JSON value: 1e+39 to float without loss of precision"),
    ],
)
def test_what_is_wrong_is_told_in_upstreams_words(body, message):
    found = failure(body)
    assert message in found.message
    assert found.http == 400


@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        *[("int32", "1.0"), ("int32", "2147483648"), ("int64", '"1"'), ("int64", "true")],
        *[("uint8", "null"), ("uint32", "-1"), ("uint64", "18446744073709551616")],
        *[("bool", "1"), ("bool", "null"), ("bool", '"true"')],
        *[("string", "1"), ("string", "null"), ("string", "false"), ("float64", "true")],
    ],
)
def test_values_of_another_type_are_refused(dtype, text):
    message = failure(f'{{"inputs": [{text}]}}', x=dtype).message
    assert "is not of expected type" in message


@pytest.mark.parametrize(
    ("body", "offset"),
    [
        (b'{"inputs": [1 2]}', 14),
        ('{"signature_name": "ä", "inputs": [1 2]}'.encode(), 38),
        (b'{"inputs": ["\xff"]}', 13),
        (b'{"inputs": 1} 2', 14),
    ],
)
def test_where_json_is_broken_is_told_in_bytes(body, offset):
    with pytest.raises(StatusError, match=rf"^JSON Parse error: .+ at offset: {offset}$"):
        json_tensor.parse(body)


def test_base64_that_is_none_is_refused():
    assert failure('{"inputs": {"b64": "a*"}}', x="string").message == "Unable to base64 decode"
    assert (
        "not formatted correctly for base64"
        in failure('{"inputs": [{"c": 1}]}', x="string").message
    )


@pytest.mark.parametrize(("dtype", "name"), [("float16", "half"), ("bfloat16", "bfloat16")])
def test_halves_are_unimplemented_in_columns_and_invalid_in_rows(dtype, name):
    columns, rows = (failure(f'{{"{key}": [1]}}', x=dtype) for key in ("inputs", "instances"))
    assert (columns.http, rows.http) == (501, 400)
    assert f"Conversion of JSON Value: 1 to type: {name}" in columns.message
    assert f"UNIMPLEMENTED: Conversion of JSON Value: 1 to type: {name}" in rows.message


def test_several_inputs_do_not_come_plain():
    for key in ("instances", "inputs"):
        message = failure(f'{{"{key}": [1]}}', a="float32", b="float32").message
        assert "multiple input tensors required as per tensorinfo_map" in message


def test_quoted_json_is_cut():
    body = json.dumps({"instances": "x" * 10_000})
    assert len(failure(body).message) < 400


def test_floats_are_written_shortest_and_with_a_point():
    values = np.array([0.1, 1, -2.5, 1e20, 1e-7, 16777216, np.float32(1 / 3)], np.float32)
    text = json_tensor.answer({"y": values}, by_row=True).decode()
    found = text[text.index("[") + 1 : text.index("]")].split(",")
    assert found[:3] == ["0.1", "1.0", "-2.5"]
    assert all("." in each or "e" in each for each in found)
    np.testing.assert_array_equal(np.array(found, np.float32), values)
    assert all(len(each.replace("-", "")) <= 11 for each in found)


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
    written = json_tensor.answer({name: np.asarray(x) for name, x in outputs.items()}, False)
    assert written.decode().rstrip("}").rpartition(":")[2].strip() == text


def test_what_is_not_finite_is_written_as_upstream_does():
    values = np.array([[np.nan, 0.1], [np.inf, -np.inf]], np.float32)
    text = json_tensor.answer({"y": values}, by_row=False).decode()
    assert text.replace(" ", "") == '{"outputs":[[NaN,0.1],[Infinity,-Infinity]]}'


def test_one_output_has_no_name_and_several_have():
    y, n = np.array([[1.0], [2.0]], np.float32), np.array([3, 4])
    row = json.loads(json_tensor.answer({"y": y}, by_row=True))
    assert row == {"predictions": [[1.0], [2.0]]}
    rows = json.loads(json_tensor.answer({"n": n, "y": y}, by_row=True))
    assert rows == {"predictions": [{"n": 3, "y": [1.0]}, {"n": 4, "y": [2.0]}]}
    columns = json.loads(json_tensor.answer({"n": n, "y": y}, by_row=False))
    assert columns == {"outputs": {"n": [3, 4], "y": [[1.0], [2.0]]}}


def test_texts_are_written_as_text_and_bytes_as_base64():
    texts = np.array(["ä".encode(), b"\xff"], object)
    found = json.loads(json_tensor.answer({"a": texts, "a_bytes": texts}, by_row=True))
    assert found["predictions"][0]["a"] == "ä"
    assert base64.b64decode(found["predictions"][1]["a_bytes"]["b64"]) == b"\xff"


def test_rows_need_equal_batches_and_a_batch():
    one, two = np.zeros([1], np.float32), np.zeros([2], np.float32)
    with pytest.raises(
        StatusError, match="Tensor name: b has inconsistent batch size: 2 expecting: 1"
    ):
        json_tensor.answer({"a": one, "b": two}, by_row=True)
    with pytest.raises(StatusError, match="Tensor name: a has no shape information"):
        json_tensor.answer({"a": np.float32(1)}, by_row=True)
    assert json.loads(json_tensor.answer({"a": np.float32(1)}, by_row=False)) == {"outputs": 1.0}


def fill(text):
    from tensorflow_serving.apis import classification_pb2

    request = classification_pb2.ClassificationRequest()
    json_examples.fill(json_tensor.parse(text.encode()), request)
    return request.input


def test_examples_become_features_by_the_type_of_their_values():
    found = fill('{"examples": [{"i": [1, true], "f": 1.5, "s": ["a", {"b64": "/w=="}], "e": []}]}')
    features = found.example_list.examples[0].features.feature
    assert list(features["i"].int64_list.value) == [1, 1]
    assert list(features["f"].float_list.value) == [1.5]
    assert list(features["s"].bytes_list.value) == [b"a", b"\xff"]
    assert features["e"].WhichOneof("kind") is None


def test_a_context_goes_with_all_examples():
    found = fill('{"context": {"c": 1}, "examples": [{}, {}]}')
    assert len(found.example_list_with_context.examples) == 2
    context = found.example_list_with_context.context.features.feature
    assert list(context["c"].int64_list.value) == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "When method is classify, key 'examples' is expected and was not found"),
        ('{"examples": 1}', "Expecting 'examples' value to be an list/array"),
        ('{"examples": []}', "'examples' value is an empty array"),
        ('{"examples": [1]}', "Example must be JSON object but got JSON Number"),
        ('{"examples": [{"a": null}]}', "Feature: a has element with unexpected JSON type: Null"),
        ('{"examples": [{"a": [[1]]}]}', "Feature: a has element with unexpected JSON type: Array"),
        ('{"examples": [{"a": [1, 2.5]}]}', "Unexpected element type in feature: a expecting type"),
        ('{"examples": [{"a": 9223372036854775808}]}', "Only int64 is supported"),
    ],
)
def test_what_is_no_example_is_told(text, message):
    with pytest.raises(StatusError) as caught:
        fill(text)
    assert message in caught.value.message


def test_results_are_lists_of_label_and_score():
    result = SimpleNamespace(
        classifications=[
            SimpleNamespace(classes=[SimpleNamespace(label="a", score=np.float32(0.1))])
        ]
    )
    assert json_examples.classes(result) == b'{"results": [[["a", 0.1]]]}'
    values = SimpleNamespace(regressions=[SimpleNamespace(value=np.float32(0.1))])
    assert json_examples.values(values) == b'{"results": [0.1]}'
