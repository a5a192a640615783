"""Calls that are given up, compressed or wait: deadlines, cancellation, what gRPC brings."""

import time
from types import SimpleNamespace

import grpc
import keras
import numpy as np
import pytest
import requests
import tensorflow as tf
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
)

from serving.embedded import grpc_api, servable
from serving.embedded.errors import StatusError
from serving.embedded.metrics import Metrics
from tests.serving import served_models

CODES = grpc.StatusCode
LONG = np.float32([3000])  # of the signature `slow`: a minute or more, if nothing ends it


@pytest.fixture(scope="module", params=[False, True], ids=["alone", "batched"])
def served(request, kinds):
    given = {"model_base_path": str(kinds), "rest_api_timeout_in_ms": 500}
    with served_models.server(**given, enable_batching=request.param) as server:
        yield server


@pytest.fixture
def loaded(kinds):
    one = servable.Servable(kinds / "1")
    yield one
    one.close()


def asking(signature, **inputs):
    made = predict_pb2.PredictRequest()
    made.model_spec.name, made.model_spec.signature_name = "default", signature
    for alias, value in inputs.items():
        made.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    return made


def slow(one, seconds):
    """Run the slow signature with a deadline; returns the code of its failure."""
    with pytest.raises(StatusError) as caught:
        one.run("slow", {"seconds": LONG}, ["done"], time.monotonic() + seconds)
    return caught.value.code


def test_a_run_ends_at_its_deadline(loaded):
    assert slow(loaded, 0.2) is CODES.DEADLINE_EXCEEDED


def test_a_run_on_one_thread_ends_at_its_deadline(loaded, monkeypatch):
    monkeypatch.setattr(servable, "_FAR", 1e9)  # no deadline is far off
    monkeypatch.setattr(servable, "_SHORT", 1e9)
    loaded.run("slow", {"seconds": np.float32([0.01])}, ["done"])
    assert slow(loaded, 0.2) is CODES.DEADLINE_EXCEEDED


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(servable, "time", clock)
    return clock


def timed(pace, clock, milliseconds, kind=("predict", 100)):
    """Let a call take that long; returns whether it was taken for a short one."""
    with pace.call(*kind) as short:
        clock.now += milliseconds / 1000
    return short


def test_a_call_is_short_after_one_of_its_kind_was(clock):
    pace = servable._Pace()
    assert [timed(pace, clock, ms) for ms in (50, 3, 50, 50)] == [False, False, True, True]
    assert not timed(pace, clock, 3, ("predict", 10_000))
    assert not timed(pace, clock, 3, ("other", 100))


def test_a_call_that_fails_at_once_does_not_count_as_short(clock):
    pace = servable._Pace()
    with pytest.raises(ValueError, match="refused"), pace.call("predict", 100):
        raise ValueError("refused")
    assert not timed(pace, clock, 50)
    assert not timed(pace, clock, 50)


def test_a_call_is_charged_its_part_of_the_time_that_it_shared(clock):
    pace = servable._Pace()
    with pace.call("long", 1), pace.call("long", 1), pace.call("long", 1):
        timed(pace, clock, 12)  # the fourth of four: 3 ms of its own
    assert timed(pace, clock, 12)


def test_answers_are_the_same_on_one_thread(tmp_path, monkeypatch):
    network = keras.Sequential(
        [keras.Input((16, 16, 3)), keras.layers.Conv2D(8, 3), keras.layers.Flatten()]
    )
    network.export(tmp_path / "1", verbose=False)
    one = servable.Servable(tmp_path / "1")
    pixels = np.random.default_rng(0).uniform(size=(4, 16, 16, 3)).astype(np.float32)
    (alias,), (output,) = one.signature("").inputs, one.signature("").outputs
    for limit in (0.0, 1e9):  # never, and from the second call on
        monkeypatch.setattr(servable, "_SHORT", limit)
        for _ in range(2):
            (found,) = one.run("serving_default", {alias: pixels}, [output])
            np.testing.assert_allclose(found, network(pixels), atol=1e-6)
    one.close()


def test_a_run_ends_at_its_deadline_after_quick_runs_of_other_signatures(loaded, monkeypatch):
    monkeypatch.setattr(servable, "_FAR", 1e-9)  # any deadline is far off for what ran before
    x = np.float32([1])
    for _ in range(2):
        assert loaded.run("echo_float32", {"x": x}, ["x"], time.monotonic() + 300) == [x]
    assert slow(loaded, 0.2) is CODES.DEADLINE_EXCEEDED


def test_what_is_late_already_is_not_run(loaded):
    assert slow(loaded, -1) is CODES.DEADLINE_EXCEEDED


def test_the_server_stops_working_when_a_grpc_client_stops_waiting(served):
    with grpc.insecure_channel(served.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(asking("slow", seconds=LONG), timeout=0.5)
    assert caught.value.code() is CODES.DEADLINE_EXCEEDED
    served_models.wait_for(lambda: not served.manager.model("default").busy)


def test_the_server_stops_working_when_rest_has_answered_that_it_is_too_late(served):
    body = '{"signature_name": "slow", "inputs": [3000]}'
    answer = requests.post(f"{served.url}/v1/models/default:predict", body, timeout=300)
    assert answer.status_code == 504
    served_models.wait_for(lambda: not served.manager.model("default").busy)


class Context:
    """A call of gRPC's that was cancelled before its turn came."""

    def __init__(self):
        self.ended = None

    def is_active(self):
        return False

    def time_remaining(self):
        return None

    def abort(self, code, details):
        self.ended = code, details


@pytest.mark.parametrize(
    "method", ["Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata"]
)
def test_a_call_that_was_cancelled_while_it_waited_for_a_thread_is_not_computed(method):
    asked, context, metrics = [], Context(), Metrics()
    names = ("predict", "classify", "regress", "multi", "metadata")
    answers = SimpleNamespace(**dict.fromkeys(names, lambda *_: asked.append(1)))
    rpc = grpc_api.SERVICES[prediction_service_pb2][method]
    request = SimpleNamespace(model_spec=SimpleNamespace(name="m"), tasks=[])
    grpc_api.answered(method, rpc, answers, metrics, request, context)
    assert context.ended == (CODES.CANCELLED, "cancelled by the client")
    assert asked == []
    assert b'status="CANCELLED"' in metrics.text()


def test_messages_may_be_compressed(served):
    x = np.arange(1000, dtype=np.float32)
    with grpc.insecure_channel(served.address, compression=grpc.Compression.Gzip) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = stub.Predict(asking("echo_float32", x=x), timeout=300)
    np.testing.assert_array_equal(tf.make_ndarray(answer.outputs["x"]), x)


def test_options_of_the_channel_are_grpcs(kinds):
    arguments = "grpc.max_receive_message_length=2000,grpc.primary_user_agent=none"
    with (
        served_models.server(
            model_base_path=str(kinds), grpc_channel_arguments=arguments
        ) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        stub.Predict(asking("echo_float32", x=np.zeros(100, np.float32)), timeout=300)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(asking("echo_float32", x=np.zeros(1000, np.float32)), timeout=300)
    assert caught.value.code() is CODES.RESOURCE_EXHAUSTED
