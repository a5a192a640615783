"""Runs whose peers start from trained weights: what learns when, and that a run resumes."""

import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from tests import once
from tests.small_runs import configuration
from xkd_keras import signals, train
from xkd_keras.errors import FlagError, InputError, PreemptedError
from xkd_keras.flags import config as configs
from xkd_keras.runs import building, history, result, training
from xkd_keras.runs import directory as rundir

OWN = "tests.small_peers:normalised,optimizer=adamw,learning_rate=0.01"


class Watch(keras.callbacks.Callback):
    """Keeps a peer's weights after every epoch: those of its body, and of its last layer."""

    def __init__(self, name="normalised"):
        super().__init__()
        self.name, self.seen = name, []

    def on_epoch_end(self, epoch, logs=None):
        weights = self.model.peers[self.name].get_weights()
        self.seen.append((weights[:-2], weights[-2:]))


def started(run_dir, data_dir, finished_run, options="freeze=2,start_rate=0.5", **flags):
    start = f"{finished_run.run_dir}/peers/normalised.keras"
    peers = (f"{OWN},start={start},{options}", "tests.small_peers:plain,learning_rate=0.01")
    return configuration(run_dir, data_dir, **{"peer": peers, **flags})


@pytest.fixture(scope="module")
def whole(shared, data_dir, finished_run):
    """A run that was never cut, what it returned, and its body and last layer after each epoch."""
    kept = shared / "started.pickle"

    def train_and_keep(path):
        watch = Watch()
        metrics = training.run(started(path, data_dir, finished_run), [watch])
        kept.write_bytes(pickle.dumps((metrics, watch.seen)))

    config = started(once.made(shared, "started", train_and_keep), data_dir, finished_run)
    return config, *pickle.loads(kept.read_bytes())


def brought(finished_run):
    """Return the weights that such a run starts from."""
    return keras.models.load_model(f"{finished_run.run_dir}/peers/normalised.keras").get_weights()


def same(ours, theirs):
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_body_waits_and_the_last_layer_learns(finished_run, whole):
    _, metrics, seen = whole
    check_waiting(finished_run, seen)
    about = metrics["training"]["learning"]["normalised"]
    assert (about["freeze"], about["start_rate"], about["optimizer"]) == (2, 0.5, "adamw")
    assert "start" not in metrics["training"]["learning"]["plain"]
    trained = metrics["peers"]["normalised"]["parameters"]
    before = json.loads((Path(finished_run.run_dir) / "metrics.json").read_text())
    assert trained == before["peers"]["normalised"]["parameters"]  # nothing is saved frozen


@pytest.mark.slow
def test_it_waits_on_all_replicas(data_dir, tmp_path, finished_run):
    watch = Watch()
    training.run(started(tmp_path, data_dir, finished_run, strategy="mirrored"), [watch])
    check_waiting(finished_run, watch.seen)


def check_waiting(finished_run, seen):
    """Two epochs of the last layer alone, then one of all."""
    start = brought(finished_run)
    (one, head_one), (two, head_two), (three, _) = seen
    assert same(one, start[:-2])  # its moving statistics too
    assert same(two, start[:-2])
    assert not same(head_one, start[-2:])
    assert not same(head_two, head_one)
    learned = [not np.array_equal(a, b) for a, b in zip(three, two, strict=True)]
    assert learned == [False, False, *[True] * (len(three) - 2)]  # but for `normalize`


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        "step 3 of epoch 2",
        "validation of epoch 2",
        "epoch 2",
    ],
)
def test_a_run_that_is_cut_freezes_and_thaws_where_it_would_have(
    data_dir, tmp_path, finished_run, whole, monkeypatch, moment
):
    """Within an epoch that is frozen, and between the last of those and the first that is not."""
    cut = started(tmp_path, data_dir, finished_run)
    asked, at = (
        iter(range(99)),
        {"step 3 of epoch 2": 7, "validation of epoch 2": 8, "epoch 2": 9}[moment],
    )
    with monkeypatch.context() as patch:
        patch.setattr(signals, "terminated", lambda: next(asked) == at)
        with pytest.raises(PreemptedError, match="saved after"):
            training.run(cut)
    watch = Watch()
    training.run(cut, [watch])
    frozen = [same(body, brought(finished_run)[:-2]) for body, _ in watch.seen]
    assert frozen == ([False] if moment == "epoch 2" else [True, False])
    rows = [history.read(Path(config.run_dir)) for config in (whole[0], cut)]
    for a, b in zip(*rows, strict=True):
        assert {**a, "seconds": 0} == pytest.approx({**b, "seconds": 0}, rel=1e-4)


