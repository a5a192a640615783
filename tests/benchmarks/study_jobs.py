"""Runs of a study in an hour: as many side by side as --jobs=0 chooses, against one with all cores.

python tests/benchmarks/study_jobs.py [--rounds=2] [--seeds=4] [--epochs=20]

AlexNet and ResNet-20 on 100 digits, alone and taught: the whole command is timed, so that starting,
reading and the report count. The two take turns.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measured
from absl import app, flags

flags.DEFINE_integer("rounds", 2, "How often each is measured.")
flags.DEFINE_integer("seeds", 4, "Seeds; each gives two runs.")
flags.DEFINE_integer("epochs", 20, "Epochs of a run.")
STUDY = (
    *("--dataset=digits", "--train_examples=100", "--batch_size=20"),
    *("--peer=alexnet,learning_rate=0.01", "--peer=resnet20,learning_rate=0.05"),
    *("--learning_rate_schedule=cosine", "--compare=solo", "--compare=xkd"),
)


def runs_per_hour(jobs: int) -> float:
    """Return it of one study with --jobs."""
    values = flags.FLAGS
    with tempfile.TemporaryDirectory() as folder:
        own = [f"--run_dir={folder}/s", f"--seeds={values.seeds}", f"--epochs={values.epochs}"]
        command = [sys.executable, "-m", "xkd_keras.study", *STUDY, *own, f"--jobs={jobs}"]
        began = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        seconds = time.perf_counter() - began
        runs = json.loads((Path(folder) / "s" / "study.json").read_text())["runs"]
    assert all(run["status"] == "done" for run in runs)
    return 3600 * len(runs) / seconds


def main(_):
    """Measure both in turns and print the table."""
    measured.circumstances()
    found = {1: [], 0: []}
    for _ in range(flags.FLAGS.rounds):
        for jobs, rates in found.items():
            rates.append(runs_per_hour(jobs))
    one, chosen = (statistics.median(rates) for rates in found.values())
    rows = [["1, with all cores", one, 1.0], ["0: chosen", chosen, chosen / one]]
    measured.table(["jobs", "runs an hour", "ratio"], rows)


if __name__ == "__main__":
    app.run(main)
