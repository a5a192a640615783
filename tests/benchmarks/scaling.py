"""How do time and memory of a training step grow with peers, classes, batch and image size?

python tests/benchmarks/scaling.py --out=scaling.png [--rounds=3] [--steps=10] [--axes=peers,batch]

ResNet-20s of 100 classes on 64 images of 32x32, but for what is varied. Each point has a process of
its own, anew in every round; memory is its peak, with what TensorFlow and Keras take once imported,
and without. An exponent is the slope of the least-squares line through all points' logarithms.
"""

import math
import statistics

import measured
from absl import app, flags

flags.DEFINE_integer("rounds", 3, "How often each is measured.")
flags.DEFINE_integer("steps", 10, "Steps of a measurement.")
flags.DEFINE_string("out", "scaling.png", "File of the plot.")
AXES = {
    "peers": (1, 2, 4, 8),
    "classes": (10, 100, 1000),
    "batch": (16, 32, 64, 128, 256),
    "side": (32, 64, 128),
}
flags.DEFINE_list("axes", list(AXES), "What to vary.")
COLUMNS = ("ms a step", "peak MiB", "MiB above import")
USUAL = {"peers": 1, "classes": 100, "batch": 64, "side": 32}


def point(peers: int, classes: int, batch: int, side: int):
    """Make a contender that answers with milliseconds, peak MiB, and MiB above the imports."""
    from xkd_keras.devices import start_up

    start_up.load_tensorflow()
    from xkd_keras.runs import training  # noqa: F401 - for its memory

    imported = measured.peak()
    run = measured.own_step(["resnet20"] * peers, batch, side, classes)

    def answer(steps: int) -> tuple[float, ...]:
        run(measured.WARM_UP)
        seconds = run(steps)
        return 1000 * seconds, measured.peak(), measured.peak() - imported

    return answer


def measure(setting: dict[str, int]) -> tuple[float, ...]:
    """Return what a new process answers."""
    with measured.Contender(point, *setting.values()) as contender:
        return contender.ask(flags.FLAGS.steps)


def measure_all() -> dict[str, list[tuple]]:
    """Return, for each axis, the medians of its points."""
    points = [(axis, x) for axis in flags.FLAGS.axes for x in AXES[axis]]
    rounds = [
        [measure({**USUAL, axis: x}) for axis, x in points] for _ in range(flags.FLAGS.rounds)
    ]
    found = {axis: [] for axis in flags.FLAGS.axes}
    for (axis, _), each in zip(points, zip(*rounds, strict=True), strict=True):
        found[axis].append(tuple(map(statistics.median, zip(*each, strict=True))))
    return found


def exponent(xs, ys) -> float:
    """Return the slope of log y over log x."""
    return statistics.linear_regression(*(list(map(math.log, each)) for each in (xs, ys))).slope


def plot(found: dict[str, list[tuple]], path: str) -> None:
    """Draw time and memory over the multiple of each axis' first value."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for panel, column in zip(panels, (0, 2), strict=True):
        for axis, rows in found.items():
            xs, ys = AXES[axis], [row[column] for row in rows]
            label = f"{axis} from {xs[0]}: exponent {exponent(xs, ys):.2f}"
            panel.loglog([x / xs[0] for x in xs], ys, "o-", label=label)
        panel.set(xlabel="times the first value", ylabel=COLUMNS[column])
        panel.legend()
    figure.savefig(path, dpi=150)


def main(_):
    """Print a table, draw a plot."""
    measured.circumstances()
    found = measure_all()
    lines = [
        [axis, x, *row]
        for axis, rows in found.items()
        for x, row in zip(AXES[axis], rows, strict=True)
    ]
    measured.table(["what", "value", *COLUMNS], lines)
    slopes = [
        [axis, *(exponent(AXES[axis], each) for each in zip(*rows, strict=True))]
        for axis, rows in found.items()
    ]
    measured.table(["exponent of", *COLUMNS], slopes)
    plot(found, flags.FLAGS.out)
    print(f"\nplot  {flags.FLAGS.out}")


if __name__ == "__main__":
    app.run(main)
