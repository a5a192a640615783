"""Studies on real images, made in seconds, and a way to run them without processes."""

import json

from tests.small_runs import PLAIN
from xkd_keras.flags import config as configs
from xkd_keras.study import measurement, orchestration, workers
from xkd_keras.study.options import parse_arms, parse_grid
from xkd_keras.study.plan import Plan

NORMALISED = "tests.small_peers:normalised,learning_rate=0.05,weight=2"


def base(run_dir, data_dir, **flags):
    """Return what all runs of a study share: two small peers on 100 digits, three epochs."""
    flags = {"peer": (PLAIN, NORMALISED), "epochs": 3, "batch_size": 50, **flags}
    return configs.Config(
        run_dir=str(run_dir), data_dir=str(data_dir), dataset="digits", train_examples=100, **flags
    )


def whole(directory, data_dir):
    """Return the plan of a study with a search, a teacher that is trained, and runs that fail."""
    return Plan(
        base(directory, data_dir),
        parse_arms(["solo", "kd", "mcod", "mcod,name=broken,distill_weight_max=1e30"]),
        seeds=(0, 1),
        grid=parse_grid(["temperature=1:4"]),
        sweep_seeds=(100_000,),
    )


def in_process(tasks, jobs, part):
    """Do what `workers.run_all` does here: nothing is imported or traced a second time.

    What fails comes last: a run that fails makes every graph be forgotten.
    """
    for task in sorted(tasks, key=lambda task: "broken" in task.name):  # teachers stay before
        yield task, workers._attempt(measurement.run, task)


def run(plan, patch):
    """Run a study in this process; return what study.json holds."""
    patch.setattr(workers, "run_all", in_process)
    returned = json.loads(json.dumps(orchestration.run(plan)))
    assert returned == json.loads((plan.directory / "study.json").read_text())
    return returned
