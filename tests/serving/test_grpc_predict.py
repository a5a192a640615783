"""Predict over gRPC, held to each row of the protocol's tables."""

import threading
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.serving import served_models
from tests.serving.grpc_calls import error, request, x

CODES = grpc.StatusCode


def test_predict_answers_with_typed_values_and_a_full_model_spec(predictions):
    answer = predictions.Predict(request(x=x(1, 2, 5)))
    assert list(answer.outputs["y"].float_val) == [3.5, 4, 5.5]
    assert [dim.size for dim in answer.outputs["y"].tensor_shape.dim] == [3]
    assert not answer.outputs["y"].tensor_content
    spec = answer.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("half", 2, "serving_default")


@pytest.mark.parametrize("choice", [{"version": 1}, {"label": "stable"}])
def test_a_version_is_chosen_by_number_or_label(predictions, choice):
    answer = predictions.Predict(request(x=x(1), **choice))
    assert list(answer.outputs["y"].float_val) == [2.5]
    assert answer.model_spec.version.value == 1


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_vectors_of_any_rank_are_let_through(predictions, rank):
    answer = predictions.Predict(request(x=np.ones([1] * rank, np.float32)))
    assert list(answer.outputs["y"].float_val) == [3.5]


def test_outputs_may_be_chosen(predictions):
    two = {"a": np.ones([2, 2], np.float32), "b": np.array([b"p", b"q"])}
    made = request("kinds", "two", **two)
    assert set(predictions.Predict(made).outputs) == {"sum", "twice", "text", "text_bytes"}
    made.output_filter.extend(["twice", "sum"])
    outputs = predictions.Predict(made).outputs
    assert set(outputs) == {"twice", "sum"}
    assert list(outputs["sum"].float_val) == [2, 2]


ECHOED = ["float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint32"]


@pytest.mark.parametrize("name", [*ECHOED, "uint64", "bool"])
def test_every_dtype_goes_in_and_out(predictions, name):
    value = np.array([[0, 1, 1]]).astype(name)
    answer = predictions.Predict(request("kinds", f"echo_{name}", x=value)).outputs["x"]
    echoed = tf.make_ndarray(answer)
    assert echoed.dtype == value.dtype
    np.testing.assert_array_equal(echoed, value)


def bad(change, **inputs):
    made = request(**(inputs or {"x": x(1)}))
    change(made)
    return made


def _no_dtype(made):
    made.inputs["x"].dtype = 0


def _negative(made):
    made.inputs["x"].tensor_shape.dim[0].size = -1


def _content(made):
    made.inputs["x"].tensor_content = b"123"


