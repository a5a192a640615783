"""REST, held to each row of the protocol's tables."""

import base64
import json
import shlex
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from tests.serving.rest_calls import predict

# Lines of upstream's own documentation (tensorflow_serving/g3doc/api_rest.md) as they are printed
# there, but for the port.
DOCUMENTED = [
    (
        "curl http://localhost:8501/v1/models/half_plus_three",
        {
            "model_version_status": [
                {
                    "version": "123",
                    "state": "AVAILABLE",
                    "status": {"error_code": "OK", "error_message": ""},
                }
            ]
        },
    ),
    (
        """curl -d '{"instances": [1.0,2.0,5.0]}'"""
        " -X POST http://localhost:8501/v1/models/half_plus_three:predict",
        {"predictions": [3.5, 4.0, 5.5]},
    ),
    (
        """curl -d '{"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1.0},"""
        """ {"x": 2.0}]}' -X POST http://localhost:8501/v1/models/half_plus_three:regress""",
        {"results": [3.5, 4.0]},
    ),
    (
        """curl -d '{"instances": [1.0,5.0]}' -X POST http://localhost:8501/v1/models/half:predict""",
        {"error": "Servable not found for request: Latest(half)"},
    ),
]


NAMES = ["status", "predict", "regress", "not found"]


@pytest.mark.parametrize(("line", "answer"), DOCUMENTED, ids=NAMES)
def test_the_lines_of_upstreams_documentation_work_as_printed(rest_served, line, answer):
    port = rest_served.url.rpartition(":")[2]
    command = shlex.split(line.replace(":8501/", f":{port}/"))
    done = subprocess.run([*command, "-s"], capture_output=True, check=True)
    assert json.loads(done.stdout) == answer


def test_rows_and_columns_answer_alike(call):
    assert predict(call, {"instances": [1, 2]}) == (200, {"predictions": [3.5, 4.0]})
    assert predict(call, {"inputs": [1, 2]}) == (200, {"outputs": [3.5, 4.0]})
    assert predict(call, {"inputs": {"x": [[1]]}}) == (200, {"outputs": [[3.5]]})
    assert predict(call, {"instances": [{"x": 1}], "more": 5}) == (200, {"predictions": [3.5]})


def test_several_inputs_and_outputs_go_by_name(call):
    b64 = {"b64": base64.b64encode(b"\xff").decode()}
    rows = [{"a": [1, 2], "b": "p"}, {"a": [3, 4], "b": b64}]
    status, answer = predict(call, {"signature_name": "two", "instances": rows}, "kinds")
    assert status == 200
    assert answer["predictions"][0] == {
        "sum": 3.0,
        "text": "p",
        "text_bytes": {"b64": "cA=="},
        "twice": [2.0, 4.0],
    }
    assert answer["predictions"][1]["text_bytes"] == b64
    columns = {"a": [[1, 2], [3, 4]], "b": ["p", "q"]}
    status, answer = predict(call, {"signature_name": "two", "inputs": columns}, "kinds")
    assert answer["outputs"]["sum"] == [3.0, 7.0]
    assert answer["outputs"]["text"] == ["p", "q"]


def test_images_come_as_base64(call):
    image = tf.io.encode_png(np.zeros([5, 7, 3], np.uint8)).numpy()
    instance = {"b64": base64.b64encode(image).decode()}
    body = {"signature_name": "decode", "instances": [instance, {"image_bytes": instance}][:1]}
    assert predict(call, body, "kinds") == (200, {"predictions": [[5.0, 7.0, 3.0]]})


def test_numbers_that_are_none_go_both_ways(call):
    answer = call("POST", "/v1/models/half_plus_three:predict", b'{"inputs": [NaN, -Infinity, 1]}')
    assert answer.text.replace(" ", "") == '{"outputs":[NaN,-Infinity,3.5]}'


@pytest.mark.parametrize("where", ["/versions/123", "/versions/00123", "/labels/stable", ""])
def test_versions_and_labels_are_part_of_the_path(call, where):
    answer = call("POST", f"/v1/models/half_plus_three{where}:predict", {"instances": [1]})
    assert answer.json() == {"predictions": [3.5]}


