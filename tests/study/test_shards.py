"""A study in several processes: every run is done once, and none is lost with its part."""

import concurrent.futures
import dataclasses
import os
import shutil
import signal

import pytest

from tests import workers as processes
from tests.small_parts import done, part, tasks
from xkd_keras import files
from xkd_keras.errors import FlagError, InputError
from xkd_keras.study import orchestration, shards

SLURM = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "3"}


@pytest.mark.parametrize(
    ("text", "environment", "shard"),
    [
        ("", SLURM, None),
        ("0/1", {}, (0, 1)),
        ("3/4", SLURM, (3, 4)),
        ("auto", SLURM, (2, 4)),
        ("auto", {**SLURM, "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "2"}, (2, 4)),
        ("auto/8", SLURM, (2, 8)),
        ("auto/8", {"JOB_COMPLETION_INDEX": "7"}, (7, 8)),
    ],
)
def test_a_part_is_that_which_is_given_or_which_the_scheduler_says(text, environment, shard):
    assert shards.parse(text, environment) == shard


@pytest.mark.parametrize(
    ("text", "environment", "found"),
    [
        ("4/4", {}, ""),
        ("-1/4", {}, ""),
        ("0/0", {}, ""),
        ("1", {}, ""),
        ("a/b", {}, ""),
        ("auto", {}, ", which is here ?/?"),
        ("auto/4", {}, ", which is here ?/4"),
        ("auto", {"JOB_COMPLETION_INDEX": "0"}, ", which is here 0/?"),  # Kubernetes has no count
        ("auto", {**SLURM, "SLURM_ARRAY_TASK_ID": "7"}, ", which is here 4/4"),  # --array=3,4,5,7
    ],
)
def test_a_part_that_there_is_not_is_one_line(text, environment, found):
    with pytest.raises(FlagError) as error:
        shards.parse(text, environment)
    assert str(error.value).startswith(f"shard: received '{text}'{found}; valid: INDEX/COUNT")


def die(directory, index):
    """Let a part have been silent for so long that it counts as dead."""
    (sign,) = (directory / "claims").glob(f"part-{index}-*")
    os.utime(sign, (0, 0))


def finish(task):
    task.result.parent.mkdir(parents=True)
    task.result.write_text("{}")


def test_a_part_begins_with_its_own_share_and_goes_on_with_the_next_ones(tmp_path):
    order = part(tmp_path, 1, 3).order(tasks(tmp_path))
    assert [task.name[-1] for task in order] == list("14725036")


def test_a_run_is_taken_by_one_part_and_the_others_hear_how_it_ends(tmp_path):
    good, bad, *_ = tasks(tmp_path)
    with part(tmp_path, 0) as one, part(tmp_path, 1) as other:
        assert [one.take(good), one.take(bad)] == [True, True]
        assert not other.take(good)  # it has not looked yet
        other.look()
        assert [other.take(good), other.outcome(good)] == [False, None]
        finish(good)
        one.end(good, "")
        one.end(bad, InputError("is bad.", argument="x"))
        other.look()
        assert [other.outcome(task) for task in (good, bad)] == ["", "x: is bad."]


def test_parts_that_grasp_at_once_never_get_the_same_run(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        parts = [part(tmp_path, i, 8).__enter__() for i in range(8)]
        for task in tasks(tmp_path, 40):
            assert sum(pool.map(lambda each, task=task: each.take(task), parts)) == 1
        for each in parts:
            each.__exit__()


@pytest.mark.parametrize("silent", [True, False])
def test_what_a_part_that_is_gone_has_begun_is_taken_over_by_one(tmp_path, silent):
    """Killed, it falls silent; stopped, it takes its sign away."""
    task, lost, *_ = tasks(tmp_path)
    gone = part(tmp_path, 0, 3).__enter__()
    assert gone.take(task)
    assert gone.take(lost)
    with part(tmp_path, 1, 3) as one, part(tmp_path, 2, 3) as other:
        assert not one.take(task)
        die(tmp_path, 0) if silent else gone.__exit__()
        assert [each.outcome(task) for each in (one, other)] == [None, None]
        assert [one.take(task), other.take(task)] == [True, False]
        other.look()
        assert not other.take(task)
        finish(lost)  # the last that it did
        assert [one.outcome(lost), other.outcome(lost)] == ["", ""]
    gone.__exit__()


def test_a_failure_is_tried_again_when_its_part_is_gone(tmp_path):
    task = tasks(tmp_path)[0]
    with part(tmp_path, 0) as first:
        first.take(task)
        first.end(task, "is broken")
        with part(tmp_path, 1) as late:
            assert late.outcome(task) == "is broken"
    with part(tmp_path, 1) as next_time:
        assert next_time.outcome(task) is None
        assert next_time.take(task)
        next_time.end(task, "is broken still")
        assert next_time.outcome(task) == "is broken still"


def test_a_run_whose_result_was_deleted_is_done_again(tmp_path):
    task = tasks(tmp_path)[0]
    with part(tmp_path, 0) as one:
        one.take(task)
        one.end(task, "")
    with part(tmp_path, 1) as other:
        assert other.outcome(task) is None
        assert other.take(task)


def test_a_claim_that_does_not_name_its_part_yet_is_young(tmp_path):
    task = tasks(tmp_path)[0]
    with part(tmp_path, 0) as one:
        claim = tmp_path / "claims" / "runs-method0-seed-0.1"
        claim.touch()
        one.look()
        assert not one.take(task)
        os.utime(claim, (0, 0))
        assert one.take(task)


def start(directory, shard, *stuck):
    return processes.task(["-m", "tests.small_parts", str(directory), shard, *stuck], {})


def log(directory):
    return [line.split() for line in (directory / "log").read_text().splitlines()]


def test_processes_side_by_side_do_every_run_once(tmp_path):
    codes, outputs = processes.ended([start(tmp_path, f"{i}/3") for i in range(3)])
    assert codes == [0, 0, 0], outputs
    names = [task.name for task in tasks(tmp_path)]
    assert sorted(name for name, _ in log(tmp_path)) == names
    assert not list((tmp_path / "claims").glob("part-*"))


def test_a_process_that_is_killed_loses_no_run(tmp_path):
    killed = start(tmp_path, "0/2", "method4")  # its third
    processes.until(killed, "method2")
    other = start(tmp_path, "1/2")
    processes.until(other, "waiting for runs that other parts are doing; 1 left")
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    die(tmp_path, 0)
    codes, outputs = processes.ended([other])
    assert codes == [0], outputs
    assert all(done(task) for task in tasks(tmp_path))
    twice = [name for name, _ in log(tmp_path)]
    assert {name for name in twice if twice.count(name) > 1} == {"method4"}


def test_parts_share_a_directory_that_a_whole_study_has_for_itself(tmp_path):
    def is_refused(**how):
        with pytest.raises(InputError, match="in use"), files.lock(tmp_path, **how):
            pass

    with files.lock(tmp_path, shared=True), files.lock(tmp_path, shared=True):
        is_refused()
    with files.lock(tmp_path):
        is_refused(shared=True)


@pytest.mark.usefixtures("unpictured")
def test_the_report_is_written_by_the_first_that_finds_all_done(study, tmp_path):
    plan, _ = study
    shutil.copytree(plan.directory, tmp_path / "copy")
    base = dataclasses.replace(plan.base, run_dir=str(tmp_path / "copy"))
    arms = tuple(arm for arm in plan.arms if arm.name != "broken")
    plans = [dataclasses.replace(plan, base=base, arms=arms, shard=(i, 3)) for i in range(3)]
    first = orchestration.run(plans[0])
    assert "broken" not in first["methods"]
    written = (plans[0].directory / "study.json").stat().st_mtime_ns
    assert orchestration.run(plans[1])["created"] == first["created"]
    assert (plans[0].directory / "study.json").stat().st_mtime_ns == written
    (plans[0].directory / "runs" / "mcod" / "seed-1.json").touch()
    orchestration.run(plans[2])
    assert (plans[0].directory / "study.json").stat().st_mtime_ns > written
