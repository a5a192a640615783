"""All models of a server: their configuration, labels, coming and going."""

import threading
import time
from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.embedded.configs import configs_of
from serving.embedded.errors import ConfigError, StatusError
from serving.embedded.manager import Manager
from serving.embedded.versions import Model, ModelConfig
from tests.serving.served_models import FakeServable, Loads, publish, wait_for


@pytest.fixture
def base(tmp_path):
    (tmp_path / "m").mkdir()
    return tmp_path / "m"


def config(text):
    return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())


def listed(*configs):
    return f"model_config_list {{ {' '.join(configs)} }}"


def one(name="m", base="/m", more=""):
    return f"config {{ name: '{name}' base_path: '{base}' {more} }}"


def test_a_configuration_names_models_policies_and_labels():
    configs = configs_of(
        config(
            listed(
                one(more="model_platform: 'tensorflow' version_labels { key: 'stable' value: 3 }"),
                one("all", "/a", "model_version_policy { all {} }"),
                one("two", "/b", "model_version_policy { latest { num_versions: 2 } }"),
                one("some", "/c", "model_version_policy { specific { versions: [4, 2] } }"),
            )
        )
    )
    assert configs == [
        ModelConfig("m", Path("/m"), labels={"stable": 3}),
        ModelConfig("all", Path("/a"), latest=0),
        ModelConfig("two", Path("/b"), latest=2),
        ModelConfig("some", Path("/c"), latest=0, specific=(4, 2)),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Only ModelConfigList is currently supported"),
        (listed(one(), one()), "Illegal to list model m multiple times in config list"),
        (listed(one(base="m")), "Expected model m to have an absolute path or URI"),
        (
            listed(one(base="gs://b/m")),
            "^model m: base_path: received 'gs://b/m'; valid: local directories only",
        ),
        (listed(one(name="")), "has no name"),
        (listed(one(more="model_version_policy { specific {} }")), "names no versions"),
    ],
)
def test_configurations_that_cannot_be_used_are_told(text, message):
    with pytest.raises(ConfigError, match=message):
        configs_of(config(text))


def lease(manager, name="m", version=None, label=None):
    spec = model_pb2.ModelSpec(name=name)
    if version is not None:
        spec.version.value = version
    if label is not None:
        spec.version_label = label
    with manager.lease(spec) as leased:
        return leased.number


def test_labels_lead_to_versions(base):
    publish(base, 1, 2)
    manager = Manager(Loads())
    manager.set_configs([ModelConfig("m", base, latest=0, labels={"stable": 1, "canary": 2})])
    assert lease(manager, label="stable") == 1
    assert lease(manager, label="canary") == lease(manager) == 2
    with pytest.raises(StatusError, match="Unrecognized servable version label: beta"):
        lease(manager, label="beta")


def test_a_label_of_a_version_that_is_not_loaded_is_refused_and_nothing_changes(base):
    publish(base, 1)
    manager = Manager(Loads())
    manager.set_configs([ModelConfig("m", base)])
    with pytest.raises(StatusError, match="Request to assign label to version 4 of model m"):
        manager.set_configs([ModelConfig("m", base, labels={"stable": 4})])
    with pytest.raises(StatusError, match="Unrecognized servable version label"):
        lease(manager, label="stable")
    early = Manager(Loads(), early_labels=True)
    early.set_configs([ModelConfig("m", base, labels={"stable": 4})])
    with pytest.raises(StatusError, match=r"Specific\(m, 4\)"):
        lease(early, label="stable")


def test_labels_that_are_refused_load_nothing_however_often_they_are_asked_for(base):
    publish(base, 1)
    load = Loads()
    manager = Manager(load)
    manager.set_configs([ModelConfig("m", base)])
    for _ in range(2):
        with pytest.raises(StatusError, match="label to version 4 of model m"):
            manager.set_configs([ModelConfig("new", base), ModelConfig("m", base, labels={"a": 4})])
    with pytest.raises(StatusError, match="label to version 4 of model new"):
        manager.set_configs([ModelConfig("new", base, labels={"a": 4}), ModelConfig("m", base)])
    assert len(load.made) == 1
    assert not load.made[0].closed.is_set()
    assert manager.names() == ["m"]


@pytest.mark.parametrize("broken", [False, True])
def test_a_model_that_answers_does_not_give_way_to_one_that_cannot(base, tmp_path, broken):
    """As upstream, where a base path that is missing changes nothing."""
    publish(base, 1)
    moved, load = tmp_path / "moved", Loads()
    manager = Manager(load)
    manager.set_configs([ModelConfig("m", base)])
    if broken:
        moved.mkdir()
        publish(moved, 1, broken=True)
    with pytest.raises(
        StatusError, match=f"model m is still served from {base}, because nothing could be"
    ):
        manager.set_configs([ModelConfig("m", moved), ModelConfig("n", base)])
    assert lease(manager) == 1
    assert manager.names() == ["m"]
    moved.mkdir(exist_ok=True)
    publish(moved, 2)
    manager.set_configs([ModelConfig("m", moved)])
    assert lease(manager) == 2


