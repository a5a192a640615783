"""Checkpoints: the whole state comes back, damage is noticed, the one before stands in."""

import errno
import itertools
import shutil
import zipfile

import keras
import numpy as np
import pytest

from xkd_keras import Cohort, files
from xkd_keras.errors import InputError
from xkd_keras.runs import checkpoint

IMAGES = np.random.default_rng(0).normal(size=(32, 4, 4, 1)).astype("float32")
LABELS = np.random.default_rng(1).integers(0, 3, 32)
_SEEDS = itertools.count()  # what is restored must not be there already


def cohort(width=3):
    inputs = keras.Input((4, 4, 1))
    x = keras.layers.BatchNormalization(name="early")(inputs)
    x = keras.layers.Dropout(0.5)(keras.layers.Dense(width)(keras.layers.Flatten()(x)))
    a = keras.Model(inputs, keras.layers.Dense(3)(x), name="a")
    b = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)), name="b")
    cohort = Cohort([a, b], exits={"a": ["early"]}, seed=next(_SEEDS))
    cohort.compile({"a": keras.optimizers.SGD(0.1, momentum=0.9), "b": "adam"})
    return cohort


def step(cohort, times=1):
    for _ in range(times):
        cohort.train_on_batch(IMAGES, LABELS)


def state(cohort):
    peers = [np.array(v) for peer in cohort.peers.values() for v in peer.variables]
    optimizers = cohort.optimizer.by_peer.values()
    heads = [np.array(v) for v in cohort.exits.variables] if cohort.exits else []
    return [*peers, *heads, *(np.array(v) for optimizer in optimizers for v in optimizer.variables)]


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "truncated":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = b""
    else:
        with zipfile.ZipFile(path) as file:
            largest = max(file.infolist(), key=lambda entry: entry.file_size)
        data[largest.header_offset + largest.file_size] ^= 0xFF  # past the header, within the array
    path.write_bytes(data)


def test_training_goes_on_from_the_restored_state_as_if_never_stopped(tmp_path):
    """Momenta, Adam's moments, moving statistics, dropout's seeds, heads of exits and the step."""
    one, two = cohort(), cohort()
    step(one, 3)
    checkpoint.save(tmp_path, one, [{"epoch": 1, "loss": 0.5}])
    assert checkpoint.restore(tmp_path, two).history == [{"epoch": 1, "loss": 0.5}]
    step(one, 3)
    step(two, 3)
    assert int(two.optimizer.iterations) == 6
    for a, b in zip(state(one), state(two), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bfloat16_variables_come_back(tmp_path):
    def half():
        inputs = keras.Input((4, 4, 1))
        logits = keras.layers.Dense(3, dtype="bfloat16")(keras.layers.Flatten()(inputs))
        cohort = Cohort([keras.Model(inputs, logits, name="a")])
        cohort.compile("sgd")
        return cohort

    one, two = half(), half()
    checkpoint.save(tmp_path, one, [{}])
    checkpoint.restore(tmp_path, two)
    for a, b in zip(state(one), state(two), strict=True):
        np.testing.assert_array_equal(a.astype("float32"), b.astype("float32"))


def test_only_the_last_two_are_kept(tmp_path):
    one = cohort()
    for epochs in range(1, 5):
        checkpoint.save(tmp_path, one, [{}] * epochs)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch-0003.npz", "epoch-0004.npz"]


def test_epochs_beyond_four_digits_are_still_in_order(tmp_path):
    one = cohort()
    checkpoint.save(tmp_path, one, [{}] * 9999)
    checkpoint.save(tmp_path, one, [{}] * 10000)
    assert len(checkpoint.restore(tmp_path, one).history) == 10000


def test_copies_beside_the_checkpoints_are_left_alone(tmp_path):
    copies = ["epoch-0009 copy.npz", "epoch-0009-backup.npz", "epoch-0009-batch-x.npz"]
    for name in copies:
        (tmp_path / name).write_bytes(b"a copy")
    one = cohort()
    assert checkpoint.restore(tmp_path, one).history == []
    for epochs in range(1, 4):
        checkpoint.save(tmp_path, one, [{}] * epochs, batch=epochs - 1)
    assert len(checkpoint.restore(tmp_path, one).history) == 3
    kept = ["epoch-0002-batch-000001.npz", "epoch-0003-batch-000002.npz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*copies, *kept])


def test_without_checkpoints_nothing_changes(tmp_path):
    one = cohort()
    before = state(one)
    assert checkpoint.restore(tmp_path / "none", one).history == []
    for a, b in zip(before, state(one), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory of two checkpoints, and the state in the first."""
    one, path = cohort(), tmp_path_factory.mktemp("saved")
    step(one)
    checkpoint.save(path, one, [{"epoch": 1}])
    first = state(one)
    step(one)
    checkpoint.save(path, one, [{"epoch": 1}, {"epoch": 2}])
    return path, first


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(saved, tmp_path, capsys, how):
    path, want = saved
    shutil.copytree(path, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / "epoch-0002.npz", how)
    two = cohort()
    assert checkpoint.restore(tmp_path, two).history == [{"epoch": 1}]
    for a, b in zip(want, state(two), strict=True):
        np.testing.assert_array_equal(a, b)
    assert "epoch-0002.npz is damaged" in capsys.readouterr().err


def test_if_all_are_damaged_it_says_what_to_do(tmp_path):
    one = cohort()
    damage(checkpoint.save(tmp_path, one, [{}]), "truncated")
    with pytest.raises(InputError, match="every checkpoint is damaged; delete it to start over"):
        checkpoint.restore(tmp_path, one)


def test_a_checkpoint_of_other_peers_is_refused_and_changes_nothing(tmp_path):
    checkpoint.save(tmp_path, cohort(), [{}])
    other = cohort(width=5)
    before = state(other)
    with pytest.raises(InputError, match="was saved with other peers or optimizers"):
        checkpoint.restore(tmp_path, other)
    for a, b in zip(before, state(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_file_whose_writing_fails_keeps_its_old_content(tmp_path):
    path = tmp_path / "file.txt"
    files.write(path, "old")

    def broken():
        with files.whole(path) as beside:
            beside.write_text("half of the n")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        broken()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_has_one_writer_at_a_time(tmp_path):
    with (
        files.lock(tmp_path),
        pytest.raises(InputError, match="is in use by another process"),
        files.lock(tmp_path),
    ):
        pass
    with files.lock(tmp_path):  # and is free again
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_and_one_process_may_use_it(
    tmp_path, monkeypatch, capsys, number
):
    def flock(*_):
        raise OSError(number, "no locks")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with files.lock(tmp_path):
        (tmp_path / "here").touch()
    warning = f"warning: '{tmp_path}' is on a file system without locks"
    assert capsys.readouterr().out.startswith(warning)
    with pytest.raises(InputError, match="without locks, which processes need"):
        files.turn(tmp_path).__enter__()
