"""JSON -> tensors: what is read, and the words for what cannot be."""

import json

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from serving.embedded import json_inputs, json_values
from serving.embedded.errors import StatusError


def signature(**dtypes):
    made = meta_graph_pb2.SignatureDef()
    for name, dtype in dtypes.items():
        made.inputs[name].dtype = tf.as_dtype(dtype).as_datatype_enum
    return made


def read(body, **dtypes):
    return json_inputs.inputs_of(json_values.parse(body.encode()), signature(**dtypes))


def error_of(body, **dtypes):
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
    (tensor,) = read(f'{{"{key}": {text}}}', x=dtype).values()
    assert tensor.dtype == tf.as_dtype(dtype).as_numpy_dtype
    np.testing.assert_array_equal(tensor, np.array(values, tensor.dtype))


def test_columns_may_be_scalars_and_empty():
    assert read('{"inputs": 3}', x="float32")["x"].shape == ()
    assert read('{"inputs": []}', x="float32")["x"].shape == (0,)
    assert read('{"inputs": [[], []]}', x="float32")["x"].shape == (2, 0)
    assert read('{"inputs": {"b64": "YQ=="}}', x="string")["x"].item() == b"a"


def test_several_inputs_come_by_name():
    rows = '{"instances": [{"a": [1, 2], "b": "x"}, {"b": "y", "a": [3, 4]}]}'
    columns = '{"inputs": {"a": [[1, 2], [3, 4]], "b": ["x", "y"]}}'
    for body in (rows, columns):
        inputs = read(body, a="float32", b="string")
        assert inputs["a"].tolist() == [[1, 2], [3, 4]]
        assert inputs["b"].tolist() == [b"x", b"y"]


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
    error = error_of(body)
    assert message in error.message
    assert error.http == 400


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
    message = error_of(f'{{"inputs": [{text}]}}', x=dtype).message
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
        json_values.parse(body)


def test_base64_that_is_none_is_refused():
    assert error_of('{"inputs": {"b64": "a*"}}', x="string").message == "Unable to base64 decode"
    assert (
        "not formatted correctly for base64"
        in error_of('{"inputs": [{"c": 1}]}', x="string").message
    )


@pytest.mark.parametrize(("dtype", "name"), [("float16", "half"), ("bfloat16", "bfloat16")])
def test_halves_are_unimplemented_in_columns_and_invalid_in_rows(dtype, name):
    columns, rows = (error_of(f'{{"{key}": [1]}}', x=dtype) for key in ("inputs", "instances"))
    assert (columns.http, rows.http) == (501, 400)
    assert f"Conversion of JSON Value: 1 to type: {name}" in columns.message
    assert f"UNIMPLEMENTED: Conversion of JSON Value: 1 to type: {name}" in rows.message


def test_several_inputs_do_not_come_plain():
    for key in ("instances", "inputs"):
        message = error_of(f'{{"{key}": [1]}}', a="float32", b="float32").message
        assert "multiple input tensors required as per tensorinfo_map" in message


def test_quoted_json_is_cut():
    body = json.dumps({"instances": "x" * 10_000})
    assert len(error_of(body).message) < 400


@pytest.mark.parametrize("kind", [list, dict])
def test_of_a_large_value_only_what_is_shown_is_written(kind):
    seen = []

    class Counted(kind):
        def __iter__(self):
            return (seen.append(one) or one for one in super().__iter__())

        def items(self):
            return ((seen.append(key) or key, value) for key, value in super().items())

    many = {str(i): i for i in range(100_000)}
    text = json_values.quoted(Counted(many))
    whole = json.dumps(kind(list(many)[:100]) if kind is list else many, indent=4)
    assert text == whole[:256] + "..."
    assert len(seen) < 100
