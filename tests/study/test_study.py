"""A finished study on real images: what it writes is what was measured."""

import csv
import dataclasses
import functools
import json

import numpy as np
import pytest

from tests.small_runs import PLAIN
from tests.small_studies import base
from xkd_keras import data as datasets
from xkd_keras.distillation import mixing
from xkd_keras.runs import building, evaluation, training
from xkd_keras.runs import directory as rundir
from xkd_keras.study import measurement, together
from xkd_keras.study.plan import Task


def rows(study, method):
    return [run for run in study["runs"] if run["method"] == method]


def test_a_study_is_a_directory_that_explains_itself(study):
    plan, _ = study
    found = {path.name for path in plan.directory.iterdir()}
    assert {"study.flags", "study.csv", "study.json", "report.html", "report.md", "runs"} <= found
    assert not list(plan.directory.rglob("*partial*"))


def test_a_run_of_a_study_measures_what_the_same_training_run_measures(study, tmp_path, data_dir):
    alone = training.run(base(tmp_path / "run", data_dir, method="solo", seed=1))
    ours = rows(study[1], "solo")[1]
    for name in ("plain", "normalised"):
        assert ours["peers"][name]["top1"] == alone["peers"][name]["top1"]
        want = alone["peers"][name]["cross_entropy"]
        assert ours["peers"][name]["cross_entropy"] == pytest.approx(want, rel=1e-4)
    assert ours["ensemble"]["top1"] == alone["ensemble"]["top1"]


def test_a_failed_run_is_shown_and_loses_no_other(study):
    plan, found = study
    assert [run["status"] for run in rows(found, "broken")] == ["failed"] * 2
    assert "non-finite loss" in rows(found, "broken")[0]["error"]
    assert all(run["status"] == "done" for m in ("solo", "kd", "mcod") for run in rows(found, m))
    assert "non-finite loss" in (plan.directory / "report.md").read_text()


def test_study_json_compares_all_networks_together(study):
    plan, found = study
    written = json.loads((plan.directory / "study.json").read_text())["summary"]["together"]
    assert written == json.loads(json.dumps(together.compared(found)))
    assert set(written["against"]) == {"solo", "kd"}


