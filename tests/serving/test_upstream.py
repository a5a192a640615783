"""What TF Serving documents and tests of itself, on a server that has answered nothing yet.

Sources: docs/api_rest.md and model_servers/tensorflow_model_server_test.py of TF Serving.
"""

import time

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from serving.embedded.errors import StatusError
from serving.embedded.servable import Servable
from tests.serving import grpc_calls, half_plus_two, served_models
from tests.serving.grpc_calls import error, request, x

CODES = grpc.StatusCode
SECONDS = 60.0  # a deadline, as upstream's tests have one; far, as the machine may pause
KINDS = [tf.float32, tf.float64, tf.int8, tf.uint8, tf.int32, tf.int64, tf.bool, tf.string]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    base = tmp_path_factory.mktemp("half_plus_two")
    half_plus_two.write(base / "123")
    return base


@pytest.fixture(params=["", "grpc.max_connection_age_ms=2000,grpc.lb_policy_name=grpclb"])
def served(request, model):
    """A server that has answered nothing; with channel arguments as well."""
    arguments = {"grpc_channel_arguments": request.param}
    with served_models.server(model_base_path=str(model), **arguments) as server:
        yield server


@pytest.fixture
def fresh(model):
    """A server that has answered nothing."""
    with served_models.server(model_base_path=str(model)) as server:
        yield server


def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def post(server, verb, body):
    answer = requests.post(f"{server.url}/v1/models/default:{verb}", json=body, timeout=300)
    return answer.status_code, answer.json()


@pytest.mark.parametrize(
    ("verb", "body", "answer"),
    [
        ("predict", {"instances": [1.0, 2.0, 5.0]}, {"predictions": [2.5, 3.0, 4.5]}),
        ("predict", {"inputs": [2.0, 3.0, 4.0]}, {"outputs": [3.0, 3.5, 4.0]}),
        ("predict", {"instances": [[1.0], [2.0]]}, {"predictions": [[2.5], [3.0]]}),
        ("predict", {"instances": [{"x": 2.0}, {"x": 3.0}]}, {"predictions": [3.0, 3.5]}),
        (
            "classify",
            {"signature_name": "classify_x_to_y", "examples": [{"x": 2.0}]},
            {"results": [[["", 3.0]]]},
        ),
        (
            "regress",
            {"signature_name": "regress_x_to_y", "examples": [{"x": 2.0}]},
            {"results": [3.0]},
        ),
    ],
)
def test_the_documented_requests_are_the_first_that_a_server_answers(fresh, verb, body, answer):
    assert post(fresh, verb, body) == (200, answer)


@pytest.mark.parametrize("seconds", [None, SECONDS])
def test_predict_is_the_first_call_with_a_deadline_or_without(served, seconds):
    made = request("default", x=x(2))
    made.output_filter.append("y")
    with grpc.insecure_channel(served.address) as channel:
        answer = stub(channel).Predict(made, seconds)
    assert list(answer.outputs["y"].float_val) == [3.0]
    assert answer.model_spec.signature_name == "serving_default"
    assert answer.model_spec.version.value == 123


def test_examples_are_the_first_call(fresh):
    with grpc.insecure_channel(fresh.address) as channel:
        tasks = inference_pb2.MultiInferenceRequest()
        for name in ("regress", "classify"):
            task = tasks.tasks.add(method_name=f"tensorflow/serving/{name}")
            task.model_spec.name, task.model_spec.signature_name = "default", f"{name}_x_to_y"
        tasks.input.example_list.examples.append(served_models.example(x=2))
        first, second = stub(channel).MultiInference(tasks, SECONDS).results
        assert first.regression_result.regressions[0].value == 3.0
        assert second.classification_result.classifications[0].classes[0].score == 3.0
        assert second.model_spec.version.value == 123

        made = grpc_calls.examples(classification_pb2.ClassificationRequest, "classify_x_to_y", 2)
        made.model_spec.name = "default"
        (row,) = stub(channel).Classify(made, SECONDS).result.classifications
        assert [(entry.label, entry.score) for entry in row.classes] == [("", 3.0)]
        made = grpc_calls.examples(regression_pb2.RegressionRequest, "regress_x_to_y", 2)
        made.model_spec.name = "default"
        assert stub(channel).Regress(made, SECONDS).result.regressions[0].value == 3.0


def test_status_names_the_version(fresh):
    with grpc.insecure_channel(fresh.address) as channel:
        made = request("default", kind=get_model_status_pb2.GetModelStatusRequest)
        (one,) = (
            model_service_pb2_grpc.ModelServiceStub(channel)
            .GetModelStatus(made, SECONDS)
            .model_version_status
        )
    assert (one.version, one.state, one.status.error_code) == (123, 30, 0)
    answer = requests.get(f"{fresh.url}/v1/models/default", timeout=300).json()
    status = {"error_code": "OK", "error_message": ""}
    assert answer == {
        "model_version_status": [{"version": "123", "state": "AVAILABLE", "status": status}]
    }


