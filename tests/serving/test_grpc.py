"""The embedded server over gRPC, held to each row of the protocol's tables."""

import threading
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from tests.serving import served_models

CODES = grpc.StatusCode


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server of half_plus_two (versions 1 and 2) and of all kinds of signatures."""
    base = tmp_path_factory.mktemp("served")
    for name in ("half", "kinds"):
        (base / name).mkdir()
    served_models.half_plus(base / "half" / "1", 2)
    served_models.half_plus(base / "half" / "2", 3)
    served_models.all_kinds(base / "kinds" / "1")
    file = base / "models.config"
    more = "model_version_policy { all {} } version_labels { key: 'stable' value: 1 }"
    models = ("half", base / "half", more), ("kinds", base / "kinds")
    file.write_text(served_models.listed(*models))
    with served_models.server(model_config_file=str(file)) as server:
        server.base = base
        yield server


@pytest.fixture(scope="module")
def channel(served):
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(served.address, options) as channel:
        yield channel


@pytest.fixture(scope="module")
def predictions(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def models(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


def request(name="half", signature="", version=None, label=None, kind=None, **inputs):
    made = (kind or predict_pb2.PredictRequest)()
    made.model_spec.name, made.model_spec.signature_name = name, signature
    if version is not None:
        made.model_spec.version.value = version
    if label is not None:
        made.model_spec.version_label = label
    for alias, value in inputs.items():
        made.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    return made


def x(*values):
    return np.array(values, np.float32)


def error(call, made, **options):
    with pytest.raises(grpc.RpcError) as caught:
        call(made, **options)
    return caught.value.code(), caught.value.details()


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
    found = predictions.Predict(made).outputs
    assert set(found) == {"twice", "sum"}
    assert list(found["sum"].float_val) == [2, 2]


ECHOED = ["float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint32"]


@pytest.mark.parametrize("name", [*ECHOED, "uint64", "bool"])
def test_every_dtype_goes_in_and_out(predictions, name):
    value = np.array([[0, 1, 1]]).astype(name)
    answer = predictions.Predict(request("kinds", f"echo_{name}", x=value)).outputs["x"]
    found = tf.make_ndarray(answer)
    assert found.dtype == value.dtype
    np.testing.assert_array_equal(found, value)


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
    found, details = error(predictions.Predict, made)
    assert found is code
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


def examples(kind, signature, *values):
    made = request(signature=signature, kind=kind)
    made.input.example_list.examples.extend(served_models.example(x=value) for value in values)
    return made


def test_classify_gives_labels_and_scores(predictions):
    made = examples(classification_pb2.ClassificationRequest, "classify_x_to_y", 2, 4)
    answer = predictions.Classify(made)
    found = [
        [(each.label, each.score) for each in one.classes] for one in answer.result.classifications
    ]
    assert found == [[("small", -4), ("large", 4)], [("small", -5), ("large", 5)]]
    assert answer.model_spec.signature_name == "classify_x_to_y"
    assert answer.model_spec.version.value == 2


def test_regress_gives_a_value_for_each_example_with_or_without_context(predictions):
    made = examples(regression_pb2.RegressionRequest, "regress_x_to_y", 2, 4)
    values = [each.value for each in predictions.Regress(made).result.regressions]
    assert values == [4, 5]
    made = request(signature="regress_x_to_y", kind=regression_pb2.RegressionRequest)
    made.input.example_list_with_context.context.CopyFrom(served_models.example(x=6))
    made.input.example_list_with_context.examples.add()
    assert [each.value for each in predictions.Regress(made).result.regressions] == [6]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (request(signature="regress_x_to_y", kind=regression_pb2.RegressionRequest), "is empty"),
        (
            examples(regression_pb2.RegressionRequest, "no", 1),
            "No signature was found with the name: no",
        ),
        (examples(regression_pb2.RegressionRequest, "", 1), "No regression inputs found"),
        (examples(regression_pb2.RegressionRequest, "classify_x_to_y", 1), "one output Tensor"),
    ],
)
def test_examples_need_a_signature_that_takes_them(predictions, made, message):
    code, details = error(predictions.Regress, made)
    assert code in (CODES.INVALID_ARGUMENT, CODES.FAILED_PRECONDITION)
    assert message in details


def multi(*tasks):
    made = inference_pb2.MultiInferenceRequest()
    for method, signature, name in tasks:
        task = made.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = name, signature
    made.input.example_list.examples.append(served_models.example(x=2))
    return made


def test_several_tasks_share_the_examples(predictions):
    tasks = ("regress", "regress_x_to_y", "half"), ("classify", "classify_x_to_y", "half")
    first, second = predictions.MultiInference(multi(*tasks)).results
    assert first.regression_result.regressions[0].value == 4
    assert second.classification_result.classifications[0].classes[1].score == 4
    assert second.model_spec.signature_name == "classify_x_to_y"


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ((), "at least one task"),
        ([("regress", "regress_x_to_y", "half")] * 2, "Duplicate evaluation of signature"),
        ([("regress", "regress_x_to_y", "half"), ("regress", "", "kinds")], "the same model name"),
        ([("predict", "", "half")], "Unsupported signature method_name"),
    ],
)
def test_tasks_that_do_not_go_together_are_told(predictions, tasks, message):
    assert message in error(predictions.MultiInference, multi(*tasks))[1]


def test_metadata_holds_all_signatures(predictions):
    made = request(kind=get_model_metadata_pb2.GetModelMetadataRequest)
    assert error(predictions.GetModelMetadata, made)[1] == (
        "GetModelMetadataRequest must specify at least one metadata_field"
    )
    made.metadata_field.append("signature_def")
    answer = predictions.GetModelMetadata(made)
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("half", 2)
    found = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(found)
    assert found.signature_def["serving_default"].inputs["x"].dtype == 1
    made.metadata_field.append("more")
    assert error(predictions.GetModelMetadata, made) == (
        CODES.INVALID_ARGUMENT,
        "Metadata field more is not supported",
    )


def status(name="half", version=None):
    return request(name, version=version, kind=get_model_status_pb2.GetModelStatusRequest)


def test_status_lists_versions_newest_first(models):
    found = models.GetModelStatus(status()).model_version_status
    assert [(each.version, each.state) for each in found] == [(2, 30), (1, 30)]
    assert found[0].status.error_code == 0
    (one,) = models.GetModelStatus(status(version=1)).model_version_status
    assert one.version == 1
    assert error(models.GetModelStatus, status("no")) == (
        CODES.NOT_FOUND,
        "Could not find any versions of model no",
    )
    assert error(models.GetModelStatus, status(version=7)) == (
        CODES.NOT_FOUND,
        "Could not find version 7 of model half",
    )


def reload(*configs):
    made = model_management_pb2.ReloadConfigRequest()
    for name, base, labels in configs:
        one = made.config.model_config_list.config.add(name=name, base_path=str(base))
        one.model_version_policy.all.SetInParent()
        for label, version in labels.items():
            one.version_labels[label] = version
    return made


def test_models_are_changed_by_a_request(served, predictions, models):
    half, kinds = served.base / "half", served.base / "kinds"
    try:
        models.HandleReloadConfigRequest(
            reload(("half", half, {"stable": 2}), ("kinds", kinds, {}), ("new", half, {}))
        )
        assert predictions.Predict(request("new", x=x(1))).model_spec.version.value == 2
        answer = predictions.Predict(request(label="stable", x=x(1)))
        assert answer.model_spec.version.value == 2
        late = reload(("half", half, {"next": 3}), ("kinds", kinds, {}))
        assert error(models.HandleReloadConfigRequest, late) == (
            CODES.FAILED_PRECONDITION,
            "Request to assign label next to version 3 of model half, which is not currently"
            " available for inference",
        )
        none = model_management_pb2.ReloadConfigRequest()
        code, details = error(models.HandleReloadConfigRequest, none)
        assert code is CODES.INVALID_ARGUMENT
        assert "Only ModelConfigList is currently supported" in details
    finally:
        models.HandleReloadConfigRequest(
            reload(("half", half, {"stable": 1}), ("kinds", kinds, {}))
        )
    assert error(predictions.Predict, request("new", x=x(1)))[0] is CODES.NOT_FOUND


def test_a_model_that_cannot_be_loaded_is_told_when_models_are_changed(served, models, tmp_path):
    (tmp_path / "bad" / "1").mkdir(parents=True)
    half, kinds = served.base / "half", served.base / "kinds"
    kept = [("half", half, {"stable": 1}), ("kinds", kinds, {})]
    try:
        made = reload(*kept, ("bad", tmp_path / "bad", {}))
        code, details = error(models.HandleReloadConfigRequest, made)
        assert code is CODES.UNKNOWN
        assert details.startswith("1 servable(s) did not become available: {bad: Could not load")
        (found,) = models.GetModelStatus(status("bad")).model_version_status
        assert (found.state, found.status.error_code) == (50, found.status.error_code or -1)
        assert models.GetModelStatus(status()).model_version_status[0].state == 30
    finally:
        models.HandleReloadConfigRequest(reload(*kept))


def test_more_requests_than_allowed_are_refused_at_once(served):
    with (
        served_models.server(
            model_name="kinds",
            model_base_path=str(served.base / "kinds"),
            max_concurrent_requests=1,
        ) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        first = stub.Predict.future(request("kinds", "slow", seconds=x(6000)), timeout=4)
        served_models.wait_for(lambda: server.manager.model("kinds").busy)
        code, _ = error(stub.Predict, request("kinds", "echo_float32", x=x(1)))
        assert first.code() is CODES.DEADLINE_EXCEEDED
        assert code is CODES.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("service", ["", "ModelService", "PredictionService"])
def test_the_health_service_knows_the_services(channel, service):
    stub = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


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


def test_tensor_content_is_answered_where_that_is_asked_for(served):
    with (
        served_models.server(
            model_name="half",
            model_base_path=str(served.base / "half"),
            enable_serialization_as_tensor_content=True,
        ) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = stub.Predict(request(x=x(1))).outputs["y"]
        assert np.frombuffer(answer.tensor_content, np.float32) == [3.5]


def test_with_batching_many_clients_get_their_own_answers(served, tmp_path):
    file = tmp_path / "batching.config"
    file.write_text("max_batch_size { value: 16 } batch_timeout_micros { value: 2000 }")
    with (
        served_models.server(
            model_name="half",
            model_base_path=str(served.base / "half"),
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
