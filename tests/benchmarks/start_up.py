"""How long does it take from the command to the first step of training, and what takes it?

python tests/benchmarks/start_up.py [--rounds=5] [--config=configs/quickstart.flags]

The command is stopped after its first step. Beside it, in a process of its own each time, the
functions that it calls are called one after the other, with a clock between them; its total lacks
what the command writes down beside.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measured
from absl import app, flags

flags.DEFINE_integer("rounds", 5, "How often each is measured.")
flags.DEFINE_string("config", "configs/quickstart.flags", "What to train.")
# The command itself, but that it tells the time of its first step, and ends.
COMMAND = """
import os, runpy, time
from xkd_keras.devices import start_up
start_up.load_tensorflow()
import keras
def end(*_):
    print(time.perf_counter(), flush=True)
    os._exit(0)
keras.callbacks.CallbackList.on_train_batch_end = end
runpy.run_module("xkd_keras.train", run_name="__main__", alter_sys=True)
"""


def stages(config_file: str, run_dir: str, began: float) -> dict[str, float]:
    """Return the seconds of each stage in this process, the first from when it was started."""
    seconds, last = {}, began

    def done(stage: str) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds[stage], last = now - last, now

    done("start Python")
    from xkd_keras import train
    from xkd_keras.devices import start_up
    from xkd_keras.flags import config

    settings = dataclasses.replace(config.read(Path(config_file)), run_dir=run_dir)
    train.check_flags(settings)
    train.check_own(settings)
    done("read and check flags")
    start_up.load_tensorflow()
    done("import TensorFlow and Keras")
    from xkd_keras import data
    from xkd_keras.runs import building
    from xkd_keras.runs import directory as rundir

    done("import the rest")
    building.set_up(settings)
    images = rundir.load_dataset(settings)
    done("load data")
    steps = data.steps_per_epoch(images, settings.batch_size)
    cohort = building.build_cohort(settings, images, steps)
    done("build the cohort")
    fit(cohort, data.train_batches(images, batch_size=settings.batch_size, epochs=1), done)
    return seconds


def fit(cohort, batches, done) -> None:
    """Train two steps."""
    import keras

    names = ["trace and first step", "(a later step)"]
    clock = keras.callbacks.LambdaCallback(on_train_batch_end=lambda i, logs: done(names[i]))
    cohort.fit(batches, steps_per_epoch=2, callbacks=[clock], shuffle=False, verbose=0)


def run(*arguments: str) -> str:
    """Return the last line of a new Python's output, which finds the project where it is."""
    command = [sys.executable, *arguments]
    env = {**os.environ, "_XKD_KERAS_COMMAND": "1"}  # as `python -m xkd_keras.train` is one
    found = subprocess.run(
        command, cwd=measured.ROOT, check=True, text=True, capture_output=True, env=env
    )
    return found.stdout.splitlines()[-1]


def once() -> dict[str, float]:
    """Measure the command and its stages once."""
    values = flags.FLAGS
    with tempfile.TemporaryDirectory() as folder:
        more = [f"--flagfile={values.config}", f"--run_dir={folder}/command"]
        began = time.perf_counter()
        command = float(run("-c", COMMAND, *more)) - began  # the clock is one for all processes
        more = [values.config, f"{folder}/stages", repr(time.perf_counter())]
        found = json.loads(run(__file__, "--", "stages", *more))
    return {**found, "the command": command}


def main(argv):
    """Print a table of medians."""
    if argv[1:2] == ["stages"]:
        print(json.dumps(stages(argv[2], argv[3], float(argv[4]))))
        return
    measured.circumstances()
    rounds = [once() for _ in range(flags.FLAGS.rounds)]
    medians = {stage: statistics.median(each[stage] for each in rounds) for stage in rounds[0]}
    command, later = medians.pop("the command"), medians.pop("(a later step)")
    total = sum(medians.values())
    rows = [[stage, value, f"{value / total:.0%}"] for stage, value in medians.items()]
    rows += [["all of these", total, ""], ["the command, to its first step", command, ""]]
    measured.table(["stage", "seconds", "of all"], [*rows, ["a later step", later, ""]])


if __name__ == "__main__":
    app.run(main)
