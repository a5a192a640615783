"""REST beyond single answers: paths, codes, the order of the checks, clients that go away."""

import asyncio
import gc
import json
import socket
import weakref

import grpc
import pytest
import requests

from serving.embedded import calls
from serving.embedded.asgi import Application
from serving.embedded.errors import StatusError
from serving.embedded.metrics import Metrics
from tests.serving import served_models


@pytest.fixture(scope="module")
def served(halves, tmp_path_factory):
    """A server of versions 1 and 2 of a model; a label of version 1 has an odd name."""
    file = tmp_path_factory.mktemp("served") / "models.config"
    more = "model_version_policy { all {} } version_labels { key: 'a b/ä' value: 1 }"
    file.write_text(served_models.listed(("half", halves, more)))
    with served_models.server(model_config_file=str(file)) as server:
        yield server


def call(served, method, path, body=None):
    answer = requests.request(method, f"{served.url}{path}", data=body, timeout=300)
    assert answer.headers["Content-Type"] == "application/json"
    return answer.status_code, answer.json()


@pytest.mark.parametrize(
    ("code", "status"),
    [
        *[("INVALID_ARGUMENT", 400), ("FAILED_PRECONDITION", 400), ("OUT_OF_RANGE", 400)],
        *[("UNAUTHENTICATED", 401), ("PERMISSION_DENIED", 403), ("NOT_FOUND", 404)],
        *[("ALREADY_EXISTS", 409), ("ABORTED", 409), ("RESOURCE_EXHAUSTED", 429)],
        *[("CANCELLED", 499), ("UNIMPLEMENTED", 501), ("UNAVAILABLE", 503)],
        *[("DEADLINE_EXCEEDED", 504), ("INTERNAL", 500), ("UNKNOWN", 500), ("DATA_LOSS", 500)],
    ],
)
def test_every_code_has_its_http_status(code, status):
    answers = Refusing(StatusError(getattr(grpc.StatusCode, code), "why"))
    assert ask(answers, complete) == (status, {"error": "why"})


class Refusing:
    """Fails whatever is asked, and counts how often."""

    def __init__(self, error):
        self.error, self.asked = error, 0

    def compute(self, *_):
        self.asked += 1
        raise self.error


async def complete():
    return {"type": "http.request", "body": b"{}"}


def ask(inference, receive):
    """Send a request for a prediction to the application alone; returns status and answer."""
    scope = {"type": "http", "method": "POST", "raw_path": b"/v1/models/m:predict"}
    scope |= {"query_string": b"", "headers": []}
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(Application(inference, Metrics(), 1)(scope, receive, send))
    start, end = sent
    return start["status"], json.loads(end["body"])


def test_what_nobody_thought_of_is_an_internal_error_without_its_words():
    assert ask(Refusing(RuntimeError("a secret")), complete) == (500, {"error": "internal error"})


@pytest.mark.parametrize(("kind", "status"), [(StatusError, 400), (RuntimeError, 500)])
def test_nothing_of_a_failed_request_waits_for_cycles_to_be_collected(kind, status, monkeypatch):
    monkeypatch.setattr(calls.logging, "exception", lambda *_: None)  # pytest would keep it

    class Body:
        """What frames of the call hold, as they hold the body of the request."""

    class Failing:
        def compute(self, *_):
            body = Body()
            held.append(weakref.ref(body))
            try:
                raise ValueError(body)
            except ValueError:
                raise kind(grpc.StatusCode.INVALID_ARGUMENT, "why") from None

    held = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            assert ask(Failing(), complete)[0] == status
        assert [body() for body in held] == [None] * 3
    finally:
        gc.enable()


