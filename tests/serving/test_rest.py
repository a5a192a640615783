"""The embedded server over REST, held to each row of the protocol's tables."""

import base64
import gzip
import http.client
import json
import shlex
import subprocess
import threading

import numpy as np
import pytest
import requests
import tensorflow as tf

from tests.serving import served_models


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server of half_plus_two (version 123, as in upstream's documentation) and of all kinds."""
    base = tmp_path_factory.mktemp("served")
    for name in ("half", "kinds"):
        (base / name).mkdir()
    served_models.half_plus(base / "half" / "00000123", 3)
    served_models.all_kinds(base / "kinds" / "1")
    models, monitoring = base / "models.config", base / "monitoring.config"
    models.write_text(
        served_models.listed(
            ("half_plus_three", base / "half", "version_labels { key: 'stable' value: 123 }"),
            ("kinds", base / "kinds"),
            ("a b/ä", base / "half"),
        )
    )
    monitoring.write_text("prometheus_config { enable: true }")
    with served_models.server(
        model_config_file=str(models),
        monitoring_config_file=str(monitoring),
        rest_api_timeout_in_ms=3000,
        rest_api_max_body_mib=8,
    ) as server:
        server.base = base
        yield server


@pytest.fixture(scope="module")
def call(served):
    session = requests.Session()

    def send(method, path, body=None, **options):
        data = body if isinstance(body, bytes | None) else json.dumps(body)
        return session.request(method, served.url + path, data=data, timeout=300, **options)

    return send


def predict(call, body, model="half_plus_three", verb="predict"):
    answer = call("POST", f"/v1/models/{model}:{verb}", body)
    assert answer.headers["Content-Type"] == "application/json"
    return answer.status_code, answer.json()


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
def test_the_lines_of_upstreams_documentation_work_as_printed(served, line, answer):
    port = served.url.rpartition(":")[2]
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
    status, found = predict(call, {"signature_name": "two", "instances": rows}, "kinds")
    assert status == 200
    assert found["predictions"][0] == {
        "sum": 3.0,
        "text": "p",
        "text_bytes": {"b64": "cA=="},
        "twice": [2.0, 4.0],
    }
    assert found["predictions"][1]["text_bytes"] == b64
    columns = {"a": [[1, 2], [3, 4]], "b": ["p", "q"]}
    status, found = predict(call, {"signature_name": "two", "inputs": columns}, "kinds")
    assert found["outputs"]["sum"] == [3.0, 7.0]
    assert found["outputs"]["text"] == ["p", "q"]


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
    found = predict(call, body, verb="classify")
    assert found == (200, {"results": [[["small", -4.0], ["large", 4.0]]]})


def test_a_context_is_shared_by_the_examples(call):
    body = {"signature_name": "regress_x_to_y", "context": {"x": 2.0}, "examples": [{}, {}]}
    assert predict(call, body, verb="regress") == (200, {"results": [4.0, 4.0]})


def test_metadata_is_printed_as_upstream_prints_it(call):
    found = call("GET", "/v1/models/half_plus_three/metadata").json()
    spec = {"name": "half_plus_three", "signature_name": "", "version": "123"}
    assert found["model_spec"] == spec
    signatures = found["metadata"]["signature_def"]["signature_def"]
    one = signatures["regress_x_to_y"]["inputs"]["inputs"]
    assert one["dtype"] == "DT_STRING"
    assert one["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    assert signatures["serving_default"]["defaults"] == {}
    assert signatures["serving_default"]["inputs"]["x"]["tensor_shape"]["unknown_rank"] is True


def test_bodies_may_be_zipped_chunked_and_of_any_type(served, call):
    body = json.dumps({"instances": [1]}).encode()
    path = "/v1/models/half_plus_three:predict"
    zipped = call("POST", path, gzip.compress(body), headers={"Content-Encoding": "gzip"})
    assert zipped.json() == {"predictions": [3.5]}
    assert call("POST", path, b"x", headers={"Content-Encoding": "gzip"}).status_code == 400
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert call("POST", path, body, headers=form).status_code == 200
    chunks = requests.post(served.url + path, data=iter([body[:5], body[5:]]), timeout=300)
    assert chunks.json() == {"predictions": [3.5]}


def test_a_zipped_bomb_is_refused(call):
    bomb = gzip.compress(b" " * (101 << 20))
    path = "/v1/models/half_plus_three:predict"
    answer = call("POST", path, bomb, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 413
    assert "when unzipped" in answer.json()["error"]


def test_a_body_that_is_too_large_is_refused(served):
    line = f"curl -s -X POST --data-binary @- {served.url}/v1/models/half_plus_three:predict"
    done = subprocess.run(
        shlex.split(line), input=b" " * (9 << 20), capture_output=True, check=False
    )
    assert b"the body is larger than" in done.stdout


def test_expect_100_continue_is_answered(served):
    line = (
        f"curl -s -v -H 'Expect: 100-continue' -d '{{\"instances\": [1]}}'"
        f" {served.url}/v1/models/half_plus_three:predict"
    )
    done = subprocess.run(shlex.split(line), capture_output=True, check=True)
    assert b"100 Continue" in done.stderr
    assert json.loads(done.stdout) == {"predictions": [3.5]}


def test_a_connection_serves_many_requests(served):
    host = served.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=300)
    sockets = set()
    for _ in range(3):
        connection.request("POST", "/v1/models/half_plus_three:predict", b'{"instances": [1]}')
        sockets.add(connection.sock)
        assert connection.getresponse().read() == b'{"predictions":[3.5]}'
    assert len(sockets) == 1
    connection.close()


def test_a_request_that_takes_too_long_is_told(call):
    status, found = predict(call, {"signature_name": "slow", "inputs": [6000]}, "kinds")
    assert status == 504
    assert found["error"]


def test_more_requests_than_allowed_are_refused_at_once(served):
    kinds = str(served.base / "kinds")
    with served_models.server(
        model_name="kinds",
        model_base_path=kinds,
        max_concurrent_requests=1,
        rest_api_timeout_in_ms=3000,
    ) as server:
        url = f"{server.url}/v1/models/kinds:predict"
        slow = '{"signature_name": "slow", "inputs": [6000]}'
        first = threading.Thread(target=requests.post, args=(url, slow), kwargs={"timeout": 60})
        first.start()
        served_models.wait_for(lambda: server.manager.model("kinds").busy)
        body = '{"signature_name": "echo_float32", "inputs": [1]}'
        answer = requests.post(url, body, timeout=300)
        assert answer.status_code == 429
        assert answer.json() == {"error": "too many requests at a time"}
        first.join()


def test_deeply_nested_lists_are_an_error(call):
    body = b'{"instances": ' + b"[" * 900 + b"1" + b"]" * 900 + b"}"
    status = call("POST", "/v1/models/half_plus_three:predict", body).status_code
    assert status == 400
    body = b'{"instances": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert call("POST", "/v1/models/half_plus_three:predict", body).status_code == 400


def test_prometheus_reads_upstreams_names(call):
    predict(call, {"instances": [1]})
    predict(call, {"instances": [1]}, model="no-such")
    answer = call("GET", "/monitoring/prometheus/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    lines = answer.text.splitlines()
    one = ':tensorflow:serving:request_count{model_name="half_plus_three",status="OK"} '
    assert sum(line.startswith(one) for line in lines) == 1
    latency = ':tensorflow:serving:request_latency_bucket{API="predict",entrypoint="REST",le="10.0"'
    assert any(line.startswith(latency) for line in lines)
    assert "no-such" not in answer.text


def test_pages_from_anywhere_may_ask_only_where_that_is_allowed(served, call):
    assert "Access-Control-Allow-Origin" not in call("GET", "/v1/models/half_plus_three").headers
    with served_models.server(
        model_base_path=str(served.base / "half"), rest_api_enable_cors_support=True
    ) as server:
        answer = requests.get(f"{server.url}/v1/models/default", timeout=300)
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        asked = requests.options(f"{server.url}/v1/models/default:predict", timeout=300)
        assert asked.headers["Access-Control-Allow-Methods"] == "POST, GET"
