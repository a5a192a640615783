"""What the machine does to a run: killed while it saves, a full disk, files cut short."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.small_cohorts import compiled, convolutional, fit
from tests.small_runs import PLAIN, configuration
from xkd_keras import data
from xkd_keras.data import preparation
from xkd_keras.errors import InputError
from xkd_keras.runs import callbacks, checkpoint, training

CUT_PNG = tf.io.encode_png(np.full([6, 9, 3], 250, "uint8")).numpy()[:40]


def variables(cohort):
    return [np.array(variable) for variable in checkpoint.state(cohort)]


def killed_at(moment, do):
    """Do something in a child process that is killed at that file operation; was it?"""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    passed = 0

    def pass_one(*_):
        nonlocal passed
        passed += 1
        if passed == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def heard(event, _):
        if event in ("open", "os.mkdir", "os.rename", "os.remove"):
            pass_one()

    write, fsync = zipfile.ZipFile.open, os.fsync
    zipfile.ZipFile.open = lambda *args, **kwargs: pass_one() or write(*args, **kwargs)
    os.fsync = lambda file: (fsync(file), pass_one())
    sys.addaudithook(heard)
    with contextlib.suppress(BaseException):
        do()
    os._exit(0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_at_any_moment_of_a_save_the_old_state_or_the_new_is_whole(
    tmp_path, monkeypatch, capsys
):
    one, two = (compiled([convolutional("a", 3), convolutional("b", 5)]) for _ in range(2))
    states = []
    for _ in range(3):  # two are kept: the third removes the first
        fit(one)
        states.append(variables(one))
    rows = [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}]
    monkeypatch.setattr(checkpoint, "array", np.asarray)  # a child may not ask TensorFlow
    outcomes = set()
    for moment in range(1, 99):
        directory = tmp_path / str(moment)
        for n in (1, 2, 3):
            monkeypatch.setattr(checkpoint, "state", lambda _, n=n: states[n - 1])
            if n < 3:
                checkpoint.save(directory, one, rows[:n])
        died = killed_at(moment, lambda d=directory: checkpoint.save(d, one, rows))
        monkeypatch.undo()
        for variable in checkpoint.state(two):
            variable.assign(np.full(variable.shape, 7, variable.dtype))
        done = len(checkpoint.restore(directory, two).history)
        outcomes.add((died, done))
        for expected, received in zip(states[done - 1], variables(two), strict=True):
            np.testing.assert_array_equal(received, expected)
        monkeypatch.setattr(checkpoint, "array", np.asarray)
        if not died:
            break
    assert outcomes == {(True, 2), (True, 3), (False, 3)}
    assert moment > 10
    assert capsys.readouterr().err == ""  # nothing was damaged, and nothing passed over


@contextlib.contextmanager
def files_of_at_most(size):
    """Let the system refuse more than that in one file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
def test_a_disk_that_is_full_loses_nothing_and_the_run_goes_on(
    finished_run, data_dir, tmp_path, monkeypatch
):
    first, save = configuration(tmp_path / "run", data_dir), checkpoint.save

    def save_on_a_full_disk(directory, cohort, history, *part):
        with files_of_at_most(4096 if len(history) == 2 else resource.RLIM_INFINITY):
            return save(directory, cohort, history, *part)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_on_a_full_disk)
        with pytest.raises(OSError, match="File too large"):
            training.run(first)
    kept = [path.name for path in (tmp_path / "run/checkpoints").iterdir()]
    assert kept == ["epoch-0001.npz"]
    ended = training.run(first)
    whole = json.loads((Path(finished_run.run_dir) / "metrics.json").read_text())
    assert ended["peers"]["plain"]["cross_entropy"] == pytest.approx(
        whole["peers"]["plain"]["cross_entropy"], rel=1e-4
    )


@pytest.mark.parametrize("room", [0, 300])
def test_a_disk_that_is_full_when_tensorboards_events_are_written_is_one_line(tmp_path, room):
    events = callbacks.Events(tmp_path / "logs")
    events.set_model(compiled([convolutional("a", 3)]))
    logs = {"loss": 1.0, "val_loss": 2.0}

    def write():
        events.on_train_begin()
        for epoch in range(9):
            events.on_epoch_end(epoch, logs)

    said = rf"^run_dir: cannot write to '{tmp_path}/logs' \([^{{}}]+\); valid: .* resumes\.$"
    with files_of_at_most(room), pytest.raises(InputError, match=said) as caught:
        write()
    assert "\n" not in str(caught.value)


def record_bounds(path):
    """Return where each record of a TFRecord file ends."""
    content, ends, at = path.read_bytes(), [], 0
    while at < len(content):
        at += 16 + int.from_bytes(content[at : at + 8], "little")  # length, its CRC, the CRC
        ends.append(at)
    return ends


@pytest.mark.parametrize("cache_gib", [2.0, pytest.param(0.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("where", ["within", "between"])
def test_a_tfrecord_file_that_is_cut_short_is_one_line(data_dir, tmp_path, where, cache_gib):
    shutil.copytree(data_dir, tmp_path / "data")
    small = {"cache_gib": cache_gib, "epochs": 1, "peer": (PLAIN,)}
    whole = configuration(tmp_path / "run", tmp_path / "data", **small)
    (path,) = (tmp_path / "data").rglob("*-train.tfrecord*")
    end = record_bounds(path)[700]
    content = path.read_bytes()
    path.write_bytes(content[: end - 3 * (where == "within")])
    with pytest.raises(InputError, match=r"^dataset: digits: a file is damaged or gone \(.*\); v"):
        training.run(whole)
    if where == "within":
        path.write_bytes(content)
        assert training.run(whole)["training"]["steps"] == 4


def test_images_that_go_while_they_are_read_are_one_line():
    def read():
        with data.readable("folder:x"):
            tf.io.read_file("/nowhere/at/all.png")

    with pytest.raises(InputError, match=r"^dataset: folder:x: a file is damaged or gone"):
        read()


@pytest.mark.parametrize("content", [b"", b"no image", b"BM" + bytes(60), CUT_PNG])
def test_a_picture_that_has_become_another_file_is_one_line(content):
    pictures = tf.data.Dataset.from_tensors(tf.constant(content)).map(preparation.decode)
    with pytest.raises(InputError) as caught, data.readable("folder:x"):
        list(pictures)
    why = r"\((Unkn|Inv|a BMP)[^{}]{5,99}\)"
    said = rf"dataset: folder:x: a file is damaged or gone {why}; valid: restore"
    assert re.match(said, str(caught.value))
