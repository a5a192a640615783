"""Versions and models: which are loaded, when, and what happens to requests meanwhile."""

import threading
import time
from pathlib import Path

import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.embedded.errors import ConfigError, StatusError
from serving.embedded.manager import Manager, configs_of
from serving.embedded.versions import Config, Model, State
from tests.serving.served_models import FakeServable, Loads, publish, wait_for


@pytest.fixture
def base(tmp_path):
    (tmp_path / "m").mkdir()
    return tmp_path / "m"


def states(model):
    return {version.number: State.Name(version.state) for version in model.versions()}


def settled(model, expected):
    wait_for(lambda: states(model) == expected)


def model(base, load=None, **config):
    retries = config.pop("retries", 0)
    return Model(Config("m", base, **config), load or Loads(), retries, interval=0.0)


def test_the_newest_version_is_served_and_names_are_numbers(base):
    publish(base, 1, 9, 10, "007", "x", "-3", "1.5", "²", " 4", 2**63)
    one = model(base)
    one.refresh()
    assert states(one) == {10: "AVAILABLE"}
    publish(base, 2**63 - 1)
    one.refresh()
    settled(one, {2**63 - 1: "AVAILABLE", 10: "END"})


def test_leading_zeros_are_part_of_a_name_only(base):
    publish(base, "007")
    one = model(base)
    one.refresh()
    with one.lease(7) as version:
        assert version.servable.path.name == "007"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, {3}),
        ({"latest": 2}, {2, 3}),
        ({"latest": 0}, {1, 2, 3}),
        ({"latest": 0, "specific": (1, 3, 8)}, {1, 3}),
    ],
)
def test_policies_choose_versions(base, policy, expected):
    publish(base, 1, 2, 3)
    one = model(base, **policy)
    one.refresh()
    assert states(one) == dict.fromkeys(sorted(expected, reverse=True), "AVAILABLE")


def test_a_new_version_takes_over_and_the_old_one_ends(base):
    publish(base, 1)
    load = Loads()
    one = model(base, load)
    one.refresh()
    publish(base, 2)
    one.refresh()
    settled(one, {2: "AVAILABLE", 1: "END"})
    assert load.made[0].closed.is_set()
    assert not load.made[1].closed.is_set()


def test_the_old_version_answers_until_the_new_one_does(base):
    publish(base, 1)
    seen = []

    def load(path, name):
        if path.name == "2":
            with one.lease(None) as version:
                seen.append(version.number)
        return FakeServable(path)

    one = model(base, load)
    one.refresh()
    publish(base, 2)
    one.refresh()
    assert seen == [1]


def test_requests_that_run_on_an_old_version_finish(base):
    publish(base, 1)
    load = Loads()
    one = model(base, load)
    one.refresh()
    with one.lease(None) as version:
        publish(base, 2)
        one.refresh()
        assert states(one) == {2: "AVAILABLE", 1: "UNLOADING"}
        assert not load.made[0].closed.wait(0.05)
        assert version.servable is load.made[0]
        with one.lease(None) as newer:
            assert newer.number == 2
    assert load.made[0].closed.wait(300)
    settled(one, {2: "AVAILABLE", 1: "END"})


def test_a_broken_version_is_reported_and_takes_no_ones_place(base):
    publish(base, 1)
    one = model(base)
    one.refresh()
    publish(base, 2, broken=True)
    one.refresh()
    assert states(one) == {2: "END", 1: "AVAILABLE"}
    assert one.versions()[0].failure.message == "Could not load version 2: broken"
    with one.lease(None) as version:
        assert version.number == 1


def test_a_broken_version_is_tried_as_often_as_allowed(base):
    publish(base, 1, broken=True)
    one = model(base, retries=2)
    for _ in range(5):
        one.refresh()
    assert one.versions()[0].tries == 3
    healed = model(base, retries=2)
    healed.refresh()
    (base / "1" / "broken").unlink()
    healed.refresh()
    assert states(healed) == {1: "AVAILABLE"}
    assert healed.versions()[0].failure is None


def test_a_broken_version_is_not_tried_again_before_its_time(base):
    publish(base, 1, broken=True)
    one = Model(Config("m", base), Loads(), retries=5, interval=3600)
    one.refresh()
    one.refresh()
    assert one.versions()[0].tries == 1


def test_a_version_shows_that_it_is_loading(base):
    publish(base, 1)
    seen = []

    def load(path, name):
        seen.append(states(one))
        return FakeServable(path)

    one = model(base, load)
    one.refresh()
    assert seen == [{1: "LOADING"}]


def test_deleting_the_newest_version_rolls_back(base):
    publish(base, 1, 2)
    one = model(base)
    one.refresh()
    (base / "2").rmdir()
    one.refresh()
    settled(one, {2: "END", 1: "AVAILABLE"})
    publish(base, 2)
    one.refresh()
    settled(one, {2: "AVAILABLE", 1: "END"})


def test_a_missing_directory_unloads_nothing_and_an_empty_one_everything(base):
    publish(base, 1)
    one = model(base)
    one.refresh()
    (base / "1").rename(base.parent / "kept")
    base.rename(base.parent / "away")
    one.refresh()
    assert states(one) == {1: "AVAILABLE"}
    (base.parent / "away").rename(base)
    one.refresh()
    settled(one, {1: "END"})
    with pytest.raises(StatusError, match=r"Servable not found for request: Latest\(m\)"):
        one.lease(None).__enter__()