def test_the_table_has_a_row_for_each_run_and_network(study):
    plan, found = study
    with open(plan.directory / "study.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 3 * 2 * 3 + 2
    for run in rows(found, "mcod"):
        for name, want in {**run["peers"], "ensemble": run["ensemble"]}.items():
            (row,) = [
                row
                for row in table
                if (row["method"], row["seed"], row["network"]) == ("mcod", str(run["seed"]), name)
            ]
            assert float(row["top1"]) == want["top1"]


def test_the_search_takes_the_setting_that_is_best_on_validation_and_uses_it(study):
    plan, found = study
    for method in ("kd", "mcod"):
        settings = found["sweep"]["methods"][method]
        means = []
        for setting in settings:
            name = f"{method}-temperature={setting['options']['temperature']}"
            run = json.loads((plan.directory / "sweep" / name / "seed-100000.json").read_text())
            last = run["history"][-1]
            assert last["epoch"] == 3
            means.append(np.mean([last["plain_top1"], last["normalised_top1"]]))
            assert setting["top1"] == pytest.approx(means[-1])
        (chosen,) = [each for each in settings if each["chosen"]]
        assert chosen["top1"] == max(means)
        used = json.loads((plan.directory / "runs" / method / "seed-0.json").read_text())["config"]
        assert used["temperature"] == chosen["options"]["temperature"]


def test_the_kept_networks_are_those_that_were_measured(study):
    plan, found = study
    result = evaluation.evaluate_run(plan.directory / "runs" / "solo" / "seed-1")
    for name, row in rows(found, "solo")[1]["peers"].items():
        assert result["peers"][name]["top1"] == row["top1"]


def test_a_teachers_training_counts_as_time(study):
    alone, taught = rows(study[1], "solo")[0], rows(study[1], "kd")[0]
    assert taught["teacher_seconds"] == alone["seconds"]
    assert rows(study[1], "mcod")[0]["teacher_seconds"] == 0


def start(data_dir, method):
    """Return the first weights of a run, and its batches of two epochs."""
    config = base("", data_dir, method=method, seed=3)
    building.set_up(config)
    data = rundir.load_dataset(config)
    cohort = building.build_cohort(config, data, steps=2)
    batches = datasets.train_batches(data, batch_size=50, epochs=2, seed=config.seed)
    weights = [w for peer in cohort.peers.values() for w in peer.get_weights()]
    return weights, [part.numpy() for batch in batches for part in batch]


@pytest.fixture(scope="module")
def alone(data_dir):
    return start(data_dir, "solo")


@pytest.mark.parametrize("method", ["dml", "kdcl", "one", "mcod"])
def test_methods_of_one_seed_share_initial_weights_and_batches(alone, data_dir, method):
    for one, other in zip(alone, start(data_dir, method), strict=True):
        assert len(one) == len(other) > 3
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_images_are_read_once_for_all_seeds(data_dir, monkeypatch):
    asked = []

    def read(*request):
        asked.append(request)
        return datasets.read(*request)

    monkeypatch.setattr(measurement, "_read", functools.lru_cache(maxsize=1)(read))
    configs = [base("", data_dir, seed=seed) for seed in (7, 8)]
    seven, eight = (measurement._load.__wrapped__(config) for config in configs)
    assert len(asked) == 1
    assert [rundir.load_dataset(config).fingerprint for config in configs] == [
        seven.fingerprint,
        eight.fingerprint,
    ]
    assert seven.fingerprint != eight.fingerprint


@pytest.mark.slow
def test_nothing_of_a_run_that_failed_is_left_to_the_next(tmp_path, data_dir, monkeypatch):
    monkeypatch.setattr(measurement, "_TRACED", {})
    task = Task("solo", base("", data_dir, method="solo"), tmp_path / "run.json", test=False)
    measurement.run(task)
    assert len(measurement._TRACED) == 1
    monkeypatch.setattr(measurement.Watch, "on_epoch_end", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # an epoch in which layers may be frozen
        measurement.run(task)
    assert not measurement._TRACED


@pytest.mark.slow
def test_a_batch_that_nobody_gave_fits_the_devices(tmp_path, data_dir, monkeypatch, two_cpus):
    asked = []

    def with_batch(config, data, replicas=1):
        asked.append(replicas)
        return dataclasses.replace(config, batch_size=50)

    monkeypatch.setattr(measurement, "_TRACED", {})
    monkeypatch.setattr(building.cluster, "strategy", lambda *_: two_cpus)
    monkeypatch.setattr(building, "with_batch", with_batch)
    config = base("", data_dir, batch_size=None, epochs=1, peer=(PLAIN,), method="solo")
    measurement.run(Task("solo", config, tmp_path / "run.json"))
    assert asked == [2]


def test_a_seed_mixes_images_alike_whatever_seed_the_process_ran_before(
    tmp_path, data_dir, monkeypatch
):
    monkeypatch.setattr(measurement, "_TRACED", {})
    monkeypatch.setattr(mixing, "SHARE", 1.1)  # every batch

    def losses(seed):
        mixed = {"peer": (PLAIN,), "mix": "cutmix", "method": "solo", "epochs": 1}
        config = base("", data_dir, seed=seed, **mixed)
        task = Task("solo", config, tmp_path / f"{seed}.json", test=False)
        measurement.run(task)
        rows = json.loads(task.result.read_text())["history"]
        return [row["plain_cross_entropy"] for row in rows]

    losses(0)
    after = losses(1)
    measurement._TRACED.clear()
    np.testing.assert_allclose(losses(1), after, rtol=1e-5)