def test_paths_ignore_case_and_names_may_be_percent_encoded(call):
    answer = call("POST", "/V1/Models/a%20b%2F%C3%A4:PREDICT", {"instances": [1]})
    assert answer.json() == {"predictions": [3.5]}


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v1/models/m:predict", 400, "Malformed request: GET /v1/models/m:predict"),
        ("PUT", "/v1/models/m:predict", 400, "Malformed request: PUT /v1/models/m:predict"),
        ("POST", "/v1/models/m/metadata", 400, "Malformed request: POST /v1/models/m/metadata"),
        ("POST", "/v1/models/m:guess", 400, "Malformed request: POST /v1/models/m:guess"),
        ("POST", "/v1/models/m/versions/x:predict", 400, "Malformed request: "),
        ("POST", "/v1/models/m/versions/1/labels/a:predict", 400, "Malformed request: "),
        ("POST", "/v1/models/m:predict?a=1", 400, "Malformed request: "),
        ("GET", "/v1/other", 400, "Malformed request: GET /v1/other"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/no", 404, "Could not find any versions of model no"),
        (
            "GET",
            "/v1/models/half_plus_three/versions/7",
            404,
            "Could not find version 7 of model half_plus_three",
        ),
        ("GET", "/v1/models/no/metadata", 404, "Servable not found for request: Latest(no)"),
        ("GET", "/v1/models/no/versions/99999999999999999999", 400, "Failed to convert version"),
    ],
)
def test_paths_that_lead_nowhere(call, method, path, status, message):
    answer = call(method, path)
    assert answer.status_code == status
    assert message in answer.json()["error"]


def test_outside_the_api_there_is_html(call):
    answer = call("GET", "/elsewhere")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("no:predict", b"{", 400, "JSON Parse error: "),
        ("no:predict", b"", 400, "JSON Parse error: The document is empty"),
        ("no:predict", b"[]", 400, "JSON Value: [] Is not object"),
        ("no:predict", b"{}", 404, "Servable not found for request: Latest(no)"),
        (
            "no/versions/9:predict",
            b"{}",
            404,
            "Servable not found for request: Specific(no, 9)",
        ),
        (
            "half_plus_three/labels/x:predict",
            b"{}",
            400,
            "Unrecognized servable version label: x",
        ),
        (
            "half_plus_three:predict",
            b'{"signature_name": 1}',
            400,
            "'signature_name' key must be a string value.",
        ),
        (
            "half_plus_three:predict",
            b'{"signature_name": "no"}',
            400,
            'Serving signature name: "no" not found in signature def',
        ),
        ("half_plus_three:predict", b"{}", 400, "Missing 'inputs' or 'instances' key"),
        ("kinds:predict", b'{"instances": [[1]]}', 400, "expected shape [?,4,4,3]"),
        (
            "kinds:predict",
            b'{"signature_name": "echo_float16", "inputs": [1]}',
            501,
            "Conversion of JSON Value: 1 to type: half",
        ),
        ("half_plus_three:regress", b"{}", 400, "key 'examples' is expected and was not found"),
        (
            "half_plus_three:regress",
            b'{"signature_name": "no", "examples": [{"x": 1}]}',
            400,
            "No signature was found with the name: no",
        ),
        ("half_plus_three:classify", b'{"examples": [1]}', 400, "Example must be JSON object"),
    ],
)
def test_requests_that_cannot_be_answered(call, path, body, status, message):
    answer = call("POST", f"/v1/models/{path}", body)
    assert answer.headers["Content-Type"] == "application/json"
    assert message in answer.json()["error"]
    assert answer.status_code == status


def test_classify_gives_labels_with_scores(call):
    body = {"signature_name": "classify_x_to_y", "examples": [{"x": 2.0}]}
    answer = predict(call, body, verb="classify")
    assert answer == (200, {"results": [[["small", -4.0], ["large", 4.0]]]})


def test_a_context_is_shared_by_the_examples(call):
    body = {"signature_name": "regress_x_to_y", "context": {"x": 2.0}, "examples": [{}, {}]}
    assert predict(call, body, verb="regress") == (200, {"results": [4.0, 4.0]})


def test_metadata_is_printed_as_upstream_prints_it(call):
    answer = call("GET", "/v1/models/half_plus_three/metadata").json()
    spec = {"name": "half_plus_three", "signature_name": "", "version": "123"}
    assert answer["model_spec"] == spec
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    examples = signatures["regress_x_to_y"]["inputs"]["inputs"]
    assert examples["dtype"] == "DT_STRING"
    assert examples["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    assert signatures["serving_default"]["defaults"] == {}
    assert signatures["serving_default"]["inputs"]["x"]["tensor_shape"]["unknown_rank"] is True
