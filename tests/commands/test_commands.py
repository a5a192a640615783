"""The commands as a person types them: one clear line for a mistake, and the right exit code."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.shell import ENV, ROOT, fails, here, run
from xkd_keras.flags.config import Config
from xkd_keras.runs import whereabouts


@pytest.fixture
def good(tmp_path, data_dir):
    """Flags of a run that would work."""
    return [
        f"--run_dir={tmp_path / 'run'}",
        f"--data_dir={data_dir}",
        "--dataset=digits",
        "--peer=tests.small_peers:plain,learning_rate=0.01",
        "--train_examples=100",
        "--batch_size=50",
        "--epochs=2",
    ]


def image(path, shade=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_png(np.full((8, 8, 3), shade, np.uint8)).numpy())


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--epoch=3"], ["--epoch: no such flag", "Did you mean --epochs?"]),
        (["--epochs=1.5"], ["--epochs: received '1.5'; valid: a whole number."]),
        (["--peer=resnet21"], ["--peer: unknown value 'resnet21'", "Did you mean 'resnet20'?"]),
        (["--dataset=configs"], ["'configs' is a folder; valid: folder:configs."]),
        (["--epochs=0"], ["--epochs: received 0; valid: 1 or more."]),
        (["--peer=alexnot"], ["'alexnot'", "Did you mean 'alexnet'?"]),
        (["--peer=alexnet,momentun=1"], ["'momentun'", "Did you mean 'momentum'?"]),
        (["--dataset=digit"], ["'digit'", "Did you mean 'digits'?"]),
        (["--method=mcdo"], ["--method: unknown value 'mcdo'", "Did you mean 'mcod'?"]),
        (["--recompute", "--sync_batch_norm"], ["--recompute: cannot be combined with --sync"]),
        (["--flagfile=none.flags"], ["--flagfile: 'none.flags' cannot be found"]),
        (["configs/quickstart.flags"], ["'configs/quickstart.flags'", "--name=value"]),
    ],
)
def test_a_wrong_command_line_exits_with_2(good, flags, parts):
    result = here("train", *good, *flags)
    fails(result, 2, *parts)
    assert result.stdout == ""


def test_a_module_that_is_not_there_exits_with_2(good):
    fails(here("train", *good, "--peer=no_such_module:build"), 2, "no_such_module")


@pytest.mark.parametrize(
    ("module", "flags", "code", "part"),
    [
        ("export", [], 2, "--run_dir: missing. Give the directory of a finished run."),
        ("train", ["--run_dir=x", "--dataset=digits"], 2, "resnet20. --help lists all."),
        ("export", ["--run_dir=x", "--variant=int9"], 2, "Did you mean 'int8'?"),
        ("export", ["--run_dir=x", "--version=-1"], 2, "version"),
        ("compress", ["--run_dir=x"], 2, "--peer: missing. The peer to compress."),
        ("compress", ["--run_dir=x", "--peer=y", "--recipe=pqt"], 2, "Did you mean 'pqat'?"),
        ("evaluate", [], 2, "--run_dir: missing"),
        ("evaluate", ["--model=x", "--peer=y"], 2, "--peer: applies to a run's networks"),
        ("evaluate", ["--model=x.tflite"], 1, "x.tflite: there is no such file"),
    ],
)
def test_a_wrong_command_on_a_run_is_one_line(module, flags, code, part):
    fails(here(module, *flags), code, part)


@pytest.mark.parametrize(
    ("module", "flags"),
    [
        ("evaluate", ["--run_dir=~/there"]),
        ("evaluate", ["--model=~/there"]),
        ("export", ["--run_dir=~/there"]),
        ("compress", ["--run_dir=~/there", "--peer=y", "--recipe=qat"]),
    ],
)
def test_a_command_looks_for_a_run_at_home(module, flags, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fails(here(module, *flags), 1, str(tmp_path / "there"))


@pytest.mark.parametrize("module", ["train", "evaluate", "export", "compress", "study"])
def test_a_command_ends_with_its_line_and_code_in_a_process_of_its_own(module):
    fails(run(module, "--run_dri=x"), 2, "--run_dri: no such flag. Did you mean --run_dir?")


def test_a_peer_with_the_wrong_number_of_logits_exits_with_1(good):
    result = here("train", *good, "--peer=tests.small_peers:one_too_many")
    fails(result, 1, "one_too_many", "11", "10")


def test_images_that_are_too_small_for_a_peer_are_told_by_their_flag(good):
    result = here("train", *good, "--peer=alexnet", "--image_size=16")
    fails(result, 1, "--image_size: 16x16 is too small for peer 'alexnet'", "at least 29x29")


def test_an_empty_folder_exits_with_1(good, tmp_path):
    (tmp_path / "empty").mkdir()
    fails(
        here("train", *good, f"--dataset=folder:{tmp_path / 'empty'}"), 1, str(tmp_path / "empty")
    )


def test_a_folder_of_one_class_exits_with_1(good, tmp_path):
    for i in range(9):
        image(tmp_path / f"images/cat/{i}.png", i)
    fails(here("train", *good, f"--dataset=folder:{tmp_path / 'images'}"), 1, "cat")


def test_a_corrupt_image_is_named_and_exits_with_1(good, tmp_path):
    for i in range(20):
        image(tmp_path / f"images/cat/{i}.png", i)
        image(tmp_path / f"images/dog/{i}.png", 200 + i)
    broken = tmp_path / "images/dog/7.png"
    broken.write_bytes(broken.read_bytes()[:40])
    flags = [*good, f"--dataset=folder:{tmp_path / 'images'}"]
    fails(here("train", *flags), 1, "--dataset: folder:", "7.png", "skip_unreadable")


@pytest.mark.parametrize("where", ["file/run", "/proc/run"])
def test_a_directory_that_cannot_be_written_exits_with_1(good, tmp_path, where):
    (tmp_path / "file").write_text("")
    path = tmp_path / where  # an absolute `where` stands alone
    fails(here("train", *good, f"--run_dir={path}"), 1, "--run_dir: cannot write to", str(path))


@pytest.mark.slow
def test_a_run_then_another_configuration_then_an_evaluation(good, tmp_path):
    result = run("train", *good)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    words = f"training plain on digits; results in {tmp_path / 'run'}; loading TensorFlow ..."
    assert result.stdout.splitlines()[0] == words
    assert "epoch   2/2" in result.stdout
    assert str(tmp_path / "run/report.html") in result.stdout
    assert str(tmp_path / "run/peers/plain.keras") in result.stdout
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    shown = f"{100 * metrics['peers']['plain']['top1']:.2f}"
    assert shown in result.stdout

    fails(here("train", *good, "--epochs=3"), 1, "--epochs was 2 and is 3")
    again = here("evaluate", f"--run_dir={tmp_path / 'run'}", "--peer=plain")
    assert again.returncode == 0, again.stderr
    assert shown in again.stdout
    fails(here("evaluate", f"--run_dir={tmp_path}"), 1, "contains no finished run")
    fails(here("evaluate", f"--run_dir={tmp_path / 'run'}", "--split=tset"), 2, "mean 'test'?")


def test_the_runs_own_folder_is_evaluated_on_its_test_images_however_it_is_named(good, tmp_path):
    for i in range(20):
        image(tmp_path / f"images/cat/{i}.png", i)
        image(tmp_path / f"images/dog/{i}.png", 200 + i)
        image(tmp_path / f"more/dog/{i}.png", 190 + i)
    (tmp_path / "link").symlink_to("images")
    small = ("--epochs=1", "--train_examples=0", "--image_size=20", "--batch_size=7")
    trained = here("train", *good, f"--dataset=folder:{tmp_path / 'images'}", *small)
    assert trained.returncode == 0, trained.stderr
    (row,) = (line for line in trained.stdout.splitlines() if line.startswith("plain  "))
    for name in (f"folder:{tmp_path / 'images'}/", f"folder:{tmp_path / 'link'}"):
        again = here("evaluate", f"--run_dir={tmp_path / 'run'}", f"--dataset={name}")
        assert f"8 images of {name}, the run's own, split test:" in again.stdout, again.stderr
        assert row.rsplit("  ", 1)[0] in again.stdout  # but for the time of an image
    other = f"folder:{tmp_path / 'more'}"
    again = here("evaluate", f"--run_dir={tmp_path / 'run'}", f"--dataset={other}")
    assert f"20 images of {other}, split all:" in again.stdout, again.stderr
    assert "warning" not in again.stdout
    (tmp_path / "images").rename(tmp_path / "moved")
    lost = here("export", f"--run_dir={tmp_path / 'run'}")
    fails(lost, 1, "; put them back, or write their new place into")
    again = here(
        "evaluate", f"--run_dir={tmp_path / 'run'}", f"--dataset=folder:{tmp_path / 'moved'}"
    )
    assert "warning: these are the images that the run was trained on" in again.stdout


def test_images_that_were_named_from_another_directory_are_found(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "images").mkdir()
    config = Config(dataset="folder:images", run_dir="run")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run/data.json").write_text(json.dumps(whereabouts.folder_fact(config)))
    assert whereabouts.located(config, Path("run")) == config
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = whereabouts.located(config, Path("../run"))
    assert found.dataset == f"folder:{tmp_path / 'images'}"
    whereabouts.check(found, Path("../run"))
    assert whereabouts.folder_fact(Config(dataset="digits")) == {}


def test_a_loss_that_is_not_finite_names_peer_step_and_lambda_and_exits_with_1(good):
    wild = "--peer=tests.small_peers:plain,name=wild,learning_rate=1e30"
    result = here("train", *good, wild, "--method=ensemble")
    fails(result, 1, "non-finite loss: peer wild, step 1, lambda 1.0", "a lower learning_rate")


@pytest.mark.slow
def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(good, tmp_path):
    command = [sys.executable, "-m", "xkd_keras.train", *good, "--epochs=5000"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("epoch"):
            break
    process.send_signal(signal.SIGINT)
    words, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert words.splitlines()[-1] == "closing ..."
    assert errors.strip() == f"interrupted; the same command resumes from {tmp_path / 'run'}"


@pytest.mark.slow
def test_a_ctrl_c_that_python_loses_ends_training_all_the_same(good, tmp_path):
    script = """
import os, signal, sys
from xkd_keras.flags import command_line
from xkd_keras import train
from xkd_keras.runs import building
from xkd_keras.flags import config as configs, presets
from absl import flags

class Gone:
    def __del__(self):  # what is raised in here is lost
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(1000))

prepare = building.set_up
building.set_up = lambda config: (Gone(), prepare(config))[1]
configs.define(flags.FLAGS)
presets.define(flags.FLAGS)
command_line.run(train.main)
"""
    command = [sys.executable, "-c", script, *good, "--epochs=5000"]
    process = subprocess.run(
        command, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=300
    )
    assert "Exception ignored" in process.stderr
    assert process.stderr.endswith(f"resumes from {tmp_path / 'run'}\n")
    assert process.returncode == 130


@pytest.mark.slow
def test_two_logical_cpus_train_as_mirrored_replicas(good, tmp_path):
    result = run("train", *good, "--strategy=mirrored", "--logical_cpus=2")
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["training"]["replicas"] == 2
