"""ReloadConfig: it waits for new models, says what failed, and is not for everybody."""

import os
import threading
from contextlib import contextmanager

import grpc
import pytest
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

from tests.serving import served_models
from tests.serving.grpc_calls import error, predict
from tests.serving.served_models import publish_copy

CODES = grpc.StatusCode


def reload(*models):
    made = model_management_pb2.ReloadConfigRequest()
    for name, base in models:
        made.config.model_config_list.config.add(name=name, base_path=str(base))
    return made


@contextmanager
def serving(half, **flags):
    with (
        served_models.server(model_name="half", model_base_path=str(half), **flags) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        server.channel = channel
        service = model_service_pb2_grpc.ModelServiceStub(channel)
        server.reload = service.HandleReloadConfigRequest
        yield server


@pytest.fixture
def served(half):
    """A server that waits a second for new models."""
    with serving(half, reload_config_wait_seconds=1.0) as server:
        yield server


@pytest.fixture
def patient(half):
    """A server that waits as long as a call."""
    with serving(half, reload_config_wait_seconds=300.0) as server:
        yield server


@pytest.mark.parametrize("kind", ["missing", "empty", "file", "loop", "long", "version", "broken"])
def test_a_base_path_without_a_model_is_told_and_the_others_answer(served, half, tmp_path, kind):
    base, why = tmp_path / "new", ""
    if kind == "missing":
        why = f"there is no directory {base}"
    elif kind == "empty":
        base.mkdir()
        why = f"{base} contains none of the requested versions"
    elif kind == "file":
        base.touch()
        why = f"there is no directory {base}"
    elif kind == "loop":
        base.symlink_to(base)
        why = f"there is no directory {base}"
    elif kind == "long":
        base = tmp_path / ("a" * 300)
        why = f"{base} cannot be read: File name too long"
    elif kind == "version":
        base, why = half / "1", "is a version itself"
    else:
        (base / "7").mkdir(parents=True)
        why = "Could not load version 7"
    code, details = error(served.reload, reload(("half", half), ("new", base)))
    assert code is CODES.UNKNOWN
    assert details.startswith("1 servable(s) did not become available: {new: ")
    assert why in details
    assert predict(served.channel, 2) == [3]
    assert served.manager.names() == ["half", "new"]


def test_a_zero_byte_in_a_base_path_is_told(served):
    code, details = error(served.reload, reload(("new", "/a\0b")))
    assert (code, details) == (
        CODES.INVALID_ARGUMENT,
        "model new: its base_path contains a zero byte",
    )


def test_an_answer_comes_before_the_deadline_of_the_call(served, tmp_path):
    code, details = error(served.reload, reload(("new", tmp_path / "no")), timeout=0.9)
    assert (code, "there is no directory" in details) == (CODES.UNKNOWN, True)


def test_the_call_returns_when_the_model_is_there(patient, half, tmp_path):
    future = patient.reload.future(reload(("half", half), ("new", tmp_path / "new")), timeout=120)
    served_models.wait_for(lambda: "new" in patient.manager.names())
    publish_copy(half / "1", tmp_path / "new", 4)
    assert future.result(timeout=120).status.error_code == 0
    assert patient.manager.model("new").ready


def test_a_model_that_is_taken_away_is_no_longer_waited_for(patient, half, tmp_path):
    future = patient.reload.future(reload(("half", half), ("new", tmp_path / "no")), timeout=120)
    served_models.wait_for(lambda: "new" in patient.manager.names())
    patient.reload(reload(("half", half)))
    assert "did not become available" in future.exception(timeout=120).details()


def test_base_paths_may_be_limited_to_roots(half, tmp_path):
    root = tmp_path / "root"
    publish_copy(half / "1", tmp_path / "root", 1)
    (root / "link").symlink_to(half)
    flags = {"model_roots": f"{tmp_path / 'other'},{root}"}
    with (
        served_models.server(model_base_path=str(half), **flags) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        call = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest
        for outside in (half, root / ".." / "x", root / "link", f"{root}-more"):
            assert error(call, reload(("new", outside))) == (
                CODES.PERMISSION_DENIED,
                f"model new: base_path {outside} is not in --model_roots",
            )
        assert server.manager.names() == ["default"]
        call(reload(("half", root)))
        assert predict(channel, 2) == [3]


def test_clients_without_a_certificate_may_be_refused(half):
    flags = {"reload_config_needs_mutual_tls": True}
    with (
        served_models.server(model_name="half", model_base_path=str(half), **flags) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        call = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest
        code, details = error(call, reload(("new", half)))
        assert code is CODES.PERMISSION_DENIED
        assert "certificate" in details
        assert predict(channel, 2) == [3]


def test_a_directory_that_vanishes_concerns_its_model_alone(half, tmp_path, caplog):
    base, config = tmp_path / "a", tmp_path / "models.config"
    publish_copy(half / "1", base, 1)
    publish_copy(half / "1", tmp_path / "b", 1)
    config.write_text(served_models.listed(("a", base), ("half", tmp_path / "b")))
    with served_models.server(model_config_file=str(config)) as server:
        os.rename(base, tmp_path / "gone")
        base.symlink_to("a" * 300)  # cannot be read, even by root
        publish_copy(half / "1", tmp_path / "b", 2)
        served_models.wait_for(
            lambda: (
                [v.number for v in server.manager.model("half").versions() if v.available] == [2]
            )
        )
        seen = threading.Event()
        server.manager.every(0.25, seen.set)
        assert seen.wait(60)
    lines = [record for record in caplog.records if "a: waiting" in record.getMessage()]
    assert len(lines) == 1
    assert "cannot be read: File name too long" in lines[0].getMessage()
    assert not any(record.exc_info for record in caplog.records)
    assert server.manager.model("a").versions()[0].number == 1


def test_a_base_path_that_cannot_be_read_is_waited_for_at_the_start(tmp_path, caplog):
    base = tmp_path / "a"
    base.symlink_to("a" * 300)
    stop = threading.Event()
    stop.set()
    flags = {**served_models.FLAGS, "model_base_path": str(base)}
    server = served_models.lifecycle.Server(
        served_models.server_command.options_of(served_models.SimpleNamespace(**flags)), stop
    )
    server.stop(1)
    assert [record.exc_info for record in caplog.records if record.levelname == "WARNING"] == [None]