@pytest.mark.parametrize(
    ("made", "code", "message"),
    [
        (predict_pb2.PredictRequest(), CODES.INVALID_ARGUMENT, "Missing ModelSpec"),
        (request(""), CODES.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        (request("no"), CODES.NOT_FOUND, "Servable not found for request: Latest(no)"),
        (request(version=9), CODES.NOT_FOUND, "Servable not found for request: Specific(half, 9)"),
        (
            request("no", version=9),
            CODES.NOT_FOUND,
            "Servable not found for request: Specific(no, 9)",
        ),
        (
            request(label="no"),
            CODES.INVALID_ARGUMENT,
            "Unrecognized servable version label: no",
        ),
        (
            request(signature="no"),
            CODES.FAILED_PRECONDITION,
            'Serving signature key "no" not found.',
        ),
        (
            request(),
            CODES.INVALID_ARGUMENT,
            "input size does not match signature: 0!=1 len({}) != len({x})."
            " Sent extra: {}. Missing but required: {x}.",
        ),
        (
            request(x=x(1), z=x(1)),
            CODES.INVALID_ARGUMENT,
            "input size does not match signature: 2!=1 len({x,z}) != len({x})."
            " Sent extra: {z}. Missing but required: {}.",
        ),
        (request(z=x(1)), CODES.INVALID_ARGUMENT, "Signature input alias: x(feed name: "),
        (bad(_no_dtype), CODES.INVALID_ARGUMENT, "tensor parsing error: x"),
        (bad(_negative), CODES.INVALID_ARGUMENT, "tensor parsing error: x"),
        (bad(_content), CODES.INVALID_ARGUMENT, "tensor parsing error: x"),
        (
            bad(lambda made: made.output_filter.append("no")),
            CODES.INVALID_ARGUMENT,
            "output tensor alias not found in signature: no Outputs expected to be in the set {y}.",
        ),
        (
            bad(lambda made: made.output_filter.extend(["y", "y"])),
            CODES.INVALID_ARGUMENT,
            "duplicate output tensor alias: y",
        ),
        (request(x=np.array([1.0])), CODES.INVALID_ARGUMENT, "double"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else "",
)
def test_requests_that_cannot_be_answered(predictions, made, code, message):
    actual, details = error(predictions.Predict, made)
    assert actual is code
    assert message in details


def test_an_image_of_another_rank_is_refused_and_the_server_lives(predictions):
    for shape in ([4, 4, 3], [1, 1, 4, 4, 3], [0]):
        code, details = error(
            predictions.Predict, request("kinds", pixels=np.zeros(shape, np.float32))
        )
        assert code is CODES.INVALID_ARGUMENT
        assert "expected shape [?,4,4,3]" in details
    answer = predictions.Predict(request("kinds", pixels=np.ones([2, 4, 4, 3], np.float32)))
    assert [dim.size for dim in answer.outputs["out"].tensor_shape.dim] == [2, 2]


def test_a_kernels_own_words_come_without_stacks_and_paths(predictions):
    code, details = error(predictions.Predict, request("kinds", "no_bad", x=x(1, -1)))
    assert code is CODES.INVALID_ARGUMENT
    assert "negative" in details
    assert "Traceback" not in details
    assert ".py" not in details


def test_bytes_that_are_no_image_are_an_invalid_argument(predictions):
    for content in (b"", b"\xff\xd8\xff\xe0 nothing", b"\x89PNG\r\n\x1a\n" + b"\xff" * 50):
        code, _ = error(predictions.Predict, request("kinds", "decode", image_bytes=[content]))
        assert code is CODES.INVALID_ARGUMENT


def test_messages_larger_than_4_mib_go_both_ways(predictions):
    value = np.arange(3 << 20, dtype=np.float32)
    answer = predictions.Predict(request("kinds", "echo_float32", x=value))
    np.testing.assert_array_equal(tf.make_ndarray(answer.outputs["x"]), value)


def test_a_deadline_ends_a_run(predictions):
    begin = time.monotonic()
    code, _ = error(predictions.Predict, request("kinds", "slow", seconds=x(6000)), timeout=0.5)
    assert code is CODES.DEADLINE_EXCEEDED
    assert time.monotonic() - begin < 20


def test_long_messages_are_cut_for_the_trailers(predictions):
    code, details = error(predictions.Predict, request("n" * 5000))
    assert code is CODES.NOT_FOUND
    assert details.endswith("...TRUNCATED")
    assert len(details) == 1024 + len("...TRUNCATED")


def test_bytes_that_are_no_message_do_not_end_the_server(channel, predictions):
    raw = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    with pytest.raises(grpc.RpcError):
        raw(b"\xff\xff\xff not a message")
    assert list(predictions.Predict(request(x=x(1))).outputs["y"].float_val) == [3.5]


def test_tensor_content_is_answered_where_that_is_asked_for(halves):
    with (
        served_models.server(
            model_name="half",
            model_base_path=str(halves),
            enable_serialization_as_tensor_content=True,
        ) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = stub.Predict(request(x=x(1))).outputs["y"]
        assert np.frombuffer(answer.tensor_content, np.float32) == [3.5]


def test_with_batching_many_clients_get_their_own_answers(halves, tmp_path):
    file = tmp_path / "batching.config"
    file.write_text("max_batch_size { value: 16 } batch_timeout_micros { value: 2000 }")
    with (
        served_models.server(
            model_name="half",
            model_base_path=str(halves),
            enable_batching=True,
            batching_parameters_file=str(file),
        ) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub, wrong = prediction_service_pb2_grpc.PredictionServiceStub(channel), []

        def client(n):
            for i in range(20):
                answer = stub.Predict(request(x=x(n, i)))
                if list(answer.outputs["y"].float_val) != [n / 2 + 3, i / 2 + 3]:
                    wrong.append(n)

        threads = [threading.Thread(target=client, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        assert not wrong
        code, details = error(stub.Predict, request(x=np.zeros(17, np.float32)))
        assert code is CODES.INVALID_ARGUMENT
        assert details == "Task size 17 is larger than maximum input batch size 16"
        assert b"processed_batch_size" in server.metrics.text()
