"""Runs in processes of their own: one that dies takes no other with it."""

import dataclasses
from types import SimpleNamespace

import pytest

from tests.small_studies import base
from xkd_keras.errors import InputError
from xkd_keras.study import shards, workers
from xkd_keras.study.plan import Task

ALONE = shards.Alone()


def test_a_process_that_is_dead_when_it_is_given_a_task_is_told(tmp_path, data_dir):
    worker = workers.Worker(threads=1)
    worker.process.kill()
    worker.process.join()
    task = Task("x", base("", data_dir), tmp_path / "x.json")
    worker.give(task)
    assert worker.outcome() == (task, "its process died (SIGKILL)")


def test_a_last_run_without_its_teacher_is_told_and_is_not_waited_for(tmp_path, data_dir):
    config = base("", data_dir, method="kd", teacher_run=str(tmp_path / "solo"))
    taught = Task("kd", config, tmp_path / "kd.json", after=tmp_path / "solo.json")
    assert list(workers.run_all([taught], 1, ALONE)) == [(taught, "its teacher was not trained")]


@pytest.mark.slow
def test_a_run_whose_process_dies_is_told_and_the_next_gets_a_new_process(tmp_path, data_dir):
    good = base("", data_dir, method="solo", epochs=1)
    bad = base("", data_dir, method="solo", epochs=1, peer=("tests.small_peers:deadly",))
    tasks = [
        Task("bad", bad, tmp_path / "bad.json"),
        Task("taught", good, tmp_path / "taught.json", after=tmp_path / "bad.json"),
        Task("good", good, tmp_path / "good.json"),
    ]
    outcomes = {task.name: error for task, error in workers.run_all(tasks, 1, ALONE)}
    assert "SIGKILL" in outcomes["bad"]
    assert outcomes["taught"] == "its teacher was not trained"
    assert outcomes["good"] == ""
    assert (tmp_path / "good.json").exists()


@pytest.mark.slow
def test_a_run_waits_for_its_teacher_that_another_process_trains(tmp_path, data_dir):
    alone = base("", data_dir, method="solo", epochs=1)
    teacher = Task("solo", alone, tmp_path / "solo.json", keep=True)
    teach = {"method": "kd", "teacher_run": str(teacher.networks)}
    taught = Task(
        "kd", dataclasses.replace(alone, **teach), tmp_path / "kd.json", after=teacher.result
    )
    other = Task("other", alone, tmp_path / "other.json")
    outcomes = [
        (task.name, error) for task, error in workers.run_all([teacher, taught, other], 2, ALONE)
    ]
    assert sorted(outcomes) == [("kd", ""), ("other", ""), ("solo", "")]
    assert outcomes.index(("solo", "")) < outcomes.index(("kd", ""))
    assert taught.result.exists()


def test_a_mistake_reaches_the_study_with_the_argument_that_it_is_of(tmp_path, data_dir):
    def run(_):
        raise InputError("is out of range.", argument="batch_size")

    error = workers._attempt(run, Task("x", base("", data_dir), tmp_path / "x.json"))
    assert (type(error), error.argument) == (InputError, "batch_size")


def test_a_busy_process_is_ended_before_its_pipe_is_closed_of_which_it_would_complain():
    worker, done = object.__new__(workers.Worker), []
    worker.task = "busy"
    worker.pipe = SimpleNamespace(close=lambda: done.append("close"))
    worker.process = SimpleNamespace(
        kill=lambda: done.append("kill"), join=lambda *_: done.append("join")
    )
    worker.stop()
    assert done[:2] == ["kill", "close"]
