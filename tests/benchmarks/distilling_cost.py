"""What does it cost that peers teach each other: against learning side by side, and each alone?

python tests/benchmarks/distilling_cost.py [--rounds=15] [--steps=10] [--cohorts=alexnet+vgg11]

Steps of the same cohort (32x32, 100 classes) by `--method=mcod` with lambda = 1 throughout, by
`--method=solo`, whose graph is the same with lambda = 0, and of each peer in a cohort of its own.
"""

import statistics

import measured
from absl import app, flags

flags.DEFINE_integer("rounds", 15, "How often each is measured.")
flags.DEFINE_integer("steps", 10, "Steps of a measurement.")
flags.DEFINE_integer("batch_size", 64, "Images a step.")
TWO, ALL = "resnet20+densenet-bc-40-12", "alexnet+vgg11+resnet20+densenet-bc-40-12"
flags.DEFINE_list("cohorts", ["alexnet+vgg11", TWO, ALL], "Of two or more peers, joined by +.")


def measure(peers: list[str]) -> list[float]:
    """Return milliseconds of mcod, solo, and all peers alone; and mcod / solo, mcod / alone."""
    values = flags.FLAGS
    cohorts = {"mcod": (peers, "mcod"), "solo": (peers, "solo")}
    cohorts |= {peer: ([peer], "solo") for peer in peers}
    makes = {
        name: (measured.own_step, members, values.batch_size, 32, 100, method)
        for name, (members, method) in cohorts.items()
    }
    seconds = measured.take_turns(makes, values.rounds, values.steps)
    mcod, solo, *each = (1000 * value for value in seconds.values())
    return [mcod, solo, sum(each), mcod / solo, mcod / sum(each)]


def main(_):
    """Print a table."""
    measured.circumstances()
    rows = [[cohort, *measure(cohort.split("+"))] for cohort in flags.FLAGS.cohorts]
    means = [statistics.geometric_mean(each) for each in list(zip(*rows, strict=True))[4:]]
    head = ["cohort", "mcod, ms", "solo, ms", "sum of peers alone, ms", "mcod / solo", "mcod / sum"]
    measured.table(head, [*rows, ["geometric mean", "", "", "", *means]])


if __name__ == "__main__":
    app.run(main)