def test_a_configuration_is_changed_and_labelled(model, half, tmp_path):
    config = tmp_path / "models.config"
    config.write_text(served_models.listed(("half_plus_two", model)))
    with (
        served_models.server(
            model_config_file=str(config), allow_version_labels_for_unavailable_models=True
        ) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        made = model_management_pb2.ReloadConfigRequest()
        for name, base in (("half_plus_two", model), ("half_plus_three", half)):
            made.config.model_config_list.config.add(name=name, base_path=str(base))
        made.config.model_config_list.config[0].version_labels["stable"] = 123
        service = model_service_pb2_grpc.ModelServiceStub(channel)
        assert service.HandleReloadConfigRequest(made, SECONDS).status.error_code == 0
        for named in ("half_plus_two", "half_plus_three"):
            answer = stub(channel).Predict(request(named, x=x(2)), SECONDS)
            assert list(answer.outputs["y"].float_val) == [3.0]
        by_label = request("half_plus_two", label="stable", x=x(2))
        assert stub(channel).Predict(by_label, SECONDS).model_spec.version.value == 123
        assert error(stub(channel).Predict, request("half_plus_two", label="no", x=x(2))) == (
            CODES.INVALID_ARGUMENT,
            "Unrecognized servable version label: no",
        )


def test_metadata_are_the_first_answer(fresh):
    answer = requests.get(f"{fresh.url}/v1/models/default/metadata", timeout=300).json()
    assert answer["model_spec"] == {"name": "default", "signature_name": "", "version": "123"}
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert {"serving_default", "classify_x_to_y", "regress_x_to_y"} <= set(signatures)
    (x_info,) = signatures["serving_default"]["inputs"].values()
    assert x_info["dtype"] == "DT_FLOAT"


def test_prometheus_may_ask_first_and_counts_what_follows(model, tmp_path):
    monitoring = tmp_path / "monitoring.config"
    monitoring.write_text(
        'prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }'
    )
    flags = {"monitoring_config_file": str(monitoring)}
    counted = ':tensorflow:serving:request_count{model_name="default",status="OK"} 1'
    with served_models.server(model_base_path=str(model), **flags) as server:
        where = f"{server.url}/monitoring/prometheus/metrics"
        assert counted not in requests.get(where, timeout=300).text
        assert post(server, "predict", {"instances": [2.0]})[0] == 200
        assert counted in requests.get(where, timeout=300).text


def test_a_configuration_file_is_not_read_again_unless_asked_for(model, half, tmp_path):
    config = tmp_path / "models.config"
    config.write_text(served_models.listed(("default", model)))
    with served_models.server(
        model_config_file=str(config), model_config_file_poll_wait_seconds=0
    ) as server:
        config.write_text(served_models.listed(("default", model), ("other", half)))
        time.sleep(1)
        found = requests.get(f"{server.url}/v1/models/other", timeout=300).status_code
        assert found == 404
        assert post(server, "predict", {"instances": [2.0]}) == (200, {"predictions": [3.0]})


def test_a_configuration_is_changed_at_once_where_directories_are_read_only_once(model, half):
    """serving#1519: there, the call waits for a poll that never comes."""
    with (
        served_models.server(model_base_path=str(model), file_system_poll_wait_seconds=0) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        made = model_management_pb2.ReloadConfigRequest()
        made.config.model_config_list.config.add(name="new", base_path=str(half))
        service = model_service_pb2_grpc.ModelServiceStub(channel)
        assert service.HandleReloadConfigRequest(made, SECONDS).status.error_code == 0
        answer = stub(channel).Predict(request("new", x=x(2)), SECONDS)
        assert list(answer.outputs["y"].float_val) == [3.0]


def test_a_unix_socket_answers_first(model, tmp_path):
    socket = f"{tmp_path}/grpc.sock"
    with (
        served_models.server(model_base_path=str(model), grpc_socket_path=socket),
        grpc.insecure_channel(f"unix:{socket}") as channel,
    ):
        answer = stub(channel).Predict(request("default", x=x(2)), SECONDS)
        assert list(answer.outputs["y"].float_val) == [3.0]


def test_batched_requests_may_be_the_first(model, tmp_path):
    parameters = tmp_path / "batching.config"
    parameters.write_text("max_batch_size { value: 128 }")
    flags = {"enable_batching": True, "batching_parameters_file": str(parameters)}
    with served_models.server(model_base_path=str(model), **flags) as server:
        assert post(server, "predict", {"instances": [2.0, 3.0]}) == (
            200,
            {"predictions": [3.0, 3.5]},
        )


@pytest.fixture(scope="module")
def echoes(tmp_path_factory):
    path = tmp_path_factory.mktemp("echoes") / "1"
    half_plus_two.write_typed(path, *KINDS)
    servable = Servable(path)
    yield servable
    servable.close()


def outcome(echoes, signature, array, deadline):
    try:
        return echoes.run(signature, {"x": array}, ["y"], deadline)[0].tolist()
    except StatusError as failed:
        return failed.code, failed.message


@pytest.mark.parametrize("seconds", [None, 1e6, 30.0], ids=["no", "far", "near"])
@pytest.mark.parametrize("slow", [0.0, 10.0], ids=["quick-before", "slow-before"])
@pytest.mark.parametrize("sent", KINDS, ids=lambda kind: kind.name)
def test_what_is_accepted_depends_neither_on_history_nor_on_deadlines(echoes, seconds, slow, sent):
    values = [b"300.7"] if sent == tf.string else [300.7 if sent.is_floating else 1]
    for shape in ([1], [1, 1], []):
        array = np.array(values, sent.as_numpy_dtype).reshape(shape)
        for kind in KINDS:
            name = f"echo_{kind.name}"
            echoes._longest[name] = slow
            deadline = None if seconds is None else time.monotonic() + seconds
            found = outcome(echoes, name, array, deadline)
            if kind == sent:
                assert found == array.tolist()
            else:
                runtime = {"float32": "float", "float64": "double"}
                wanted, got = (runtime.get(k.name, k.name) for k in (kind, sent))
                assert found == (
                    CODES.INVALID_ARGUMENT,
                    f"Expects arg[0] to be {wanted} but {got} is provided",
                )
