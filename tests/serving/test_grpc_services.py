"""Everything but Predict over gRPC: examples, metadata, status, reloads, health."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from tests.serving import served_models
from tests.serving.grpc_calls import error, examples, request, x

CODES = grpc.StatusCode


def test_classify_gives_labels_and_scores(predictions):
    made = examples(classification_pb2.ClassificationRequest, "classify_x_to_y", 2, 4)
    answer = predictions.Classify(made)
    rows = [
        [(entry.label, entry.score) for entry in row.classes]
        for row in answer.result.classifications
    ]
    assert rows == [[("small", -4), ("large", 4)], [("small", -5), ("large", 5)]]
    assert answer.model_spec.signature_name == "classify_x_to_y"
    assert answer.model_spec.version.value == 2


def test_regress_gives_a_value_for_each_example_with_or_without_context(predictions):
    made = examples(regression_pb2.RegressionRequest, "regress_x_to_y", 2, 4)
    values = [entry.value for entry in predictions.Regress(made).result.regressions]
    assert values == [4, 5]
    made = request(signature="regress_x_to_y", kind=regression_pb2.RegressionRequest)
    made.input.example_list_with_context.context.CopyFrom(served_models.example(x=6))
    made.input.example_list_with_context.examples.add()
    assert [entry.value for entry in predictions.Regress(made).result.regressions] == [6]


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
    assert code is CODES.INVALID_ARGUMENT
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
        ((), "ModelSpec has no name specified."),
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
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["serving_default"].inputs["x"].dtype == 1
    made.metadata_field.append("more")
    assert error(predictions.GetModelMetadata, made) == (
        CODES.INVALID_ARGUMENT,
        "Metadata field more is not supported",
    )


def status(name="half", version=None):
    return request(name, version=version, kind=get_model_status_pb2.GetModelStatusRequest)


def test_status_lists_versions_newest_first(models):
    newest, oldest = models.GetModelStatus(status()).model_version_status
    assert [(entry.version, entry.state) for entry in (newest, oldest)] == [(2, 30), (1, 30)]
    assert newest.status.error_code == 0
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


def test_models_are_changed_by_a_request(halves, kinds, predictions, models):
    try:
        models.HandleReloadConfigRequest(
            reload(("half", halves, {"stable": 2}), ("kinds", kinds, {}), ("new", halves, {}))
        )
        assert predictions.Predict(request("new", x=x(1))).model_spec.version.value == 2
        answer = predictions.Predict(request(label="stable", x=x(1)))
        assert answer.model_spec.version.value == 2
        late = reload(("half", halves, {"next": 3}), ("kinds", kinds, {}))
        assert error(models.HandleReloadConfigRequest, late) == (
            CODES.FAILED_PRECONDITION,
            "Request to assign label to version 3 of model half, which is not currently"
            " available for inference",
        )
        none = model_management_pb2.ReloadConfigRequest()
        code, details = error(models.HandleReloadConfigRequest, none)
        assert code is CODES.INVALID_ARGUMENT
        assert "Only ModelConfigList is currently supported" in details
    finally:
        models.HandleReloadConfigRequest(
            reload(("half", halves, {"stable": 1}), ("kinds", kinds, {}))
        )
    assert error(predictions.Predict, request("new", x=x(1)))[0] is CODES.NOT_FOUND


def test_a_model_that_cannot_be_loaded_is_told_when_models_are_changed(
    halves, kinds, models, tmp_path
):
    (tmp_path / "bad" / "1").mkdir(parents=True)
    kept = [("half", halves, {"stable": 1}), ("kinds", kinds, {})]
    try:
        made = reload(*kept, ("bad", tmp_path / "bad", {}))
        code, details = error(models.HandleReloadConfigRequest, made)
        assert code is CODES.UNKNOWN
        assert details.startswith("1 servable(s) did not become available: {bad: Could not load")
        (bad,) = models.GetModelStatus(status("bad")).model_version_status
        assert (bad.state, bad.status.error_code) == (50, bad.status.error_code or -1)
        assert models.GetModelStatus(status()).model_version_status[0].state == 30
    finally:
        models.HandleReloadConfigRequest(reload(*kept))


def test_more_requests_than_allowed_are_refused_at_once(kinds):
    with (
        served_models.server(
            model_name="kinds",
            model_base_path=str(kinds),
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
