"""Models that come and go while a server runs: configuration files, requests, and what is shown."""

import grpc
import pytest
import requests
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

from serving.embedded.errors import StatusError
from tests.serving import served_models
from tests.serving.served_models import listed


@pytest.fixture
def base(half, tmp_path):
    """The directory of a model with version 1."""
    publish(half, tmp_path / "m", 1)
    return tmp_path / "m"


def publish(half, base, number):
    served_models.publish_copy(half / "1", base, number)


def rewrite(file, text):
    """Replace a file at once: whoever polls sees all of it."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


def versions(server, model="default"):
    answer = requests.get(f"{server.url}/v1/models/{model}", timeout=300).json()
    return answer.get("model_version_status", answer)


def states(server, model="default"):
    answer = versions(server, model)
    if not isinstance(answer, list):
        return answer  # an error
    return [(version["version"], version["state"]) for version in answer]


def missing(name):
    return {"error": f"Could not find any versions of model {name}"}


def test_the_status_keeps_versions_that_ended_and_says_why(half, base):
    with served_models.server(model_base_path=str(base)) as server:
        (base / "2").mkdir()
        served_models.wait_for(lambda: len(versions(server)) == 2)
        served_models.wait_for(lambda: states(server)[0] == ("2", "END"))
        assert states(server) == [("2", "END"), ("1", "AVAILABLE")]
        publish(half, base, 3)
        expected = [("3", "AVAILABLE"), ("2", "END"), ("1", "END")]
        served_models.wait_for(lambda: states(server) == expected)
        newest, broken, old = (one["status"] for one in versions(server))
        assert newest == old == {"error_code": "OK", "error_message": ""}
        assert broken["error_code"] != "OK"
        assert broken["error_message"].startswith("Could not load version 2: ")
        assert str(base) not in broken["error_message"]


def test_a_configuration_file_that_changes_changes_the_models(base, tmp_path):
    file = tmp_path / "models.config"
    rewrite(file, listed(("a", base)))
    with served_models.server(
        model_config_file=str(file), model_config_file_poll_wait_seconds=0.02
    ) as server:
        rewrite(file, listed(("b", base, "version_labels { key: 'stable' value: 1 }")))
        served_models.wait_for(lambda: states(server, "b") == [("1", "AVAILABLE")])
        served_models.wait_for(lambda: states(server, "a") == missing("a"))
        url = f"{server.url}/v1/models/b/labels/stable:predict"
        assert requests.post(url, json={"inputs": 2}, timeout=300).json() == {"outputs": 3.0}


@pytest.fixture(scope="module")
def rereading(half, tmp_path_factory):
    """A server that serves `half` as `a`, and its configuration file, which it polls."""
    file = tmp_path_factory.mktemp("rereading") / "models.config"
    rewrite(file, listed(("a", half)))
    with served_models.server(
        model_config_file=str(file), model_config_file_poll_wait_seconds=0.02
    ) as server:
        yield server, file


@pytest.mark.parametrize(
    "text",
    [
        "model_config_list { konfig {} }",
        "",
        "config { name: 'b'",
        listed(("b", "relative")),
        listed(("b", "/b"), ("b", "/c")),
        listed(("a", "{base}", "version_labels { key: 'next' value: 7 }")),
    ],
    ids=["field", "empty", "open", "relative", "twice", "label"],
)
def test_a_configuration_file_that_becomes_wrong_changes_nothing(
    rereading, half, text, monkeypatch
):
    server, file = rereading
    told = []
    monkeypatch.setattr("absl.logging.error", lambda text, *values: told.append(text % values))
    rewrite(file, text.replace("{base}", str(half)))
    served_models.wait_for(lambda: len(told) >= 2)  # and it goes on looking
    assert told[0].startswith("--model_config_file: keeping the previous configuration: ")
    assert states(server, "a") == [("1", "AVAILABLE")]
    rewrite(file, listed(("a", half), ("c", half)))
    served_models.wait_for(lambda: states(server, "c") == [("1", "AVAILABLE")])
    rewrite(file, listed(("a", half)))
    served_models.wait_for(lambda: states(server, "c") == missing("c"))


@pytest.mark.parametrize(
    ("config", "files", "watched"),
    [(0, 0, []), (0, 0.5, [0.5]), (0.25, 0, [0.25]), (0.25, 0.5, [0.5, 0.25])],
)
def test_nothing_is_looked_for_again_where_the_interval_is_zero(
    base, tmp_path, monkeypatch, config, files, watched
):
    seen = []
    monkeypatch.setattr("serving.embedded.manager.Manager.every", lambda _, s, __: seen.append(s))
    file = tmp_path / "models.config"
    rewrite(file, listed(("a", base)))
    with served_models.server(
        model_config_file=str(file),
        model_config_file_poll_wait_seconds=config,
        file_system_poll_wait_seconds=files,
    ) as server:
        assert states(server, "a") == [("1", "AVAILABLE")]
    assert seen == watched


def test_a_directory_that_is_missing_is_logged(base, monkeypatch):
    told = []
    monkeypatch.setattr("absl.logging.warning", lambda text, *values: told.append(text % values))
    with served_models.server(model_base_path=str(base)) as server:
        base.rename(base.parent / "away")
        served_models.wait_for(lambda: told)
        assert told == [f"default: waiting for a version: there is no directory {base}"]
        assert states(server) == [("1", "AVAILABLE")]


def test_a_broken_version_is_tried_again_as_the_flags_say(base, monkeypatch):
    told = []
    monkeypatch.setattr("absl.logging.error", lambda text, *values: told.append(text % values))
    again = {"max_num_load_retries": 2, "load_retry_interval_micros": 1000}
    with served_models.server(model_base_path=str(base), **again):
        (base / "2").mkdir()
        served_models.wait_for(lambda: len(told) == 3)
        assert all(line.startswith("default, version 2: Could not load") for line in told)


def test_a_server_starts_when_the_last_missing_model_comes(half, base, tmp_path, monkeypatch):
    file, late, told = tmp_path / "models.config", tmp_path / "late", []
    rewrite(file, listed(("here", base), ("late", late)))

    def warned(text, *values):
        told.append(text % values)
        publish(half, late, 1)

    monkeypatch.setattr("absl.logging.warning", warned)
    with served_models.server(model_config_file=str(file)) as server:
        assert told == [f"late: waiting for a version: there is no directory {late}"]
        assert states(server, "late") == states(server, "here") == [("1", "AVAILABLE")]


def labelled(base, tmp_path, **given):
    file = tmp_path / "models.config"
    rewrite(file, listed(("m", base, "version_labels { key: 'next' value: 2 }")))
    return served_models.server(model_config_file=str(file), **given)


def test_a_label_of_a_version_that_is_not_there_ends_the_start(base, tmp_path):
    message = "Request to assign label to version 2 of model m, which is not currently"
    with pytest.raises(StatusError, match=message), labelled(base, tmp_path):
        pass


def test_a_label_may_be_earlier_than_its_version_where_that_is_allowed(half, base, tmp_path):
    early = {"allow_version_labels_for_unavailable_models": True}
    with labelled(base, tmp_path, **early) as server:

        def ask():
            url = f"{server.url}/v1/models/m/labels/next:predict"
            return requests.post(url, json={"inputs": 2}, timeout=300).json()

        assert ask() == {"error": "Servable not found for request: Specific(m, 2)"}
        publish(half, base, 2)
        served_models.wait_for(lambda: ask() == {"outputs": 3.0})


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([("m", "/m"), ("m", "/n")], "Illegal to list model m multiple times in config list"),
        ([("m", "relative")], "Expected model m to have an absolute path or URI"),
    ],
)
def test_a_request_for_models_that_cannot_be_changes_nothing(base, models, message):
    made = model_management_pb2.ReloadConfigRequest()
    for name, path in models:
        made.config.model_config_list.config.add(name=name, base_path=path)
    with (
        served_models.server(model_base_path=str(base)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.HandleReloadConfigRequest(made)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert message in caught.value.details()
        assert states(server) == [("1", "AVAILABLE")]


def test_a_request_returns_when_what_is_new_answers_and_the_rest_is_gone(base):
    made = model_management_pb2.ReloadConfigRequest()
    made.config.model_config_list.config.add(name="other", base_path=str(base))
    with (
        served_models.server(model_base_path=str(base)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        answer = stub.HandleReloadConfigRequest(made)
        assert answer.status.error_code == 0
        assert states(server, "other") == [("1", "AVAILABLE")]
        assert states(server) == missing("default")