def test_classes_of_other_names_get_a_new_last_layer(data_dir, tmp_path, finished_run):
    copy = tmp_path / "copy"
    shutil.copytree(finished_run.run_dir, copy)
    run = dataclasses.replace(finished_run, run_dir=str(copy))
    config = started(tmp_path / "same", data_dir, run, "freeze=9", epochs=1, method="solo")
    start = keras.models.load_model(copy / "peers/normalised.keras").get_weights()
    data = rundir.load_dataset(config)
    peer = config.peers()[0]
    assert same(building.build_peer(config, data, peer).get_weights(), start)
    path = copy / "metrics.json"
    (copy / "config.flags").rename(copy / "kept.flags")
    path.write_text('{"accuracy": 0.9}')  # of another program
    assert same(building.build_peer(config, data, peer).get_weights(), start)
    (copy / "kept.flags").rename(copy / "config.flags")
    shutil.copy(f"{finished_run.run_dir}/metrics.json", path)
    path.write_text(path.read_text().replace('"0"', '"zero"'))
    got = building.build_peer(config, data, peer).get_weights()
    assert same(got[:-2], start[:-2])
    assert not same(got[-2:], start[-2:])


@pytest.mark.slow
def test_a_saved_model_is_a_peer_in_half_precision_too(data_dir, tmp_path, finished_run):
    file = f"file:{finished_run.run_dir}/peers/normalised.keras,name=old,freeze=1"
    start = f"{OWN},start={finished_run.run_dir}/peers/normalised.keras,start_rate=0.1"
    config = configuration(
        tmp_path, data_dir, peer=(file, start), epochs=2, mixed_precision="float16"
    )
    metrics = training.run(config)
    assert set(metrics["peers"]) == {"old", "normalised"}
    for path in (tmp_path / "peers").iterdir():
        layers = keras.models.load_model(path).layers
        assert {layer.compute_dtype for layer in layers} == {"float32"}
    run = rundir.load_run(tmp_path)
    assert set(run.models) == {"old", "normalised"}


def test_what_was_trained_in_half_precision_is_saved_without_the_file_that_it_came_from(
    data_dir, tmp_path, finished_run
):
    shutil.copy(f"{finished_run.run_dir}/peers/normalised.keras", tmp_path / "old.keras")
    peer = f"file:{tmp_path / 'old.keras'}"
    config = configuration("unused", data_dir, peer=(peer,), mixed_precision="bfloat16")
    cohort = building.build_cohort(config, rundir.load_dataset(config), 4)
    (tmp_path / "old.keras").unlink()
    result._save_models(config, tmp_path, cohort)
    saved = keras.models.load_model(tmp_path / "peers/old.keras")
    assert same(saved.get_weights(), brought(finished_run))
    assert {layer.compute_dtype for layer in saved.layers} == {"float32"}


def test_wrong_weights_are_told_of_which_peer(data_dir, tmp_path, finished_run):
    start = f"{finished_run.run_dir}/peers/plain.keras"
    config = configuration(tmp_path, data_dir, peer=(f"{OWN},start={start}",))
    with pytest.raises(InputError) as caught:
        training.run(config)
    assert str(caught.value).startswith("peer=tests.small_peers:normalised,start: '")


def test_a_run_that_was_begun_when_all_learned_alike_goes_on_so(data_dir, tmp_path):
    """Earlier versions wrote every learning option down; the same command leaves them open."""
    usual = {name: configs.fields.field(name).metadata["usual"] for name in configs.fields.LEARNING}
    peer = {"peer": ("resnet20",), "method": "mcod"}
    before = configuration(tmp_path, data_dir, **peer, **usual)
    open_ = configuration(tmp_path, data_dir, **peer)
    assert rundir.claim(open_, tmp_path) == open_
    (tmp_path / "config.flags").write_text(before.flags())
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/epoch-0001.npz").touch()
    went_on = rundir.claim(open_, tmp_path)
    assert went_on == before
    assert went_on.peers()[0].learning == before.peers()[0].learning == usual
    with pytest.raises(InputError, match=r"--learning_rate was 0\.1 and is 0\.2"):
        rundir.claim(dataclasses.replace(open_, learning_rate=0.2), tmp_path)


def test_checkpoints_hold_what_a_start_brought(finished_run, whole):
    """`normalize` is a variable like all others: what it was started with is what goes on."""
    config, *_ = whole
    path = max((Path(config.run_dir) / "checkpoints").iterdir())
    with np.load(path) as file:
        np.testing.assert_array_equal(file["00000"], brought(finished_run)[0])


def test_a_start_that_is_not_there_is_told_before_anything_is_loaded(data_dir, tmp_path):
    config = configuration(tmp_path, data_dir, peer=("resnet20,start=none.keras",))
    with pytest.raises(FlagError, match=r"^peer=resnet20,start: there is no file 'none\.keras'"):
        train.check_flags(config)
