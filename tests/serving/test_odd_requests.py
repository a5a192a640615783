"""What no client should be able to do to the server, whatever it sends."""

import json
import random
import subprocess
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import prediction_service_pb2_grpc

from tests import small_peers
from tests.serving import odd_requests, served_models
from tests.serving.grpc_calls import request, x
from xkd_keras.ship import savedmodel

LIMITLESS = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]


@pytest.fixture(scope="module")
def models(half, kinds, tmp_path_factory):
    """A configuration of three models, the third of pictures, as exports make them."""
    folder = tmp_path_factory.mktemp("fuzz")
    peer, example = small_peers.plain((20, 20, 3), 3), np.zeros((20, 20, 3), np.uint8)
    written = folder / "pictures" / "1"
    savedmodel.write(written, {"a": peer}, {"a": 1.0}, "rgb", 0.5, example, "pictures")
    named = ("default", half), ("kinds", kinds), ("pictures", folder / "pictures")
    models = folder / "models.config"
    models.write_text(served_models.listed(*named))
    return models


@pytest.fixture(scope="module")
def served(models):
    with served_models.server(model_config_file=str(models)) as server:
        server.session, server.silent = requests.Session(), []
        server.rest, server.grpc = int(server.url.rpartition(":")[2]), server.port
        with grpc.insecure_channel(server.address, LIMITLESS) as server.channel:
            yield server
        for one in server.silent:
            one.close()


def answers(served):
    """Whether the server still computes."""
    stub = prediction_service_pb2_grpc.PredictionServiceStub(served.channel)
    return list(stub.Predict(request("default", x=x(2)), timeout=300).outputs["y"].float_val) == [3]


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.fixed_dictionaries({"b64": st.text("QUJD=*", max_size=8)}),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["x", "a", "b", "pixels", "b64"]), inner, max_size=3)
    ),
    max_leaves=12,
)
SIGNATURES = st.sampled_from(
    ["echo_int8", "echo_string", "echo_bool", "echo_uint64", "two", "decode", "no_bad", "", "none"]
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "signature_name": SIGNATURES | LEAVES,
        "instances": VALUES,
        "inputs": VALUES,
        "examples": VALUES,
        "context": VALUES,
    },
)
PATHS = st.sampled_from(
    [
        f"/v1/models/{model}{where}:{verb}"
        for model in ("kinds", "default")
        for where in ("", "/versions/1")
        for verb in ("predict", "classify", "regress")
    ]
)
MANY = 400  # examples of each kind; `pytest -m exhaustive` runs many more


def check(served, path, body):
    answer = served.session.post(served.url + path, body)
    assert answer.status_code in (200, 400, 404, 501)
    assert answer.headers["Content-Type"] == "application/json"
    for leak in ("Traceback", ".py"):  # hypothesis reads this line, too, and may send it
        assert leak not in answer.text or leak.encode() in body


def fuzz_json(served, path, body):
    check(served, path, json.dumps(body).encode())


def fuzz_bytes(served, path, body):
    check(served, path, body)


def fuzz_protos(served, method, body):
    call = served.channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
    error = call.future(body, timeout=300).exception()
    if error is not None:
        assert error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
        assert "Traceback" not in (error.details() or "") or b"Traceback" in body


@st.composite
def messages(draw):
    """Return a PredictRequest, damaged or odd."""
    made = request(draw(st.sampled_from(["default", "kinds"])), x=x(1))
    made.model_spec.signature_name = draw(SIGNATURES)
    tensor = made.inputs[draw(st.sampled_from(["x", "a", "pixels", "image_bytes"]))]
    tensor.dtype = draw(st.integers(0, 30))
    del tensor.tensor_shape.dim[:]
    for size in draw(st.lists(st.integers(-2, 5) | st.integers(0, 2**62), max_size=5)):
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = draw(st.binary(max_size=64))
    tensor.string_val.extend(draw(st.lists(st.binary(max_size=20), max_size=3)))
    tensor.float_val.extend(draw(st.lists(st.floats(width=32), max_size=4)))
    tensor.int_val.extend(draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)))
    content = bytearray(made.SerializeToString())
    for position in draw(st.lists(st.integers(0, len(content) - 1), max_size=2)):
        content[position] = draw(st.integers(0, 255))
    return bytes(content)


METHODS = st.sampled_from(["Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata"])
KINDS = [
    (fuzz_json, PATHS, BODIES),
    (fuzz_bytes, PATHS, st.binary(max_size=200)),
    (fuzz_protos, METHODS, messages()),
    (fuzz_protos, METHODS, st.binary(max_size=100)),
]
IDS = ["json", "bytes", "messages", "bytes-grpc"]


def fuzz(served, call, where, what, **options):
    """Call with what hypothesis thinks of."""

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck), **options)
    @given(where, what)
    def run(path, body):
        call(served, path, body)

    run()


@pytest.mark.parametrize(("call", "where", "what"), KINDS, ids=IDS)
def test_whatever_is_sent_is_answered_and_the_server_lives(served, call, where, what):
    fuzz(served, call, where, what, max_examples=MANY, derandomize=True)
    assert answers(served)


def odd(served, kind, times, source):
    """Send small requests that ask for much."""
    for _ in range(times):
        assert kind(served, source) in odd_requests.KINDS[kind]


@pytest.mark.parametrize("kind", odd_requests.KINDS, ids=lambda kind: kind.__name__)
def test_small_requests_that_ask_for_much_do_not_harm(served, kind):
    odd(served, kind, 5, random.Random(2))
    assert answers(served)


@pytest.mark.exhaustive
def test_ten_thousand_odd_requests_leave_the_server_right_and_its_memory_flat(models, monkeypatch):
    """Of those that ask for much there are 108 among them.

    The least of several rounds is compared: buffers of a hundred megabytes come and go. glibc gives
    them back at once here; by itself it learns to keep larger and larger ones, for 15 rounds.
    """
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "131072")
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    with (
        served_models.Running(f"--model_config_file={models}", errors=subprocess.DEVNULL) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc}", LIMITLESS) as channel,
        requests.Session() as session,
    ):
        served = SimpleNamespace(url=server.root, session=session, channel=channel, silent=[])
        served.rest, served.grpc = server.rest, server.grpc
        used, source = [], random.Random(1)
        for _ in range(9):
            for kind in KINDS:
                fuzz(served, *kind, max_examples=280)
            for kind in odd_requests.KINDS:
                odd(served, kind, 2, source)
            used.append(served_models.resident(server.process.pid))
        for one in served.silent:
            one.close()
        assert answers(served)
        # The first rounds fill what is kept for every shape and thread; a leak would go on.
        assert min(used[6:]) - min(used[3:6]) < 32, used
