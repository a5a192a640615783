"""The versions of one model: which are loaded, when, and what happens to requests meanwhile."""

import shutil

import pytest

from serving.embedded.errors import StatusError
from serving.embedded.versions import Model, ModelConfig, State
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
    return Model(ModelConfig("m", base, **config), load or Loads(), retries, interval=0.0)


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
    assert one.versions()[0].error.message == "Could not load version 2: broken"
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
    assert healed.versions()[0].error is None


def test_a_broken_version_that_was_removed_is_new_when_it_is_published_again(base):
    publish(base, 1)
    one = Model(ModelConfig("m", base), Loads(), retries=1, interval=0.0)
    publish(base, 2, broken=True)
    for _ in range(3):
        one.refresh()
    shutil.rmtree(base / "2")
    one.refresh()
    assert one.versions()[0].error.message == "Could not load version 2: broken"  # still told
    publish(base, 2, broken=True)
    for _ in range(3):
        one.refresh()
    assert one.versions()[0].tries == 2
    shutil.rmtree(base / "2")
    one.refresh()
    publish(base, 2)
    one.refresh()
    settled(one, {2: "AVAILABLE", 1: "END"})


def test_a_broken_version_is_new_when_its_whole_base_path_was_removed(base):
    publish(base, 1, broken=True)
    one = Model(ModelConfig("m", base), Loads(), retries=0, interval=0.0)
    one.refresh()
    shutil.rmtree(base)
    one.refresh()
    base.mkdir()
    publish(base, 1)
    one.refresh()
    settled(one, {1: "AVAILABLE"})


def test_a_broken_version_is_not_tried_again_before_its_time(base):
    publish(base, 1, broken=True)
    one = Model(ModelConfig("m", base), Loads(), retries=5, interval=3600)
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


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("run", "run/export/savedmodel/resnet20"),
        ("run/export", "run/export/savedmodel/resnet20"),
        ("run/export/savedmodel", "run/export/savedmodel/resnet20"),
        ("run/export/savedmodel/resnet2", "run/export/savedmodel/resnet20"),
        ("run/export/savedmodel/vgg", None),
        ("nowhere/at/all", None),
    ],
)
def test_what_was_probably_meant_is_asked(tmp_path, asked, meant):
    for name in ("alexnet", "resnet20"):
        version = tmp_path / "run/export/savedmodel" / name / "1"
        version.mkdir(parents=True)
        (version / "saved_model.pb").touch()
    told = ModelConfig("resnet20", tmp_path / asked).missing()
    assert told.partition("; did you mean ")[2] == (f"{tmp_path / meant}?" if meant else "")


def test_why_there_is_no_version_is_told_once_and_again_when_it_changes(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("absl.logging.warning", lambda text, *values: told.append(text % values))
    base = tmp_path / "nets" / "half"
    model = Model(ModelConfig("m", base), Loads())
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
    assert [line.removeprefix("m: waiting for a version: ") for line in told] == [
        f"there is no directory {base}",
        f"{base} contains none of the requested versions (directories named by a number)",
        f"{base} is a version itself; valid: the directory that holds it",
    ]
