"""A whole study on real images: what it writes, survives, refuses, and takes up again."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.shell import ENV, ROOT, fails
from xkd_keras import data as datasets
from xkd_keras import train
from xkd_keras.errors import InputError
from xkd_keras.flags import config as configs
from xkd_keras.runs import building, evaluation
from xkd_keras.runs import directory as rundir
from xkd_keras.study import orchestration, workers
from xkd_keras.study.options import parse_arms, parse_grid
from xkd_keras.study.plan import Plan, Task

PLAIN = "tests.small_peers:plain,learning_rate=0.01"
NORMALISED = "tests.small_peers:normalised,learning_rate=0.05,weight=2"


def base(run_dir, data_dir, **flags):
    flags = {"peer": (PLAIN, NORMALISED), "epochs": 3, "batch_size": 50, **flags}
    return configs.Config(
        run_dir=str(run_dir), data_dir=str(data_dir), dataset="digits", train_examples=100, **flags
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory, data_dir):
    """A finished study: its plan and what the function returned."""
    plan = Plan(
        base(tmp_path_factory.mktemp("studies") / "one", data_dir),
        parse_arms(["solo", "kd", "mcod", "mcod,name=broken,distill_weight_max=1e30"]),
        seeds=(0, 1),
        grid=parse_grid(["temperature=1:4"]),
        sweep_seeds=(100_000,),
        jobs=2,
    )
    return plan, orchestration.run(plan)


@pytest.fixture
def copy(study, tmp_path):
    """The plan of a copy of the finished study, without the method that fails."""
    plan, _ = study
    shutil.copytree(plan.directory, tmp_path / "copy")
    arms = tuple(arm for arm in plan.arms if arm.name != "broken")
    base = dataclasses.replace(plan.base, run_dir=str(tmp_path / "copy"))
    return dataclasses.replace(plan, base=base, arms=arms, jobs=1)


def rows(study, method):
    return [run for run in study["runs"] if run["method"] == method]


def test_a_study_is_a_directory_that_explains_itself(study):
    plan, _ = study
    found = {path.name for path in plan.directory.iterdir()}
    assert {"study.flags", "study.csv", "study.json", "report.html", "report.md", "runs"} <= found
    assert not list(plan.directory.rglob("*partial*"))


def test_a_run_of_a_study_measures_what_the_same_training_run_measures(study, tmp_path, data_dir):
    alone = train.train_and_evaluate(base(tmp_path / "run", data_dir, method="solo", seed=1))
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


def test_a_finished_study_is_not_run_again_and_more_seeds_are_added(copy, capsys):
    plan = copy
    files = [plan.directory / "runs" / "mcod" / f"seed-{seed}.json" for seed in plan.seeds]
    before = [path.stat().st_mtime_ns for path in files]
    more = orchestration.run(dataclasses.replace(plan, seeds=(0, 1, 2)))
    assert "9 runs, 6 of them there already" in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in files] == before
    assert more["summary"]["networks"]["plain"]["mcod"]["n"] == 3


def test_runs_of_another_configuration_are_not_mixed_in(study, data_dir):
    plan, _ = study
    other = Plan(base(plan.directory, data_dir, epochs=4), plan.arms, plan.seeds)
    with pytest.raises(InputError, match=r"another configuration .*--epochs was 3 and is 4"):
        orchestration.run(other)
    assert "--epochs=3" in (plan.directory / "study.flags").read_text()


def test_a_teacher_is_waited_for_where_only_its_numbers_are_there(copy):
    """A study without kd keeps no networks: with it, solo runs again, and kd after it."""
    plan = copy
    shutil.rmtree(plan.directory / "runs" / "solo" / "seed-0")
    (plan.directory / "runs" / "kd" / "seed-0.json").unlink()
    again = orchestration.run(dataclasses.replace(plan, seeds=(0,)))
    assert [run["status"] for run in again["runs"]] == ["done"] * 3


def test_another_search_is_refused_before_anything_is_touched(copy):
    before = {path: path.read_bytes() for path in copy.directory.rglob("*") if path.is_file()}
    other = dataclasses.replace(copy, grid=parse_grid(["temperature=1:9"]))
    with pytest.raises(InputError, match="holds another search"):
        orchestration.run(other)
    assert before == {path: path.read_bytes() for path in before}


def test_a_method_that_comes_later_is_searched_for_alone(copy, capsys):
    more = dataclasses.replace(copy, arms=(*copy.arms, *parse_arms(["dml"])), seeds=(0,))
    found = orchestration.run(more)
    out = capsys.readouterr().out
    assert "search: 2 runs\n" in out
    assert "run: 4 runs, 3 of them there already" in out
    assert set(found["sweep"]["methods"]) == {"kd", "mcod", "dml"}
    assert found["left_out"] == 3  # the second seed of three methods
    report = (copy.directory / "report.md").read_text()
    assert "left out: 3 finished runs of methods or seeds not asked for" in report


def test_images_that_have_changed_are_not_mixed_in(copy):
    path = copy.directory / "runs" / "mcod" / "seed-1.json"
    result = json.loads(path.read_text())
    result["data"]["fingerprint"] = "other"
    path.write_text(json.dumps(result))
    with pytest.raises(InputError, match="its images have changed"):
        orchestration.run(copy)


def test_what_the_search_chose_is_not_chosen_again(study, copy, monkeypatch):
    plan, found = study
    known = json.loads((plan.directory / "sweep.json").read_text())
    assert known["table"] == found["sweep"]["methods"]
    assert not any(
        "peers" in json.loads(p.read_text()) for p in plan.directory.glob("sweep/*/*.json")
    )
    monkeypatch.setattr(orchestration.search, "choose", None)
    again = orchestration.run(copy)
    assert again["sweep"] == found["sweep"]


@pytest.mark.parametrize("method", ["dml", "kdcl", "one", "mcod"])
def test_methods_of_one_seed_share_initial_weights_and_batches(data_dir, method):
    def start(method):
        config = base("", data_dir, method=method, seed=3)
        building.set_up(config)
        data = rundir.load_dataset(config)
        cohort = building.build_cohort(config, data, steps=2)
        batches = datasets.train_batches(data, batch_size=50, epochs=2, seed=config.seed)
        weights = [w for peer in cohort.peers.values() for w in peer.get_weights()]
        return weights, [part.numpy() for batch in batches for part in batch]

    for one, other in zip(start("solo"), start(method), strict=True):
        assert len(one) == len(other) > 3
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_process_that_is_dead_when_it_is_given_a_task_is_told(tmp_path, data_dir):
    worker = workers.Worker(threads=1)
    worker.process.kill()
    worker.process.join()
    task = Task("x", base("", data_dir), tmp_path / "x.json")
    worker.give(task)
    assert worker.outcome() == (task, "its process died (SIGKILL)")


def test_a_run_whose_process_dies_is_told_and_the_next_gets_a_new_process(tmp_path, data_dir):
    good = base("", data_dir, method="solo", epochs=1)
    bad = base("", data_dir, method="solo", epochs=1, peer=("tests.small_peers:deadly",))
    tasks = [
        Task("bad", bad, tmp_path / "bad.json"),
        Task("taught", good, tmp_path / "taught.json", after=tmp_path / "bad.json"),
        Task("good", good, tmp_path / "good.json"),
    ]
    outcomes = {task.name: error for task, error in workers.run_all(tasks, jobs=1)}
    assert "SIGKILL" in outcomes["bad"]
    assert outcomes["taught"] == "its teacher was not trained"
    assert outcomes["good"] == ""
    assert (tmp_path / "good.json").exists()


def command(directory, data_dir, *more):
    given = {**vars(base(directory, data_dir)), "peer": ""}
    flags = [f"--{name}={value}" for name, value in given.items() if value]
    start = [sys.executable, "-m", "xkd_keras.study", *flags, f"--peer={PLAIN}"]
    return [*start, f"--peer={NORMALISED}", "--compare=solo", "--compare=mcod", *more]


@pytest.mark.slow
def test_a_killed_study_goes_on_and_ends_as_one_that_was_not(tmp_path, data_dir):
    """Two seeds of two methods; killed after the first run, in the middle of the second."""
    flags = ("--seeds=2", "--epochs=12", "--deterministic")
    line = command(tmp_path / "killed", data_dir, *flags)
    log = open(tmp_path / "log", "w")  # noqa: SIM115
    process = subprocess.Popen(line, cwd=ROOT, env=ENV, stdout=log, stderr=log)
    first = tmp_path / "killed" / "runs" / "solo" / "seed-0.json"
    deadline = time.monotonic() + 120
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list((tmp_path / "killed" / "runs").rglob("*.json")))
    assert 1 <= done < 4
    result = subprocess.run(line, cwd=ROOT, env=ENV, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert f"run: 4 runs, {done} of them there already" in result.stdout
    whole = command(tmp_path / "whole", data_dir, *flags)
    subprocess.run(whole, cwd=ROOT, env=ENV, capture_output=True, check=True)
    tops = []
    for name in ("killed", "whole"):
        study = json.loads((tmp_path / name / "study.json").read_text())
        assert len(study["runs"]) == 4
        tops.append([[row["top1"] for row in run["peers"].values()] for run in study["runs"]])
    assert tops[0] == tops[1]


@pytest.mark.parametrize(
    ("more", "code", "parts"),
    [
        (["--compare=mcd"], 2, ["--compare: unknown value 'mcd'", "Did you mean 'mcod'"]),
        (["--seeds=0"], 2, ["--seeds=0: 0 is not a positive integer"]),
        (["--preset=papers"], 2, ["--preset: unknown value 'papers'", "Did you mean 'paper'"]),
        (["--sweep=temperature=0:1"], 2, ["--sweep: temperature: received 0.0; valid: 0.01"]),
        (["--dataset=digit"], 2, ["--dataset: unknown value 'digit'", "Did you mean 'digits'"]),
        (["--batch_size=200"], 1, ["every run failed", "--batch_size: 200 is out of range"]),
    ],
)
def test_a_mistake_is_one_line(tmp_path, data_dir, more, code, parts):
    line = command(tmp_path / "study", data_dir, *more)
    result = subprocess.run(line, cwd=ROOT, env=ENV, capture_output=True, text=True)
    fails(result, code, *parts)


def test_a_directory_of_something_else_is_left_alone(tmp_path, data_dir):
    (tmp_path / "letter.txt").write_text("dear")
    result = subprocess.run(
        command(tmp_path, data_dir), cwd=ROOT, env=ENV, capture_output=True, text=True
    )
    fails(result, 1, "is not empty and not a study")
    assert [path.name for path in Path(tmp_path).iterdir()] == ["letter.txt"]