def test_a_version_that_is_not_there_is_not_found(base):
    publish(base, 1)
    one = model(base)
    one.refresh()
    with pytest.raises(StatusError, match=r"Servable not found for request: Specific\(m, 5\)"):
        one.lease(5).__enter__()


# Configurations, and managers of several models.


def config(text):
    return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())


def listed(*configs):
    return f"model_config_list {{ {' '.join(configs)} }}"


def one(name="m", base="/m", more=""):
    return f"config {{ name: '{name}' base_path: '{base}' {more} }}"


def test_a_configuration_names_models_policies_and_labels():
    found = configs_of(
        config(
            listed(
                one(more="model_platform: 'tensorflow' version_labels { key: 'stable' value: 3 }"),
                one("all", "/a", "model_version_policy { all {} }"),
                one("two", "/b", "model_version_policy { latest { num_versions: 2 } }"),
                one("some", "/c", "model_version_policy { specific { versions: [4, 2] } }"),
            )
        )
    )
    assert found == [
        Config("m", Path("/m"), labels={"stable": 3}),
        Config("all", Path("/a"), latest=0),
        Config("two", Path("/b"), latest=2),
        Config("some", Path("/c"), latest=0, specific=(4, 2)),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Only ModelConfigList is currently supported"),
        (listed(one(), one()), "Illegal to list model m multiple times in config list"),
        (listed(one(base="m")), "Expected model m to have an absolute path or URI"),
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
    with manager.lease(spec) as found:
        return found.number


def test_labels_lead_to_versions(base):
    publish(base, 1, 2)
    manager = Manager(Loads())
    manager.set_configs([Config("m", base, latest=0, labels={"stable": 1, "canary": 2})])
    assert lease(manager, label="stable") == 1
    assert lease(manager, label="canary") == lease(manager) == 2
    with pytest.raises(StatusError, match="Unrecognized servable version label: beta"):
        lease(manager, label="beta")


def test_a_label_of_a_version_that_is_not_loaded_is_refused_and_nothing_changes(base):
    publish(base, 1)
    manager = Manager(Loads())
    manager.set_configs([Config("m", base)])
    with pytest.raises(StatusError, match="Request to assign label stable to version 4 of model m"):
        manager.set_configs([Config("m", base, labels={"stable": 4})])
    with pytest.raises(StatusError, match="Unrecognized servable version label"):
        lease(manager, label="stable")
    early = Manager(Loads(), early_labels=True)
    early.set_configs([Config("m", base, labels={"stable": 4})])
    with pytest.raises(StatusError, match=r"Specific\(m, 4\)"):
        lease(early, label="stable")


def test_models_come_and_go_with_the_configuration(base):
    publish(base, 1)
    load = Loads()
    manager = Manager(load)
    manager.set_configs([Config("m", base), Config("n", base)])
    manager.set_configs([Config("n", base), Config("o", base)])
    assert manager.names() == ["n", "o"]
    assert lease(manager, "o") == 1
    with pytest.raises(StatusError, match=r"Servable not found for request: Latest\(m\)"):
        lease(manager)
    assert load.made[0].closed.wait(300)
    assert not load.made[1].closed.is_set()


def test_models_are_loaded_at_a_time_where_that_is_asked_for(base):
    publish(base, 1)
    met = threading.Barrier(2)

    def load(path, name):
        met.wait(300)  # fails unless the other is being loaded, too
        return FakeServable(path)

    manager = Manager(load, threads=2)
    manager.set_configs([Config(name, base) for name in "mn"])
    assert lease(manager, "m") == lease(manager, "n") == 1


def test_waiting_ends_when_all_models_answer_and_fails_where_none_can(base):
    manager = Manager(Loads())
    manager.set_configs([Config("m", base)])
    waiting = threading.Thread(target=manager.wait, args=(threading.Event(), 0.01))
    waiting.start()
    publish(base, 1)
    waiting.join(300)
    assert not waiting.is_alive()
    publish(base, 1, broken=True)
    broken = Manager(Loads())
    broken.set_configs([Config("m", base)])
    with pytest.raises(StatusError, match="Could not load version 1"):
        broken.wait(threading.Event())


def test_a_manager_that_closes_refuses_new_requests_and_waits_for_those_that_run(base):
    publish(base, 1)
    manager = Manager(Loads())
    manager.set_configs([Config("m", base)])
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


def test_new_versions_are_found_by_looking_again_and_again(base):
    publish(base, 1)
    manager = Manager(Loads())
    manager.set_configs([Config("m", base)])
    manager.every(0.01, manager.refresh)
    publish(base, 2)
    wait_for(lambda: lease(manager) == 2)
    manager.stop()
    publish(base, 3)
    time.sleep(0.05)
    assert lease(manager) == 2


def test_why_there_is_no_version_is_told_once_and_again_when_it_changes(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("absl.logging.warning", lambda text, *values: told.append(text % values))
    base = tmp_path / "nets" / "half"
    model = Model(Config("m", base), Loads())
    model.refresh()
    model.refresh()
    base.mkdir(parents=True)
    model.refresh()
    (base / "saved_model.pb").touch()
    model.refresh()
    (base / "saved_model.pb").unlink()
    publish(base, 1)
    model.refresh()
    model.refresh()
    assert [line.removeprefix("m: waiting: ") for line in told] == [
        f"there is no directory {base}",
        f"{base} holds no version (a directory named by a number) that is asked for",
        f"{base} is a version itself; valid: the directory that holds it",
    ]
