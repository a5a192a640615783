"""What does it cost that peers teach each other: against learning side by side, and each alone?

python tests/benchmarks/distilling_cost.py [--rounds=15] [--steps=10] [--cohorts=alexnet+vgg11]

Steps of the same cohort (32x32, 100 classes) that only learns (`--method=solo`), that is taught in
one way or another at every step, and of each peer in a cohort of its own.
"""

import statistics

import measured
from absl import app, flags

flags.DEFINE_integer("rounds", 15, "How often each is measured.")
flags.DEFINE_integer("steps", 10, "Steps of a measurement.")
flags.DEFINE_integer("batch_size", 64, "Images a step.")
TWO, ALL = "resnet20+densenet-bc-40-12", "alexnet+vgg11+resnet20+densenet-bc-40-12"
flags.DEFINE_list("cohorts", ["alexnet+vgg11", TWO, ALL], "Of two or more peers, joined by +.")


# How a cohort is taught: the method, and other flags.
TAUGHT = {
    "mcod": ("mcod", {}),
    "xkd": ("xkd", {}),
    "gated": ("ensemble", {"teacher": "gated"}),
    "dml, 1 exit": ("dml", {"exits": 1}),
    "dml, 2 exits": ("dml", {"exits": 2}),
    "solo, mixed": ("solo", {"mix": "both"}),
}


def measure(peers: list[str]) -> list[float]:
    """Return milliseconds of solo, and as parts of it: all peers alone, and each of `TAUGHT`."""
    values = flags.FLAGS
    cohorts = {"solo": (peers, "solo", {}), **{peer: ([peer], "solo", {}) for peer in peers}}
    cohorts |= {name: (peers, *taught) for name, taught in TAUGHT.items()}
    makes = {
        name: (measured.own_step, members, values.batch_size, 32, 100, method, more)
        for name, (members, method, more) in cohorts.items()
    }
    seconds = measured.take_turns(makes, values.rounds, values.steps)
    solo, apart = seconds["solo"], sum(seconds[peer] for peer in peers)
    return [1000 * solo, apart / solo, *(seconds[name] / solo for name in TAUGHT)]


def main(_):
    """Print a table."""
    measured.circumstances()
    rows = [[cohort, *measure(cohort.split("+"))] for cohort in flags.FLAGS.cohorts]
    means = [statistics.geometric_mean(each) for each in list(zip(*rows, strict=True))[2:]]
    head = ["cohort", "solo, ms", "sum of peers alone", *TAUGHT]
    measured.table(head, [*rows, ["geometric mean", "", *means]])


if __name__ == "__main__":
    app.run(main)
