"""REST as HTTP: bodies, connections, limits, and what else is served."""

import asyncio
import gzip
import http.client
import json
import shlex
import subprocess
import threading
import time
import tracemalloc

import pytest
import requests

from serving.embedded import bodies, options, servable
from serving.embedded.errors import BodyTooLargeError
from tests.serving import served_models
from tests.serving.rest_calls import predict


def test_bodies_may_be_zipped_chunked_and_of_any_type(rest_served, call):
    body = json.dumps({"instances": [1]}).encode()
    path = "/v1/models/half_plus_three:predict"
    zipped = call("POST", path, gzip.compress(body), headers={"Content-Encoding": "gzip"})
    assert zipped.json() == {"predictions": [3.5]}
    assert call("POST", path, b"x", headers={"Content-Encoding": "gzip"}).status_code == 400
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert call("POST", path, body, headers=form).status_code == 200
    chunks = requests.post(rest_served.url + path, data=iter([body[:5], body[5:]]), timeout=300)
    assert chunks.json() == {"predictions": [3.5]}


ZIPPED = gzip.compress(b'{"instances": [1]}', mtime=0)


@pytest.mark.parametrize(
    ("body", "coding", "status"),
    [
        (ZIPPED, "x-gzip", 200),
        (ZIPPED, "deflate, GZIP", 200),
        (ZIPPED, "identity", 400),
        (ZIPPED[:-1], "gzip", 400),
        (ZIPPED[:-8], "gzip", 400),
        (ZIPPED[:-8] + bytes(8), "gzip", 400),
        (ZIPPED + b"x", "gzip", 400),
        (ZIPPED * 2, "gzip", 400),
        (b"", "gzip", 400),
    ],
    ids=range(9),
)
def test_gzip_is_told_by_its_name_and_whole(call, body, coding, status):
    path = "/v1/models/half_plus_three:predict"
    answer = call("POST", path, body, headers={"Content-Encoding": coding})
    assert answer.status_code == status


def test_a_zipped_body_may_be_as_large_as_its_limit_and_no_larger():
    headers = [(b"content-encoding", b"gzip")]
    body = b" " * 1000
    assert bodies.unzipped(gzip.compress(body), headers, 1000) == body
    with pytest.raises(BodyTooLargeError, match="larger than 999 bytes when unzipped"):
        bodies.unzipped(gzip.compress(body), headers, 999)


def test_a_zipped_bomb_is_refused(call):
    bomb = gzip.compress(b" " * (101 << 20))
    path = "/v1/models/half_plus_three:predict"
    answer = call("POST", path, bomb, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 413
    assert "when unzipped" in answer.json()["error"]


def test_a_body_that_is_too_large_is_refused(rest_served):
    line = f"curl -s -X POST --data-binary @- {rest_served.url}/v1/models/half_plus_three:predict"
    done = subprocess.run(
        shlex.split(line), input=b" " * (9 << 20), capture_output=True, check=False
    )
    assert b"the body is larger than" in done.stdout


def test_expect_100_continue_is_answered(rest_served):
    line = (
        f"curl -s -v -H 'Expect: 100-continue' -d '{{\"instances\": [1]}}'"
        f" {rest_served.url}/v1/models/half_plus_three:predict"
    )
    done = subprocess.run(shlex.split(line), capture_output=True, check=True)
    assert b"100 Continue" in done.stderr
    assert json.loads(done.stdout) == {"predictions": [3.5]}


def test_a_connection_serves_many_requests(rest_served):
    host = rest_served.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=300)
    sockets = set()
    for _ in range(3):
        connection.request("POST", "/v1/models/half_plus_three:predict", b'{"instances": [1]}')
        sockets.add(connection.sock)
        assert connection.getresponse().read() == b'{"predictions":[3.5]}'
    assert len(sockets) == 1
    connection.close()


def test_a_request_that_takes_too_long_is_told(call):
    status, answer = predict(call, {"signature_name": "slow", "inputs": [6000]}, "kinds")
    assert status == 504
    assert answer["error"]


def test_the_time_of_a_request_begins_when_its_body_is_complete(half):
    given = {"rest_api_timeout_in_ms": 3000, "rest_api_body_timeout_in_ms": 60_000}
    with served_models.server(model_base_path=str(half), **given) as server:

        def slowly():
            yield b'{"inst'
            time.sleep(3.5)
            yield b'ances": [2]}'

        answer = requests.post(f"{server.url}/v1/models/default:predict", slowly(), timeout=300)
    assert answer.json() == {"predictions": [3.0]}


def test_more_requests_than_allowed_are_refused_at_once(kinds):
    with served_models.server(
        model_name="kinds",
        model_base_path=str(kinds),
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


def test_what_runs_or_waits_after_its_time_still_counts_and_what_waits_is_not_computed(
    half, monkeypatch
):
    finish, run, begun = threading.Event(), servable.Servable.run, []

    def slowly(*args):
        begun.append(args)
        assert finish.wait(300)
        return run(*args)

    monkeypatch.setattr(servable.Servable, "run", slowly)
    flags = {
        "max_concurrent_requests": 2,
        "rest_api_timeout_in_ms": 1000,
        "rest_api_num_threads": 1,
    }
    body = b'{"instances": [2]}'
    with served_models.server(model_base_path=str(half), **flags) as server:
        url = f"{server.url}/v1/models/default:predict"
        held = server._rest.config.app._bodies
        codes = [requests.post(url, body, timeout=300).status_code for _ in range(3)]
        assert codes == [504, 504, 429]
        assert held._held == 2 * len(body)
        finish.set()
        served_models.wait_for(lambda: held._held == 0)
        assert len(begun) == 1
        assert requests.post(url, body, timeout=300).status_code != 429


def test_a_body_is_held_once():
    left, size = 8, 1 << 20

    async def receive():
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": bytes(size), "more_body": left > 0}

    async def held():
        body = await bodies.Bodies(options.BodyLimits()).read(receive)
        return len(body), tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        whole, memory = asyncio.run(held())
    finally:
        tracemalloc.stop()
    assert whole == 8 * size
    assert memory < 10 * size


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


def test_pages_from_anywhere_may_ask_only_where_that_is_allowed(half, call):
    assert "Access-Control-Allow-Origin" not in call("GET", "/v1/models/half_plus_three").headers
    with served_models.server(
        model_base_path=str(half), rest_api_enable_cors_support=True
    ) as server:
        answer = requests.get(f"{server.url}/v1/models/default", timeout=300)
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        asked = requests.options(f"{server.url}/v1/models/default:predict", timeout=300)
        assert asked.headers["Access-Control-Allow-Methods"] == "POST, GET"
