"""Traditional distillation: a run taught by the networks of an earlier one."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from tests.small_runs import NORMALISED, PLAIN, configuration
from xkd_keras import data as datasets
from xkd_keras import train
from xkd_keras.errors import FlagError, InputError
from xkd_keras.runs import history, training
from xkd_keras.runs.callbacks import Recorder


@pytest.fixture(scope="module")
def teacher_run(finished_run):
    return Path(finished_run.run_dir)


def taught(run_dir, data_dir, teacher_run, **flags):
    usual = {"method": "kd", "temperature": 4.0, "peer": (PLAIN,), "seed": 7}
    flags = {**usual, "teacher_run": str(teacher_run), **flags}
    return configuration(run_dir, data_dir, **flags)


@pytest.fixture(scope="module", params=["", "plain"])
def student(request, tmp_path_factory, data_dir, teacher_run):
    """A run taught by the ensemble, or by one peer, and when its teacher's files were changed."""
    run_dir = tmp_path_factory.mktemp("runs") / "student"
    before = {path: path.stat().st_mtime_ns for path in teacher_run.rglob("*") if path.is_file()}
    training.run(taught(run_dir, data_dir, teacher_run, teacher_peer=request.param, epochs=2))
    return run_dir, request.param, before


def test_the_term_is_the_distance_to_the_saved_networks(student, data_dir, teacher_run):
    run_dir, peer, _ = student
    data = datasets.load("digits", data_dir=str(data_dir))
    images = datasets.images(data.validation, range(len(data.validation)), data)

    def logits(run_dir, name):
        model = keras.models.load_model(run_dir / "peers" / f"{name}.keras")
        return model.predict(images.astype("float32"), verbose=0).astype("f8")

    plain, normalised = (logits(teacher_run, name) for name in ("plain", "normalised"))
    q = softmax((plain if peer else (plain + 2 * normalised) / 3) / 4, -1)
    z = logits(run_dir, "plain")
    want = 16 * np.mean(np.sum(q * (np.log(q) - log_softmax(z / 4, -1)), -1))
    last = history.read(run_dir)[-1]
    assert last["val_plain_distillation"] == pytest.approx(want, rel=1e-3)
    assert last["distill_weight"] == 1.0


def test_the_teachers_files_are_not_touched(student):
    run_dir, _, before = student
    assert before == {path: path.stat().st_mtime_ns for path in before}
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert list(metrics["peers"]) == ["plain"]


@pytest.mark.slow
def test_a_gates_run_goes_on_where_it_was_interrupted(tmp_path, data_dir):
    """What the gate has learned is in the checkpoint: bit-identical to a run without a stop."""
    flags = {"method": "one", "deterministic": True, "peer": (PLAIN, NORMALISED)}
    config = configuration(tmp_path / "whole", data_dir, **flags)
    train.train_and_evaluate(config)
    stopped = configuration(tmp_path / "stopped", data_dir, **flags)

    def stop(self, epoch, logs=None):
        kept(self, epoch, logs)
        if epoch == 0:
            raise KeyboardInterrupt

    kept = Recorder.on_epoch_end
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "on_epoch_end", stop)
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(stopped)
    train.train_and_evaluate(stopped)
    for name in ("plain", "normalised"):
        one, other = (
            keras.models.load_model(tmp_path / run / "peers" / f"{name}.keras").get_weights()
            for run in ("whole", "stopped")
        )
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            {"teacher_peer": "plane"},
            r"^teacher_peer: unknown value 'plane'\. Did you mean",
        ),
        (
            {"image_size": 24},
            r"^teacher_run: '.*' was trained on 10 classes of digits, images \[32",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_told_before_training(
    tmp_path, data_dir, teacher_run, flags, line
):
    with pytest.raises(InputError, match=line):
        train.train_and_evaluate(taught(tmp_path / "run", data_dir, teacher_run, **flags))


def test_a_teacher_run_that_is_none_is_told(tmp_path, data_dir):
    with pytest.raises(InputError, match=r"^teacher_run: '.*there' contains no finished run"):
        train.train_and_evaluate(taught(tmp_path / "run", data_dir, tmp_path / "there"))


@pytest.mark.parametrize(
    ("teacher", "flags", "line"),
    [
        ("", {}, "^teacher_run: missing"),
        ("x", {"method": "mcod"}, "^teacher_run: is for --method=kd only; received --method=mcod"),
        ("", {"method": "mcod", "teacher_peer": "a"}, "^teacher_peer: is for --method=kd only"),
    ],
)
def test_flags_of_a_frozen_teacher_go_with_its_method(tmp_path, data_dir, teacher, flags, line):
    with pytest.raises(FlagError, match=line):
        train.check_flags(taught(tmp_path / "run", data_dir, teacher, **flags))
