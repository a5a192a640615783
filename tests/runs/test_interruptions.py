"""A run that is stopped at any moment goes on when it is started again."""

import contextlib
import json
import signal
from pathlib import Path

import keras
import pytest

from tests.small_runs import configuration
from xkd_keras import files, signals, train
from xkd_keras.errors import PreemptedError
from xkd_keras.runs import checkpoint, history, training

PLOTS = ["accuracy", "cross_entropy", "teaching", "learning_rate", "confusion", "disagreements"]
PLOTS += ["confusion_ensemble", "reliability"]


@pytest.fixture
def whole(finished_run):
    """What the same run ended with that was never stopped."""
    return json.loads((Path(finished_run.run_dir) / "metrics.json").read_text())


def test_an_interrupted_run_goes_on(whole, data_dir, tmp_path, monkeypatch):
    config = configuration(tmp_path / "b", data_dir)
    save = checkpoint.save

    def interrupted(directory, cohort, history, *part):
        save(directory, cohort, history, *part)
        if len(history) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            training.run(config)
    parts = training.run(config)
    for name, row in whole["peers"].items():  # bit-identity is held by test_resume
        assert parts["peers"][name]["cross_entropy"] == pytest.approx(
            row["cross_entropy"], rel=1e-4
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ask", "saved"),
    [
        # Asked after steps 1 to 3 of an epoch of 4, after its batch of validation, at its end.
        (5 + 2, "saved after 3 of 4 steps of epoch 2"),
        (5 + 3, "saved after the last step of epoch 2, before its validation"),
        (5 + 4, "saved after epoch 2"),
    ],
)
def test_sigterm_saves_at_once_and_the_run_ends_the_same(
    whole, finished_run, data_dir, tmp_path, monkeypatch, ask, saved
):
    config, asked = configuration(tmp_path / "b", data_dir), iter(range(99))
    with monkeypatch.context() as patch:
        patch.setattr(signals, "terminated", lambda: next(asked) == ask)
        with pytest.raises(PreemptedError, match=saved):
            training.run(config)
    parts = training.run(config)
    for name, row in whole["peers"].items():
        assert parts["peers"][name]["cross_entropy"] == pytest.approx(
            row["cross_entropy"], rel=1e-4
        )
    rows = [history.read(Path(run_dir)) for run_dir in (finished_run.run_dir, config.run_dir)]
    for a, b in zip(*rows, strict=True):  # the running metrics went on too
        assert {**a, "seconds": 0} == pytest.approx({**b, "seconds": 0}, rel=1e-4)
    assert rows[1][1]["seconds"] > 0
    assert sorted(path.name for path in (tmp_path / "b/checkpoints").iterdir()) == [
        "epoch-0002.npz",
        "epoch-0003.npz",
    ]


def test_sigterm_before_the_first_step_ends_at_once_as_nothing_is_to_be_saved(
    data_dir, tmp_path, monkeypatch
):
    """The first step is traced, which takes longer than a scheduler may wait."""
    monkeypatch.setattr(signals, "_terminated", False)
    before = signal.getsignal(signal.SIGTERM)

    call, fitting = keras.layers.Dense.call, []

    def sends(self, inputs, **options):
        if fitting:
            signal.raise_signal(signal.SIGTERM)
        return call(self, inputs, **options)

    monkeypatch.setattr(keras.layers.Dense, "call", sends)
    begins = keras.callbacks.LambdaCallback(on_train_begin=fitting.append)
    signals.restartable()
    try:
        with pytest.raises(PreemptedError) as stopped:
            training.run(configuration(tmp_path / "run", data_dir), [begins])
        assert str(stopped.value) == "stopped by SIGTERM"  # Keras adds to what layers raise
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not list((tmp_path / "run").glob("checkpoints/*"))


@pytest.mark.slow
def test_a_run_that_dies_at_any_write_outside_training_goes_on(data_dir, tmp_path, monkeypatch):
    """Before the first epoch, between the saved peers, between metrics and report."""
    config = configuration(tmp_path / "run", data_dir, epochs=1)
    whole, deaths = files.whole, []

    @contextlib.contextmanager
    def dying(path):
        if path.name not in deaths:
            deaths.append(path.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / f".partial-{path.name}").write_bytes(b"half")
            raise KeyboardInterrupt
        with whole(path) as beside:
            yield beside

    monkeypatch.setattr(files, "whole", dying)
    wanted = ["config.flags", "data.json", "plain.keras", "answers.npz"]
    wanted += ["predictions.csv", "metrics.json", "classes.csv", "mistakes.html", "report.html"]
    deaths += ["epoch-0001.npz", "history.csv", "normalised.keras", "report.md"]
    deaths += [f"{name}.{kind}" for kind in ("svg", "png") for name in PLOTS]
    for name in wanted:
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(config)
        assert deaths[-1] == name
    assert train.train_and_evaluate(config)["training"]["steps"] == 4
    assert (tmp_path / "run" / "report.html").exists()
