"""Flags of the server: their defaults, and what each changes in a server that runs."""

import gc
import os
import threading
from types import SimpleNamespace

import grpc
import pytest
import requests
import tensorflow as tf
from absl import flags
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow.core.protobuf import saved_model_pb2

from serving import command
from serving import server as server_command
from serving.embedded import asgi, factory, grpc_api, lifecycle
from serving.embedded.errors import StatusError
from tests.serving import served_models

# Of tensorflow_serving/model_servers/{main.cc,server.h}, but for `host`.
DEFAULTS = {
    **{"host": "127.0.0.1", "port": 8500, "rest_api_port": 0, "grpc_socket_path": ""},
    **{"rest_api_timeout_in_ms": 30000, "rest_api_enable_cors_support": False},
    **{"model_name": "default", "model_base_path": "", "model_config_file": ""},
    **{"model_config_file_poll_wait_seconds": 0, "file_system_poll_wait_seconds": 1},
    **{"max_num_load_retries": 5, "load_retry_interval_micros": 60_000_000},
    **{"num_load_threads": 0, "enable_batching": False, "batching_parameters_file": ""},
    **{"enable_per_model_batching_parameters": False},
    **{"allow_version_labels_for_unavailable_models": False},
    **{"monitoring_config_file": "", "ssl_config_file": "", "saved_model_tags": "serve"},
    **{"tensorflow_session_parallelism": 0, "tensorflow_intra_op_parallelism": 0},
    **{"tensorflow_inter_op_parallelism": 0, "grpc_channel_arguments": ""},
    **{"enable_model_warmup": True, "num_request_iterations_for_warmup": 1},
    **{"enable_grpc_healthcheck_service": False, "version": False},
    **{"enable_serialization_as_tensor_content": False},
}


def parsed(*arguments):
    values = flags.FlagValues()
    command.define(server_command.FLAGS, values)
    values(["server", *arguments])
    return values


def test_defaults_are_upstreams():
    values = parsed()
    assert {name: getattr(values, name) for name in DEFAULTS} == DEFAULTS


def test_flags_are_given_as_upstreams_are():
    values = parsed(
        "--rest_api_port=8501",
        "--enable_batching",
        "--enable_model_warmup=false",
        "--file_system_poll_wait_seconds=0",
        "--model_base_path=/models/m",
    )
    assert (values.rest_api_port, values.enable_batching, values.enable_model_warmup) == (
        *(8501, True, False),
    )
    assert (values.file_system_poll_wait_seconds, values.model_base_path) == (0, "/models/m")


def test_a_flag_of_upstreams_that_does_nothing_here_is_refused():
    with pytest.raises(flags.UnrecognizedFlagError):
        parsed("--prefer_tflite_model")


def test_the_version_is_printed_and_nothing_is_served(monkeypatch, capsys):
    monkeypatch.setattr(flags, "FLAGS", SimpleNamespace(version=True))
    assert server_command.main() == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("TensorFlow ModelServer: 2.")  # as upstream's first line
    assert second == f"TensorFlow Library: {tf.__version__}"


def test_without_a_port_there_is_no_rest(half):
    with served_models.server(model_base_path=str(half), rest_api_port=0) as server:
        assert server.lines() == ["serving default", f"gRPC  {server.address}"]


def test_a_base_path_that_is_no_local_directory_is_told():
    line = served_models.refused(model_base_path="gs://b/m")
    assert line == "--model_base_path: received 'gs://b/m'; valid: local directories only."


@pytest.mark.parametrize(("threads", "name"), [(0, "MainThread"), (2, "load_0")])
def test_models_are_loaded_by_threads_of_their_own_where_that_is_asked_for(
    half, monkeypatch, threads, name
):
    names = []

    class Watched(factory.Servable):
        def __init__(self, *given):
            names.append(threading.current_thread().name)
            super().__init__(*given)

    monkeypatch.setattr(factory, "Servable", Watched)
    with served_models.server(model_base_path=str(half), num_load_threads=threads):
        assert names == [name]


@pytest.mark.usefixtures("settled")
def test_loading_a_model_takes_it_out_of_garbage_collections_rounds(half):
    gc.unfreeze()
    with served_models.server(model_base_path=str(half)):
        assert gc.get_freeze_count() > 100_000  # TensorFlow's modules alone are that many


@pytest.mark.parametrize(
    ("given", "threads"),
    [
        ({}, {"grpc": 12, "rest": 12}),
        ({"grpc_max_threads": 5, "rest_api_num_threads": 6}, {"grpc": 5, "rest": 6}),
    ],
)
def test_four_requests_a_cpu_are_worked_on_at_a_time_unless_told(half, monkeypatch, given, threads):
    pools, real = {}, grpc_api.server

    def watched_grpc(inference, metrics, addresses, threads, *more):
        pools["grpc"] = threads
        return real(inference, metrics, addresses, threads, *more)

    class WatchedApplication(asgi.Application):
        def __init__(self, inference, metrics, threads, *more):
            pools["rest"] = threads
            super().__init__(inference, metrics, threads, *more)

    monkeypatch.setattr(lifecycle, "cpus", lambda: 3)
    monkeypatch.setattr(grpc_api, "server", watched_grpc)
    monkeypatch.setattr(asgi, "Application", WatchedApplication)
    with served_models.server(model_base_path=str(half), **given):
        assert pools == threads


