"""The study as a command: one line for a mistake, and a killed one goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import workers as processes
from tests.invented_studies import Study
from tests.shell import ENV, ROOT, fails, here
from tests.small_runs import PLAIN
from tests.small_studies import NORMALISED, base
from xkd_keras.study import orchestration, statistics


def words(directory, data_dir, *more):
    """Return the command `study` and flags of one that would work."""
    given = {**vars(base(directory, data_dir)), "peer": ""}
    flags = [f"--{name}={value}" for name, value in given.items() if value]
    start = ["study", *flags, f"--peer={PLAIN}", f"--peer={NORMALISED}"]
    return [*start, "--compare=solo", "--compare=mcod", *more]


def command(*args):
    name, *flags = words(*args)
    return [sys.executable, "-m", f"xkd_keras.{name}", *flags]


@pytest.mark.slow
def test_a_killed_study_goes_on_and_ends_as_one_that_was_not(tmp_path, data_dir):
    """Two methods; killed after the first run, in the middle of the second."""
    flags = ("--seeds=1", "--epochs=12", "--deterministic")
    line = command(tmp_path / "killed", data_dir, *flags)
    log = open(tmp_path / "log", "w")  # noqa: SIM115
    process = subprocess.Popen(line, cwd=ROOT, env=ENV, stdout=log, stderr=log)
    first = tmp_path / "killed" / "runs" / "solo" / "seed-0.json"
    wait_for(first.exists)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(list((tmp_path / "killed" / "runs").rglob("*.json"))) == 1
    result = subprocess.run(line, cwd=ROOT, env=ENV, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "run: 2 runs, 1 of them already done" in result.stdout
    whole = command(tmp_path / "whole", data_dir, *flags)
    subprocess.run(whole, cwd=ROOT, env=ENV, capture_output=True, check=True)
    tops = [measured(tmp_path / name) for name in ("killed", "whole")]
    assert len(tops[0]) == 2
    assert tops[0] == tops[1]


@pytest.mark.slow
def test_a_study_that_sigterm_ends_says_how_to_go_on(tmp_path, data_dir):
    line = command(tmp_path / "stopped", data_dir)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(line, cwd=ROOT, env=ENV, **pipes)
    assert any(word.startswith("run: ") for word in process.stdout)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 75
    assert errors == "stopped by SIGTERM; the same command resumes from there\n"


def measured(directory):
    """Return what a finished study says of its runs, without their times."""
    runs = json.loads((directory / "study.json").read_text())["runs"]
    for each in runs:
        each["seconds"] = each["teacher_seconds"] = 0
        for row in [*each["peers"].values(), each["ensemble"]]:
            row.pop("milliseconds_per_image", None)
    return runs


@pytest.mark.slow
def test_parts_of_which_one_is_stopped_and_one_is_killed_report_as_one_study(tmp_path, data_dir):
    flags = ("--compare=kd", "--seeds=1", "--epochs=6", "--deterministic", "--sweep_seeds=1")
    flags = (*flags, "--sweep=temperature=1:4")
    shared, claims = tmp_path / "shared", tmp_path / "shared" / "claims"

    def start(index):
        line = command(shared, data_dir, *flags, f"--shard={index}/2")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(line, cwd=ROOT, env=ENV, start_new_session=True, **pipes)

    one, other = start(0), start(1)
    wait_for(lambda: list(claims.glob("sweep-*.1")))
    wait_for(lambda: len(list(claims.glob("part-*"))) == 2)
    os.killpg(other.pid, signal.SIGTERM)  # as Slurm sends it: to the runs' processes, too
    codes, outputs = processes.ended([other])
    assert codes == [75], outputs
    assert not list(claims.glob("part-1-*"))
    assert not any(path.read_text() for path in claims.glob("*.ended"))
    other = start(1)
    wait_for(lambda: list(claims.glob("runs-*.1")) and list(claims.glob("part-1-*")))
    one.send_signal(signal.SIGKILL)
    one.communicate()
    (sign,) = claims.glob("part-0-*")
    os.utime(sign, (0, 0))  # as if it had been silent for minutes
    codes, outputs = processes.ended([other])
    assert codes == [0], outputs
    whole = command(tmp_path / "whole", data_dir, *flags)
    subprocess.run(whole, cwd=ROOT, env=ENV, capture_output=True, check=True)
    assert measured(shared) == measured(tmp_path / "whole")
    assert len(measured(shared)) == 3
    chosen = [(tmp_path / name / "sweep.json").read_text() for name in ("shared", "whole")]
    assert chosen[0] == chosen[1]


def wait_for(there):
    deadline = time.monotonic() + 300
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("more", "code", "parts"),
    [
        (["--compare=mcd"], 2, ["--compare: unknown value 'mcd'", "Did you mean 'mcod'"]),
        (["--jobs=-1"], 2, ["--jobs: received '-1'; valid: 0 or more."]),
        (["--shard=2/2"], 2, ["--shard: received '2/2'; valid: INDEX/COUNT with INDEX from 0 to"]),
        (["--seeds=0"], 2, ["--seeds: received '0'; valid: 1 or more."]),
        (["--preset=papers"], 2, ["--preset: unknown value 'papers'", "Did you mean 'paper'"]),
        (["--sweep=temperature=0:1"], 2, ["--sweep: temperature: received 0.0; valid: 0.01"]),
        (["--dataset=digit"], 2, ["--dataset: unknown value 'digit'", "Did you mean 'digits'"]),
        pytest.param(
            ["--train_examples=2000"],
            1,
            ["every run failed", "train_examples: received 2000; valid"],
            marks=pytest.mark.slow,
        ),
        (["--batch_size=200"], 2, ["--batch_size: 200 is out of range for --train_examples=100"]),
    ],
)
def test_a_mistake_is_one_line(tmp_path, data_dir, more, code, parts):
    fails(here(*words(tmp_path / "study", data_dir, *more)), code, *parts)


def test_the_first_words_come_before_a_network_of_the_users_is_looked_at(tmp_path, data_dir):
    """That takes Keras and TensorFlow, which take seconds; here Keras ends the process."""
    (tmp_path / "keras.py").write_text("print('keras', flush=True)\nraise SystemExit(3)\n")
    (tmp_path / "own.py").write_text("print('own', flush=True)\nimport keras\n")
    line = command(tmp_path / "study", data_dir, "--peer=own:build")
    environment = {**ENV, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    told = f"comparing 2 methods; results in {tmp_path / 'study'}; loading TensorFlow ..."
    assert result.stdout.splitlines() == [told, "keras"], result.stderr
    assert result.returncode == 3


def test_what_the_study_cannot_show_is_a_warning_at_its_end(tmp_path, data_dir, monkeypatch):
    content = Study(main=("solo", "mcod"), seeds=2).content
    study = {**content, "summary": statistics.summarize(content)}
    monkeypatch.setattr(orchestration, "run", lambda plan: study)
    result = here(*words(tmp_path / "study", data_dir))
    assert result.returncode == 0, result.stderr
    *_, seeds, images, last = result.stdout.splitlines()
    observed = "the observed difference of mcod from solo"
    assert seeds.startswith(f"warning: 2 seeds do not show {observed}")
    assert images.startswith(f"warning: 361 test images are few for {observed}")
    assert last.startswith("report  ")


def test_a_directory_of_something_else_is_left_alone(tmp_path, data_dir):
    (tmp_path / "letter.txt").write_text("dear")
    fails(here(*words(tmp_path, data_dir)), 1, "is neither empty nor a study")
    assert [path.name for path in Path(tmp_path).iterdir()] == ["letter.txt"]