def test_models_come_and_go_with_the_configuration(base):
    publish(base, 1)
    load = Loads()
    manager = Manager(load)
    manager.set_configs([ModelConfig("m", base), ModelConfig("n", base)])
    manager.set_configs([ModelConfig("n", base), ModelConfig("o", base)])
    assert manager.names() == ["n", "o"]
    assert lease(manager, "o") == 1
    with pytest.raises(StatusError, match=r"Servable not found for request: Latest\(m\)"):
        lease(manager)
    assert load.made[0].closed.wait(300)
    assert not load.made[1].closed.is_set()


@pytest.mark.parametrize("label", [None, "stable"])
def test_a_model_that_moves_while_it_is_looked_up_is_found(base, tmp_path, monkeypatch, label):
    publish(base, 1)
    moved = tmp_path / "moved"
    moved.mkdir()
    publish(moved, 2)
    manager = Manager(Loads())
    manager.set_configs([ModelConfig("m", base, labels={"stable": 1})])
    configs, lookup = [[ModelConfig("m", moved, labels={"stable": 2})]], Model.lease

    def too_late(model, number):
        if configs:
            manager.set_configs(configs.pop(0))
        return lookup(model, number)

    monkeypatch.setattr(Model, "lease", too_late)
    assert lease(manager, label=label) == 2
    configs.append([])
    with pytest.raises(StatusError, match=r"Servable not found for request: Latest\(m\)"):
        lease(manager, label=label)


def test_a_reload_ends_in_its_time_and_what_it_began_goes_on(base):
    gate = threading.Event()

    def load(path, name):
        assert gate.wait(300)
        return FakeServable(path)

    publish(base, 1)
    manager = Manager(load)
    with pytest.raises(StatusError, match="models are still being loaded; they are served"):
        manager.reload([ModelConfig("m", base)], time.monotonic() + 1)
    with pytest.raises(StatusError, match="nothing has changed, because an earlier change"):
        manager.reload([ModelConfig("n", base)], time.monotonic())
    gate.set()
    wait_for(lambda: manager.names() == ["m"])
    assert lease(manager) == 1
    assert manager.reload([ModelConfig("n", base)], time.monotonic() + 300) == {}
    assert manager.names() == ["n"]


def test_models_are_loaded_at_a_time_where_that_is_asked_for(base):
    publish(base, 1)
    met = threading.Barrier(2)

    def load(path, name):
        met.wait(300)  # fails unless the other is being loaded, too
        return FakeServable(path)

    manager = Manager(load, threads=2)
    manager.set_configs([ModelConfig(name, base) for name in "mn"])
    assert lease(manager, "m") == lease(manager, "n") == 1


def test_waiting_ends_when_all_models_answer_and_fails_where_none_can(base):
    manager = Manager(Loads())
    manager.set_configs([ModelConfig("m", base)])
    waiting = threading.Thread(target=manager.wait, args=(threading.Event(), 0.01))
    waiting.start()
    publish(base, 1)
    waiting.join(300)
    assert not waiting.is_alive()
    publish(base, 1, broken=True)
    broken = Manager(Loads())
    broken.set_configs([ModelConfig("m", base)])
    with pytest.raises(StatusError, match="Could not load version 1"):
        broken.wait(threading.Event())


def test_a_manager_that_closes_refuses_new_requests_and_waits_for_those_that_run(base):
    publish(base, 1)
    manager = Manager(Loads())
    manager.set_configs([ModelConfig("m", base)])
    spec, seen = model_pb2.ModelSpec(name="m"), []
    with manager.lease(spec):
        closing = threading.Thread(target=manager.close, args=(20,))
        closing.start()
        wait_for(lambda: manager._closing)
        with pytest.raises(StatusError, match="the server is shutting down") as refused:
            lease(manager)
        seen.append(closing.is_alive())
    closing.join(300)
    assert seen == [True]
    assert not closing.is_alive()
    assert refused.value.http == 503


def test_the_end_waits_for_a_load_no_longer_than_it_is_told(base):
    loading, gate = threading.Event(), threading.Event()

    def load(path, name):
        if path.name == "2":
            loading.set()
            gate.wait(300)
        return FakeServable(path)

    publish(base, 1)
    manager = Manager(load)
    manager.set_configs([ModelConfig("m", base)])
    manager.every(0.01, manager.refresh)
    publish(base, 2)
    assert loading.wait(300)
    manager.stop(0.05)
    assert not gate.is_set()
    gate.set()
    manager.stop()


def test_new_versions_are_found_by_looking_again_and_again(base):
    publish(base, 1)
    manager = Manager(Loads())
    manager.set_configs([ModelConfig("m", base)])
    manager.every(0.01, manager.refresh)
    publish(base, 2)
    wait_for(lambda: lease(manager) == 2)
    manager.stop()
    publish(base, 3)
    time.sleep(0.05)
    assert lease(manager) == 2