def test_only_cpus_that_the_process_may_use_are_counted(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 7}, raising=False)
    assert lifecycle.cpus() == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS has none
    assert lifecycle.cpus() == 64


@pytest.mark.parametrize(
    ("given", "intra", "inter"),
    [
        ({"intra_op": 0, "inter_op": 0}, 0, 0),
        ({"intra_op": 0, "inter_op": 0, "session": 3}, 3, 3),
        ({"intra_op": 1, "inter_op": 2}, 1, 2),
    ],
)
def test_sessions_have_the_parallelism_they_are_given(half, monkeypatch, given, intra, inter):
    real, seen = tf.compat.v1.Session, []

    def watched(**options):
        seen.append(options["config"])
        return real(**options)

    monkeypatch.setattr(tf.compat.v1, "Session", watched)
    given = {f"tensorflow_{name}_parallelism": value for name, value in given.items()}
    with served_models.server(model_base_path=str(half), **given):
        (config,) = seen
    assert config.intra_op_parallelism_threads == intra
    assert config.inter_op_parallelism_threads == inter


def test_the_graph_with_the_tags_is_loaded(half, tmp_path):
    served_models.publish_copy(half / "1", tmp_path, 1)
    file = tmp_path / "1" / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    model.meta_graphs[0].meta_info_def.tags[:] = ["serve", "odd"]
    file.write_bytes(model.SerializeToString())
    given = {"model_base_path": str(tmp_path)}
    with served_models.server(**given, saved_model_tags="serve,odd") as server:
        assert server.manager.model("default").ready
    with (
        pytest.raises(
            StatusError, match="Could not load version 1: MetaGraphDef associated with tags"
        ),
        served_models.server(**given),
    ):
        pass


def check(server, service):
    with grpc.insecure_channel(server.address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return health_pb2_grpc.HealthStub(channel).Check(request).status


def test_there_is_no_health_service_unless_it_is_asked_for(half):
    given = {"model_base_path": str(half), "rest_api_port": 0}
    with served_models.server(**given, enable_grpc_healthcheck_service=False) as server:
        with pytest.raises(grpc.RpcError) as caught:
            check(server, "ModelService")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with served_models.server(**given, enable_grpc_healthcheck_service=True) as server:
        with pytest.raises(grpc.RpcError) as caught:
            check(server, "OtherService")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


TOO_LARGE = "Task size 3 is larger than maximum input batch size 2"


def asked(half, size, **given):
    """Return what a server answers that batches, to a request of so many examples."""
    with served_models.server(model_base_path=str(half), enable_batching=True, **given) as server:
        url = f"{server.url}/v1/models/default:predict"
        return requests.post(url, json={"inputs": [1] * size}, timeout=300).json()


@pytest.fixture
def batching(tmp_path):
    """Parameters of all models: batches of at most two."""
    file = tmp_path / "batching.config"
    file.write_text("max_batch_size { value: 2 }")
    return {"batching_parameters_file": str(file)}


@pytest.fixture
def own(half, tmp_path):
    """A model, and the file of its version's own parameters."""
    served_models.publish_copy(half / "1", tmp_path / "own", 1)
    return tmp_path / "own", tmp_path / "own" / "1" / "batching_params.pbtxt"


def test_a_versions_own_batching_parameters_are_read_where_that_is_asked_for(batching, own):
    base, file = own
    file.write_text("max_batch_size { value: 4 }")
    assert asked(base, 3, **batching) == {"error": TOO_LARGE}
    per_model = {**batching, "enable_per_model_batching_parameters": True}
    assert asked(base, 4, **per_model) == {"outputs": [2.5] * 4}
    assert asked(base, 5, **per_model) == {"error": TOO_LARGE.replace("3", "5").replace("2", "4")}


def test_a_request_that_is_larger_than_a_call_is_split_where_that_is_asked_for(half, tmp_path):
    file = tmp_path / "batching.config"
    file.write_text(
        "max_batch_size { value: 2 } max_execution_batch_size { value: 1 }"
        " enable_large_batch_splitting { value: true }"
    )
    batching = {"batching_parameters_file": str(file)}
    assert asked(half, 2, **batching) == {"outputs": [2.5] * 2}
    assert asked(half, 3, **batching) == {"error": TOO_LARGE}


def test_a_version_without_its_own_parameters_is_not_batched_then(half, batching):
    per_model = {**batching, "enable_per_model_batching_parameters": True}
    assert asked(half, 3, **per_model) == {"outputs": [2.5] * 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch { value: 4 }", "Error parsing text-format .*batching_params.pbtxt"),
        ("max_batch_size { value: 0 }", "max_batch_size: received 0; valid: 1 or more"),
    ],
)
def test_a_version_with_wrong_parameters_is_not_loaded(own, text, message):
    base, file = own
    file.write_text(text)
    with pytest.raises(StatusError, match=message) as caught:
        asked(base, 1, enable_per_model_batching_parameters=True)
    assert str(base) not in caught.value.message
