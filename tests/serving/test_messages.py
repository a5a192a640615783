"""Calls over gRPC whose messages do not come, are many, or are large."""

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import prediction_service_pb2_grpc

from serving.embedded import servable
from serving.embedded.messages import Messages
from tests.serving import served_models
from tests.serving.grpc_calls import error, predict, request

CODES = grpc.StatusCode
PREDICT = "/tensorflow.serving.PredictionService/Predict"
LARGE = np.zeros(150_000, np.float32)  # more than half of a MiB


@pytest.fixture
def served(half):
    """A server that works on two requests at a time; `finish` lets what it computes go on."""
    flags = {"grpc_max_threads": 2, "max_concurrent_requests": 20}
    flags |= {"grpc_max_message_mib": 1, "grpc_max_messages_mib": 1}
    with (
        served_models.server(model_name="half", model_base_path=str(half), **flags) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        server.channel = channel
        server.stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        yield server


@pytest.fixture
def held(monkeypatch):
    """Requests that compute wait for `finish`; `now` lists them."""
    run = servable.Servable.run

    class Held:
        finish, now, most = threading.Event(), [], 0

    def slowly(*args):
        Held.now.append(args)
        Held.most = max(Held.most, len(Held.now))
        assert Held.finish.wait(300)
        answer = run(*args)
        Held.now.pop()
        return answer

    monkeypatch.setattr(servable.Servable, "run", slowly)
    yield Held
    Held.finish.set()


def healthy(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
    return answer.status == health_pb2.HealthCheckResponse.SERVING


def test_calls_that_send_nothing_keep_nobody_out(served):
    end = threading.Event()

    def silent():
        end.wait(300)
        yield from ()

    call = served.channel.stream_unary(PREDICT)
    calls = []
    for _ in range(40):  # twice as many as there may be at a time
        calls.append(call.future(silent()))
        assert predict(served.channel, 2, timeout=60) == [3]
    assert healthy(served.channel)
    assert calls[0].exception(timeout=60).code() is CODES.CANCELLED  # the longest silent made room
    assert not calls[-1].done()
    end.set()
    assert calls[-1].exception(timeout=60).code() is CODES.UNIMPLEMENTED


def test_few_requests_are_worked_on_at_a_time_and_health_is_told_meanwhile(served, held):
    made = request("half", x=[2.0])
    calls = [served.stub.Predict.future(made, timeout=300) for _ in range(6)]
    served_models.wait_for(lambda: len(held.now) == 2)
    assert healthy(served.channel)
    held.finish.set()
    assert [list(call.result().outputs["y"].float_val) for call in calls] == [[3]] * 6
    assert held.most == 2


def test_messages_together_are_limited(served, held):
    made = request("half", x=LARGE)
    first = served.stub.Predict.future(made, timeout=300)
    served_models.wait_for(lambda: len(held.now) == 1)
    assert error(served.stub.Predict, made, timeout=60) == (
        CODES.RESOURCE_EXHAUSTED,
        "the messages of all calls are larger than 1048576 bytes",
    )
    held.finish.set()
    assert len(first.result().outputs["y"].float_val) == len(LARGE)
    assert len(served.stub.Predict(made, timeout=60).outputs["y"].float_val) == len(LARGE)


def test_a_message_that_is_small_until_it_is_unzipped_is_refused(served):
    made = request("half", x=np.concatenate([LARGE, LARGE]))
    code, details = error(served.stub.Predict, made, timeout=60, compression=grpc.Compression.Gzip)
    assert code is CODES.RESOURCE_EXHAUSTED
    assert "larger than max" in details


def test_a_message_is_not_held_beside_what_was_read_from_it():
    messages = Messages(1, 2, 1 << 30)
    tracemalloc.start()
    try:
        arriving = (bytes(1 << 20) for _ in range(1))
        with messages.received(arriving, object(), len, computes=True) as size:
            memory = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert size == 1 << 20
    assert memory < size / 2


def test_a_change_of_the_models_takes_no_place_of_those_that_compute():
    messages = Messages(1, 10, 1 << 30)

    def received(computes):
        with messages.received(iter([b"abc"]), object(), len, computes) as size:
            return size

    with (
        ThreadPoolExecutor(1) as pool,
        messages.received(iter([b"a"]), object(), len, computes=False),
    ):
        assert pool.submit(received, True).result(60) == 3
