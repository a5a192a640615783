"""What holds the memory of a training step, and what does --recompute save and cost?

python tests/benchmarks/memory.py [--rounds=3] [--steps=3]

Steps of cohorts that learn side by side (100 classes), with and without --recompute, each in a
process of its own. Memory is the peak above what the process had before its cohort was built.
"""

import math
import statistics

import measured
from absl import app, flags

flags.DEFINE_integer("rounds", 3, "How often each is measured.", 1)
flags.DEFINE_integer("steps", 3, "Steps of a measurement.", 1)
CASES = (  # peers, batch, side
    ("resnet20 " * 8, 64, 32),
    ("alexnet vgg11", 64, 32),
    ("densenet-bc-40-12", 64, 32),
    ("resnet20", 64, 128),
    ("mobilenet_v2 resnet20", 32, 96),
)
# What gradients read: the inputs of batch normalisation and of convolutions.
READ = ("Conv2D", "DepthwiseConv2D", "ReLU", "Concatenate")


def contender(peers: tuple[str, ...], batch: int, side: int, recompute: bool):
    """Make a contender that answers with seconds a step and MiB above the imports."""
    from xkd_keras.devices import start_up

    start_up.load_tensorflow()
    from xkd_keras.runs import training  # noqa: F401 - for its memory

    before = measured.peak()
    run = measured.own_step(peers, batch, side, more={"recompute": recompute})
    run(measured.WARM_UP)
    return lambda steps: (run(steps), measured.peak() - before)


def held(peers: tuple[str, ...], batch: int, side: int) -> tuple[float, float]:
    """Return MiB of weights with gradient and momentum, and of activations that gradients read."""
    weights = read = 0
    for peer in measured.cohort(peers, side).peers.values():
        weights += 3 * sum(math.prod(w.shape) for w in peer.trainable_weights)
        outputs = [layer.output for layer in peer.layers if type(layer).__name__ in READ]
        read += batch * sum(math.prod(output.shape[1:]) for output in outputs)
    return 4 * weights / 2**20, 4 * read / 2**20


def measure(peers: tuple[str, ...], batch: int, side: int) -> list[float]:
    """Return a row of numbers; the two take turns."""
    rounds = []
    for _ in range(flags.FLAGS.rounds):
        pair = []
        for recompute in (False, True):
            with measured.Contender(contender, peers, batch, side, recompute) as one:
                pair += one.ask(flags.FLAGS.steps)
        rounds.append(pair)
    seconds, memory, again, less = map(statistics.median, zip(*rounds, strict=True))
    with measured.Contender(holding, peers, batch, side) as one:
        weights, read = one.ask(0)
    return [weights, read, memory, less, less / memory, again / seconds]


def holding(*case):
    """Make a contender that answers as `held`."""
    found = held(*case)
    return lambda _: found


def main(_):
    """Print a table."""
    measured.circumstances()
    head = ["peers", "batch", "side", "weights, gradients, momentum, MiB"]
    head += ["activations that gradients read, MiB", "peak, MiB", "with --recompute, MiB"]
    rows = []
    for names, batch, side in CASES:
        peers = tuple(names.split())
        told = f"{len(peers)} x {peers[0]}" if len(set(peers)) < len(peers) else " + ".join(peers)
        rows.append([told, str(batch), str(side), *measure(peers, batch, side)])
    measured.table([*head, "part of the peak", "times the step"], rows)


if __name__ == "__main__":
    app.run(main)
