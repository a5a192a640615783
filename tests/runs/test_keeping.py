"""The epoch that is kept of each network, and the end of a run in which nothing gets better."""

import csv
from pathlib import Path

import keras
import numpy as np
import pytest

from tests import small_runs
from tests.small_cohorts import linear
from xkd_keras import Cohort, files, train
from xkd_keras.errors import InputError
from xkd_keras.runs import checkpoint, keeping, training

FLAT = "tests.small_peers:plain,learning_rate=0"
NAN = float("nan")


def rows(*values):
    """Return a history of network `a` from (top-1, cross-entropy) of each epoch."""
    return [{"val_a_top1": t, "val_a_cross_entropy": c} for t, c in values]


@pytest.mark.parametrize(
    ("history", "epoch"),
    [
        (rows((0.5, 1.0)), 1),
        (rows((0.5, 1.0), (0.6, 2.0), (0.55, 0.5)), 2),  # top-1 decides
        (rows((0.5, 1.0), (0.6, 2.0), (0.6, 1.5)), 3),  # of equals the cross-entropy
        (rows((0.6, 1.5), (0.6, 1.5), (0.6, 1.5)), 1),  # of equals the first
        (rows((0.6, NAN), (0.5, 2.0)), 2),  # whatever was guessed without numbers
    ],
)
def test_the_best_epoch_has_most_right_then_least_cross_entropy_then_comes_first(history, epoch):
    assert keeping.best(history, ["a"]) == {"a": epoch}


@pytest.mark.parametrize(
    ("patience", "ends"), [(0, False), (1, True), (2, True), (3, False), (9, False)]
)
def test_patience_ends_where_nobody_became_better_in_as_many_epochs(patience, ends):
    history = rows((0.5, 1.0), (0.6, 1.0), (0.6, 1.1), (0.5, 0.1))  # best is epoch 2 of 4
    assert keeping.exhausted(history, ["a"], patience) is ends
    other = [
        {**row, "val_b_top1": 0.1 * i, "val_b_cross_entropy": 1.0} for i, row in enumerate(history)
    ]
    assert not keeping.exhausted(other, ["a", "b"], patience)  # b goes on
    assert not keeping.exhausted([], ["a"], patience)


class Seen(keras.callbacks.Callback):
    """Remembers what every network (or its averages) was after each epoch."""

    def __init__(self):
        super().__init__()
        self.weights = {}

    def on_epoch_end(self, epoch, logs=None):
        with self.model.averaged():
            for name, peer in self.model.peers.items():
                self.weights[name, epoch + 1] = peer.get_weights()


def saved(run_dir, name):
    return keras.models.load_model(Path(run_dir) / "peers" / f"{name}.keras").get_weights()


def best_of_csv(run_dir, name):
    with open(Path(run_dir) / "logs" / "history.csv") as file:
        found = [
            (-float(r[f"val_{name}_top1"]), float(r[f"val_{name}_cross_entropy"]), int(r["epoch"]))
            for r in csv.DictReader(file)
        ]
    return min(found)[2], len(found)


@pytest.mark.slow
def test_a_run_killed_between_its_files_ends_with_the_best_epochs(data_dir, tmp_path, monkeypatch):
    """Between the best weights and the checkpoint of an epoch, and after both."""
    peers = ("tests.small_peers:plain,learning_rate=0.1", "tests.small_peers:normalised,name=two")
    config = small_runs.configuration(
        *(tmp_path / "run", data_dir),
        peer=peers,
        epochs=6,
        keep="best",
        ema=0.6,
        momentum=0.97,
        method="mcod",
        distill_period=0.5,
    )
    seen, kills = Seen(), []
    whole, tidy = files.whole, keeping.tidy

    def killed_before(path):
        if path.name == "epoch-0003.npz" and path.name not in kills:
            kills.append(path.name)
            raise KeyboardInterrupt
        return whole(path)

    def killed_after(directory, names, history):
        tidy(directory, names, history)
        if len(history) == 5 and "tidy" not in kills:
            kills.append("tidy")
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "whole", killed_before)
        patch.setattr(keeping, "tidy", killed_after)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                training.run(config, [seen])
        metrics = training.run(config, [seen])
    assert kills == ["epoch-0003.npz", "tidy"]
    kept = metrics["training"]["kept"]
    for name, epoch in kept.items():
        assert (epoch, 6) == best_of_csv(config.run_dir, name)
        for found, expected in zip(
            saved(config.run_dir, name), seen.weights[name, epoch], strict=True
        ):
            np.testing.assert_array_equal(found, expected)
    assert min(kept.values()) < 6  # else nothing was to be chosen
    there = {path.name for path in (tmp_path / "run" / "checkpoints").glob("best-*")}
    assert {f"best-{name}-{epoch:04d}.npz" for name, epoch in kept.items()} <= there
    assert len(there) <= 4
    report = train.train_and_evaluate(config) and (tmp_path / "run" / "report.md").read_text()
    assert f"plain from epoch {kept['plain']} and two from epoch {kept['two']}" in report


@pytest.mark.slow
def test_a_run_in_which_nothing_gets_better_ends_and_is_not_begun_again(data_dir, tmp_path, capsys):
    config = small_runs.configuration(tmp_path, data_dir, peer=(FLAT,), epochs=9, patience=2)
    metrics = training.run(config)
    assert (metrics["training"]["epochs"], metrics["training"]["steps"]) == (3, 12)
    assert "stopped early: no network improved in 2 epochs" in capsys.readouterr().out
    (tmp_path / "metrics.json").unlink()  # as if killed before it was written
    again = train.train_and_evaluate(config)
    assert again["training"]["epochs"] == 3
    assert again["peers"]["plain"]["cross_entropy"] == metrics["peers"]["plain"]["cross_entropy"]
    report = (tmp_path / "report.md").read_text()
    assert "Training stopped early, after 3 of 9 epochs: no network improved on the valid" in report


def test_an_epoch_whose_file_is_gone_is_told(tmp_path):
    cohort = Cohort([linear("a")])
    with pytest.raises(InputError, match=r"best-a-0001.npz: is missing or damaged .*; restore it"):
        keeping.put(tmp_path, cohort, rows((0.5, 1.0)))


def test_what_the_checkpoint_before_would_need_is_not_removed(tmp_path):
    for epoch in (1, 2, 3):
        (tmp_path / f"best-a-{epoch:04d}.npz").touch()
    (tmp_path / "epoch-0003.npz").touch()
    keeping.tidy(tmp_path, ["a"], rows((0.5, 1.0), (0.6, 1.0), (0.7, 1.0)))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["best-a-0002.npz", "best-a-0003.npz", "epoch-0003.npz"]
    assert checkpoint.KEEP == 2
