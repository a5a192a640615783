"""Traditional distillation: a run taught by the networks of an earlier one."""

import csv
import itertools
import json

import keras
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from tests.small_runs import NORMALISED, PLAIN, configuration
from xkd_keras import data as datasets
from xkd_keras import train
from xkd_keras.errors import FlagError, InputError
from xkd_keras.runs import evaluation
from xkd_keras.runs.callbacks import History


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory, data_dir):
    """A finished run of two peers, of which the second counts twice."""
    run_dir = tmp_path_factory.mktemp("runs") / "teacher"
    train.train_and_evaluate(configuration(run_dir, data_dir, method="solo"))
    return run_dir


def taught(run_dir, data_dir, teacher_run, **flags):
    usual = {"method": "kd", "temperature": 4.0, "peer": (PLAIN,), "seed": 7}
    flags = {**usual, "teacher_run": str(teacher_run), **flags}
    return configuration(run_dir, data_dir, **flags)


@pytest.mark.parametrize("peer", ["", "plain"])
def test_the_term_is_the_distance_to_the_saved_networks(tmp_path, data_dir, teacher_run, peer):
    train.train_and_evaluate(taught(tmp_path / "run", data_dir, teacher_run, teacher_peer=peer))
    data = datasets.load("digits", data_dir=str(data_dir))
    images = datasets.images(data.validation, range(len(data.validation)), data)

    def logits(run_dir, name):
        model = keras.models.load_model(run_dir / "peers" / f"{name}.keras")
        return model.predict(images.astype("float32"), verbose=0).astype("f8")

    plain, normalised = (logits(teacher_run, name) for name in ("plain", "normalised"))
    q = softmax((plain if peer else (plain + 2 * normalised) / 3) / 4, -1)
    z = logits(tmp_path / "run", "plain")
    want = 16 * np.mean(np.sum(q * (np.log(q) - log_softmax(z / 4, -1)), -1))
    with open(tmp_path / "run" / "logs" / "history.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["val_plain_distillation"]) == pytest.approx(want, rel=1e-3)
    assert float(last["distill_weight"]) == 1.0


def test_the_teachers_files_are_not_touched(tmp_path, data_dir, teacher_run):
    before = {path: path.stat().st_mtime_ns for path in teacher_run.rglob("*") if path.is_file()}
    train.train_and_evaluate(taught(tmp_path / "run", data_dir, teacher_run, epochs=1))
    assert before == {path: path.stat().st_mtime_ns for path in before}
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
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

    kept = History.on_epoch_end
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(History, "on_epoch_end", stop)
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
            r"^teacher_run: '.*' knows 10 classes of digits, images \[32",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_told_before_training(
    tmp_path, data_dir, teacher_run, flags, line
):
    with pytest.raises(InputError, match=line):
        train.train_and_evaluate(taught(tmp_path / "run", data_dir, teacher_run, **flags))


def test_a_teacher_run_that_is_none_is_told(tmp_path, data_dir):
    with pytest.raises(InputError, match=r"^teacher_run: '.*there' holds no finished run"):
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
        train.check(taught(tmp_path / "run", data_dir, teacher, **flags))


def test_calibration_error_is_the_weighted_gap_of_confidence_and_accuracy():
    """Two bins of (0, 1]: 0.4, 0.5 (the upper edge belongs to the bin) and 0.7, 0.9, 0.8."""
    confidence = np.array([0.4, 0.5, 0.7, 0.9, 0.8])
    right = np.array([True, False, True, True, False])
    want = abs(0.45 - 0.5) * 2 / 5 + abs(0.8 - 2 / 3) * 3 / 5
    assert evaluation.calibration_error(confidence, right, bins=2) == pytest.approx(want)


def test_calibration_error_is_that_of_the_softmax():
    z = np.random.default_rng(0).normal(0, 2, (400, 6))
    labels = np.random.default_rng(1).integers(0, 6, 400)
    p = softmax(z, -1)
    edges = np.linspace(0, 1, 16)
    want = 0.0
    for low, high in itertools.pairwise(edges):
        there = (p.max(-1) > low) & (p.max(-1) <= high)
        if there.any():
            right = z.argmax(-1)[there] == labels[there]
            want += there.mean() * abs(p.max(-1)[there].mean() - right.mean())
    assert evaluation.scores(labels, z)["ece"] == pytest.approx(want)
