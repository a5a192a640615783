"""A run that is killed goes on to the very same bits: weights, optimizer state, metrics."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent


PLAIN = "--peer=tests.small_peers:plain,learning_rate=0.01"
NORMALISED = "--peer=tests.small_peers:normalised,optimizer=adamw,learning_rate=0.003"
STAGED = "--peer=tests.small_peers:staged,learning_rate=0.01"


def command(run_dir, data_dir, epochs, *more):
    flags = [
        f"--run_dir={run_dir}",
        f"--data_dir={data_dir}",
        f"--epochs={epochs}",
        "--dataset=digits",
        "--train_examples=200",
        "--batch_size=50",
        "--distill_period=0.5",
        "--deterministic",
        *more,
    ]
    return [sys.executable, "-m", "xkd_keras.train", *flags]


def start(*args):
    return subprocess.Popen(
        command(*args), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(*args):
    process = start(*args)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def kill_after(seconds, sign, *args):
    """Start the command and kill it that long after a line that begins with `sign`."""
    process = start(*args)
    for line in process.stdout:
        if line.startswith(sign):
            break
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def assert_same_run(one: Path, two: Path, epochs):
    name = f"checkpoints/epoch-{epochs:04d}.npz"
    with np.load(one / name) as a, np.load(two / name) as b:
        for key in set(a.files) - {"about"}:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)
    histories = [list(csv.DictReader((run / "logs/history.csv").open())) for run in (one, two)]
    for a, b in zip(*histories, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    results = [json.loads((run / "metrics.json").read_text()) for run in (one, two)]
    for result in results:
        for row in [result["ensemble"], *result["peers"].values()]:
            del row["milliseconds_per_image"]
    assert results[0]["peers"] == results[1]["peers"]
    assert results[0]["ensemble"] == results[1]["ensemble"]
    for path in sorted((one / "peers").iterdir()):
        a, b = (keras.models.load_model(run / "peers" / path.name) for run in (one, two))
        for x, y in zip(a.get_weights(), b.get_weights(), strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "epochs", "kills"), [("xkd", 45, 2), ("exits", 45, 1)])
def test_a_run_killed_at_random_moments_ends_in_the_same_bits(
    tmp_path, data_dir, finished_run, kind, epochs, kills
):
    """With all that a run may keep beside weights; KILLS and KILL_SEED try more moments."""
    start = f",start={finished_run.run_dir}/peers/normalised.keras,freeze=15,start_rate=0.3"
    more = [PLAIN, NORMALISED + start, "--method=xkd", "--ema=0.99", "--keep=best"]
    more += ["--patience=40", "--mix=both", "--augment=crop+rotate+colour+randaugment+erase"]
    more += ["--label_smoothing=0.1"]
    if kind == "exits":
        more = [STAGED, STAGED + ",name=b,optimizer=adamw", "--method=dml", "--exits=1"]
    kills = int(os.environ.get("KILLS", kills))
    finish(tmp_path / "whole", data_dir, epochs, *more)
    moments = random.Random(int(os.environ.get("KILL_SEED", "0")))
    for kill in range(kills):
        # In training, or while it starts and traces: a slow machine gets to an epoch, too.
        sign, most = ("each line", 4.0) if kill % 2 else ("epoch", 2.0)
        seconds = moments.uniform(0.0, most)
        kill_after(seconds, sign, tmp_path / "killed", data_dir, epochs, *more)
    assert not (tmp_path / "killed/metrics.json").exists(), "too fast to be killed so often"
    said = finish(tmp_path / "killed", data_dir, epochs, *more)
    assert "resuming after epoch" in said
    ended = json.loads((tmp_path / "whole/metrics.json").read_text())["training"]["epochs"]
    assert_same_run(tmp_path / "whole", tmp_path / "killed", ended)