def test_a_client_that_goes_away_while_it_sends_is_not_computed_for():
    messages = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive():
        return messages.pop(0)

    answers = Refusing(StatusError(grpc.StatusCode.INTERNAL, "asked"))
    assert ask(answers, receive) == (499, {"error": "the client went away"})
    assert answers.asked == 0


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/v1/models/half"),
        ("PATCH", "/v1/models/half:predict"),
        ("POST", "/v1/models/half"),
        ("POST", "/v1/models"),
        ("GET", "/v1/models/half/"),
        ("GET", "/v1/models/half/other"),
        ("GET", "/v1/models/half/metadata?verbose=1"),
        ("GET", "/v1/models/half/versions/-1"),
        ("GET", "/v1/models/half/versions/1/labels/a"),
        ("GET", "/v1/models/half/metadata/more"),
        ("POST", "/v1/models/half:predict/"),
        ("POST", "/v1/models/half/more:predict"),
        ("POST", "/v1/models/:predict"),
        ("POST", "/v1/models/half/labels/a/versions/1:predict"),
        ("GET", "/v1/"),
    ],
)
def test_what_is_not_the_whole_of_a_known_path_is_malformed(served, method, path):
    assert call(served, method, path) == (400, {"error": f"Malformed request: {method} {path}"})


def test_a_query_is_part_of_the_path(served):
    assert call(served, "GET", "/v1/models/half?a=1") == (
        404,
        {"error": "Could not find any versions of model half?a=1"},
    )


def test_a_version_beyond_int64_is_refused(served):
    largest, beyond = 2**63 - 1, 2**63
    path = "/v1/models/half/versions/{}:predict"
    status, _ = call(served, "POST", path.format(beyond), b'{"instances": [1]}')
    assert status == 400
    assert call(served, "POST", path.format(largest), b'{"instances": [1]}') == (
        404,
        {"error": f"Servable not found for request: Specific(half, {largest})"},
    )


def test_labels_are_percent_decoded(served):
    path = "/v1/models/half/labels/{}:predict"
    answer = call(served, "POST", path.format("a%20b%2F%C3%A4"), b'{"instances": [1]}')
    assert answer == (200, {"predictions": [2.5]})
    assert call(served, "POST", path.format("%C3%A4"), b'{"instances": [1]}') == (
        400,
        {"error": "Unrecognized servable version label: ä"},
    )


def test_the_status_ignores_labels_and_not_versions(served):
    def versions(path):
        status, answer = call(served, "GET", f"/v1/models/half{path}")
        assert status == 200
        return [entry["version"] for entry in answer["model_version_status"]]

    assert versions("") == versions("/labels/none") == ["2", "1"]
    assert versions("/versions/1") == ["1"]


def test_the_metadata_is_that_of_the_version_asked_for(served):
    for where, version in (("", "2"), ("/versions/1", "1"), ("/labels/a%20b%2F%C3%A4", "1")):
        _, answer = call(served, "GET", f"/v1/models/half{where}/metadata")
        assert answer["model_spec"]["version"] == version


@pytest.mark.parametrize(
    ("model", "body", "message"),
    [
        ("no", '{"signature_name": 1', "JSON Parse error: "),
        ("no", '{"signature_name": 1}', "'signature_name' key must be a string value."),
        ("no", '{"signature_name": "no"}', "Servable not found for request: Latest(no)"),
        ("half", '{"signature_name": "no", "inputs": 1, "instances": 1}', '"no" not found in'),
        ("half", '{"inputs": "a", "instances": "a"}', "expecting only one of"),
        ("half", '{"inputs": "a"}', "is not of expected type"),
    ],
)
def test_what_is_wrong_is_looked_for_in_upstreams_order(served, model, body, message):
    assert message in call(served, "POST", f"/v1/models/{model}:predict", body)[1]["error"]


@pytest.mark.parametrize("verb", ["classify", "regress"])
def test_examples_are_refused_like_inputs(served, verb):
    path = f"/v1/models/half:{verb}"
    body = '{"signature_name": "serving_default", "examples": [{"x": 1.0}]}'
    for broken in (b"", b"[]", b'{"examples": []}', b'{"signature_name": 1}', body):
        status, answer = call(served, "POST", path, broken)
        assert (status, list(answer)) == (400, ["error"])
    assert call(served, "POST", f"/v1/models/no:{verb}", body)[0] == 404


def test_an_answers_body_does_not_wait_until_its_head_is_acknowledged(served):
    """Nagle's algorithm is off: with the client's delayed acknowledgement it costs 40 ms."""
    with requests.Session() as session:
        assert session.get(f"{served.url}/v1/models/half", timeout=300).ok
        [connection] = served._rest.server_state.connections
        taken = connection.transport.get_extra_info("socket")
        assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
