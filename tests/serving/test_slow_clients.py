"""Clients that are slow, silent, many, or send headers without end."""

import logging
import socket
import time
from contextlib import ExitStack, contextmanager

import grpc
import pytest
import requests
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.embedded import connections
from tests.serving import served_models
from tests.serving.grpc_calls import error, request

PREDICT = "/v1/models/default:predict"
HEAD = f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{{".encode()
FLAGS = {
    "rest_api_header_timeout_in_ms": 400,
    "rest_api_body_timeout_in_ms": 400,
    "rest_api_max_connections": 20,
    "rest_api_max_header_kib": 8,
    "rest_api_max_body_mib": 1,
    "rest_api_max_bodies_mib": 2,
    "max_concurrent_requests": 5,
    "max_filled_tensor_mib": 1,
}


@pytest.fixture(scope="module")
def served(half):
    with served_models.server(model_base_path=str(half), **FLAGS) as server:
        yield server


@contextmanager
def opened(server, *sent):
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as one:
        one.settimeout(60)
        for text in sent:
            one.sendall(text)
        yield one


def rest(one):
    """Return what still comes, until the server closes; dropped at once, the rest is lost."""
    parts = []
    try:
        while part := one.recv(1 << 16):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def answers(server):
    answer = requests.post(server.url + PREDICT, json={"instances": [2.0]}, timeout=60)
    return answer.status_code == 200 and answer.json() == {"predictions": [3.0]}


@pytest.mark.parametrize(
    "sent", [(), (b"G",), (b"GET / HTTP/1.1\r\nHost: a\r\nA:",)], ids=["silent", "byte", "header"]
)
def test_whoever_is_silent_before_the_end_of_headers_is_dropped(served, sent):
    with opened(served, *sent) as one:
        begin = time.monotonic()
        assert rest(one) == b""
        assert time.monotonic() - begin > 0.3
    assert answers(served)


def test_a_byte_now_and_then_gains_no_time(served):
    with opened(served, b"GET / HTTP/1.1\r\nA: ") as one:
        one.settimeout(0.05)
        with pytest.raises((ConnectionError, BrokenPipeError)):  # noqa: PT012
            for _ in range(1000):
                one.sendall(b"x")
                try:
                    if one.recv(1) == b"":
                        raise ConnectionError
                except TimeoutError:
                    pass


def test_between_two_requests_a_connection_may_be_silent_for_longer_than_before_the_first(served):
    head = b"HEAD /models.json HTTP/1.1\r\nHost: a\r\n\r\n"
    with opened(served, head) as one:
        assert one.recv(1 << 16).startswith(b"HTTP/1.1 200")
        time.sleep(3)  # more than the limit of headers, and two looks for those that are overdue
        one.sendall(head[:9])
        time.sleep(0.1)
        one.sendall(head[9:])
        assert one.recv(1 << 16).startswith(b"HTTP/1.1 200")
        one.sendall(b"G")
        assert rest(one) == b""  # headers have their own limit
    assert served._rest.config.timeout_keep_alive == 75  # uvicorn's own are 5 s


def test_silence_between_two_requests_has_a_limit_of_its_own(half):
    flags = {**FLAGS, "rest_api_idle_timeout_in_ms": 300}
    with (
        served_models.server(model_base_path=str(half), **flags) as server,
        opened(server, b"GET /v1/models/default HTTP/1.1\r\nHost: a\r\n\r\n") as one,
    ):
        begin = time.monotonic()
        assert rest(one).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - begin > 0.25


def test_a_body_that_does_not_come_is_told_and_the_connection_dropped(served):
    with opened(served, HEAD) as one:
        said = rest(one)
    assert said.startswith(b"HTTP/1.1 504")
    assert b"Timed out: the body is incomplete" in said


@pytest.mark.parametrize("sent", [b"", b"G", HEAD], ids=["silent", "byte", "body"])
def test_slow_clients_lock_nobody_out(half, sent):
    flags = {
        **FLAGS,
        "rest_api_header_timeout_in_ms": 60_000,
        "rest_api_body_timeout_in_ms": 60_000,
    }
    with served_models.server(model_base_path=str(half), **flags) as server, ExitStack() as stack:
        held = [stack.enter_context(opened(server, sent)) for _ in range(60)]
        assert answers(server)
        assert len(server._connections) <= 20
        assert rest(held[0]) == b""  # the longest silent made room
        held[-1].settimeout(0.01)
        with pytest.raises(TimeoutError):
            held[-1].recv(1)


@pytest.mark.parametrize(
    "text",
    [
        b"GET / HTTP/1.1\r\nA: " + b"a" * 9000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 2000 + b"\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"a" * 300_000,
        b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 2000,
    ],
    ids=["one", "many", "path", "endless", "trailers"],
)
def test_headers_are_limited(served, text):
    with opened(served, text) as one:
        said = rest(one)
    assert not said or b" 431 " in said or b" 404 " in said
    assert answers(served)


def test_small_pieces_of_a_body_are_no_headers(served):
    body = (
        b'{"instances": [2.0]}' + b" " * 4_000
    )  # with their sizes, three times what headers may be
    pieces = (body[i : i + 1] for i in range(len(body)))
    answer = requests.post(served.url + PREDICT, data=pieces, timeout=60)
    assert answer.json() == {"predictions": [3.0]}


def test_bodies_together_are_limited(half):
    flags = {**FLAGS, "rest_api_body_timeout_in_ms": 60_000}
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n".encode()
    with served_models.server(model_base_path=str(half), **flags) as server, ExitStack() as stack:
        held = [stack.enter_context(opened(server, head + b" " * 800_000)) for _ in range(2)]
        bodies = server._rest.config.app._bodies
        served_models.wait_for(lambda: bodies._held == 1_600_000)
        answer = requests.post(server.url + PREDICT, b" " * 700_000, timeout=60)
        assert answer.status_code == 429
        assert "the bodies of all requests" in answer.json()["error"]
        for one in held:
            one.close()
        served_models.wait_for(lambda: bodies._held == 0)
        assert answers(server)


def tensor(shape, dtype=1):
    made = predict_pb2.PredictRequest()
    made.model_spec.name = "default"
    made.inputs["x"].dtype = dtype
    for size in shape:
        made.inputs["x"].tensor_shape.dim.add(size=size)
    return made


def test_shapes_without_values_are_limited(served):
    with grpc.insecure_channel(served.address) as channel:
        call = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        for made in (tensor([(1 << 18) + 1]), tensor([1 << 31]), tensor([1 << 16, 1], 7)):
            code, details = error(call, made)
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert details == (
                "shapes without values declare more than 1048576 bytes: x; valid: send the values"
            )
        for shape in ([2**62] * 1000, [1] * 100_000):
            assert error(call, tensor(shape))[1] == "tensor parsing error: x"
        one = request("default", x=[2.0])
        one.inputs["x"].tensor_shape.dim[0].size = 1 << 18
        assert list(call(one).outputs["y"].float_val[-1:]) == [3.0]


def test_grpc_connections_are_limited_and_must_speak(half):
    with served_models.server(model_base_path=str(half), grpc_max_connections=3) as server:
        with ExitStack() as stack:
            for _ in range(5):
                where = "127.0.0.1", server.port
                stack.enter_context(socket.create_connection(where))
            assert answers(server)
        with grpc.insecure_channel(server.address) as channel:
            grpc.channel_ready_future(channel).result(60)


def test_a_grpc_connection_too_many_is_closed_until_another_one_ends(half):
    own = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each channel
    with served_models.server(model_base_path=str(half), grpc_max_connections=3) as server:
        channels = [grpc.insecure_channel(server.address, own) for _ in range(3)]
        for channel in channels:
            grpc.channel_ready_future(channel).result(60)
        with socket.create_connection(("127.0.0.1", server.port)) as one:
            one.settimeout(60)
            assert rest(one) == b""  # no word of HTTP/2
        stubs = [prediction_service_pb2_grpc.PredictionServiceStub(one) for one in channels]
        assert all(call.Predict(request("default", x=[2.0]), timeout=60) for call in stubs)
        with grpc.insecure_channel(server.address, own) as late:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(late)
            code, _ = error(stub.Predict, request("default", x=[2.0]), timeout=60)
            assert code is grpc.StatusCode.UNAVAILABLE
            channels.pop().close()
            made = request("default", x=[2.0])
            assert stub.Predict(made, timeout=60, wait_for_ready=True).outputs["y"].float_val == [3]
        for channel in channels:
            channel.close()


def test_a_line_of_the_log_comes_once_a_minute():
    written = []
    logger = logging.getLogger("test.rarely")
    handler = logging.Handler()
    handler.emit = lambda record: written.append(logger.name and handler.format(record))
    logger.addHandler(handler)
    logger.addFilter(connections.Rarely())
    for _ in range(1000):
        try:
            raise OSError(24, "Too many open files")
        except OSError:
            logger.exception("socket.accept() out of system resource\nsocket: %s", "x" * 1000)
        logger.warning("Invalid HTTP request received.")
    assert written == [
        "socket.accept() out of system resource: Too many open files",
        "Invalid HTTP request received.",
    ]
    logger.removeFilter(logger.filters[0])
    logger.addFilter(connections.Rarely(seconds=0.0))
    logger.warning("again %d", 1)
    logger.warning("again %d", 2)
    assert written[2:] == ["again 1", "again 2"]


def test_there_are_fewer_connections_than_files(monkeypatch):
    asked = []
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: (1024, 2048))
    monkeypatch.setattr(connections.resource, "setrlimit", lambda _, both: asked.append(both))
    assert connections.possible(500) == [500]
    assert connections.possible(200, 300) == [200, 300]
    assert asked == []
    assert connections.possible(500, 300) == [500, 300]
    assert asked == [(1200, 2048)]
    left = 2048 - connections.FILES
    assert connections.possible(10_000) == [left]
    assert connections.possible(9_000, 3_000) == [left * 3 // 4, left // 4]
    assert asked[1:] == [(2048, 2048)] * 2


def test_the_connections_of_grpc_are_counted_among_the_files_where_there_is_no_rest(
    half, monkeypatch
):
    asked = []
    monkeypatch.setattr(connections, "possible", lambda *most: asked.append(most) or list(most))
    given = {"model_base_path": str(half), "grpc_max_connections": 7}
    with served_models.server(**given, rest_api_max_connections=5):
        pass
    with served_models.server(**given, rest_api_port=0):
        pass
    assert asked == [(7, 5), (7,)]
