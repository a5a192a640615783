"""How much of what the machine can calculate does each peer's training step use?

python tests/benchmarks/flops.py [--rounds=15] [--steps=10] [--peers=alexnet,vgg11]

A step is taken to need three times the floating-point operations of the forward pass (forward,
gradient to the inputs, gradient to the weights), and those to be two for each multiplication of the
convolutions and dense layers, summed from their shapes; all else (batch norm, pooling, losses,
optimizer) counts as nothing done. A step's time is that of a cohort of one. The peak is that of a
float32 matrix product, of the best of several sizes, in a process that takes turns with the others.
"""

import math
import time

import measured
from absl import app, flags

flags.DEFINE_integer("rounds", 15, "How often each is measured.")
flags.DEFINE_integer("steps", 10, "Steps of a measurement.")
flags.DEFINE_integer("batch_size", 64, "Images a step.")
PEERS = ["alexnet", "vgg11", "resnet20", "densenet-bc-40-12"]
flags.DEFINE_list("peers", PEERS, "Networks of 32x32 images and 100 classes.")
SIDES = (1024, 2048, 4096)  # of the matrices
TRAINING = 3  # times the forward pass


def matmul():
    """Make a contender that answers with the seconds of one operation, at best."""
    from xkd_keras.devices import start_up

    start_up.load_tensorflow()
    import tensorflow as tf

    matrices = [tf.random.normal((side, side)) for side in SIDES]

    def answer(steps: int) -> float:
        found = []
        for a in matrices:
            begin = time.perf_counter()
            for _ in range(steps):
                tf.matmul(a, a)
            found.append((time.perf_counter() - begin) / steps / (2 * a.shape[0] ** 3))
        return min(found)

    return answer


def operations(peer: str) -> int:
    """Return the floating-point operations of a forward pass of one image."""
    from xkd_keras import peers
    from xkd_keras.devices import start_up

    start_up.load_tensorflow()
    import keras

    total = 0
    for layer in peers.build(peer, (32, 32, 3), 100).layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D):  # the normalisation, and mobile nets
            total += 2 * math.prod(layer.output.shape[1:3]) * math.prod(layer.kernel.shape)
        elif isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            places = math.prod(layer.output.shape[1:-1])  # 1 for a dense layer
            total += 2 * places * math.prod(layer.kernel.shape)
    return total


def main(_):
    """Print a table."""
    measured.circumstances()
    values = flags.FLAGS
    makes = {peer: (measured.own_step, [peer], values.batch_size) for peer in values.peers}
    seconds = measured.take_turns({**makes, "": (matmul,)}, values.rounds, values.steps)
    peak = 1 / seconds[""] / 1e9
    print(f"\npeak: {peak:.1f} GFLOP/s, float32 matrix product")
    rows = []
    for peer in values.peers:
        forward = operations(peer) / 1e6
        speed = TRAINING * forward * values.batch_size / seconds[peer] / 1e3
        rows.append([peer, forward, 1000 * seconds[peer], speed, f"{speed / peak:.1%}"])
    head = ["peer", "forward, MFLOP an image", "ms a step", "GFLOP/s in training", "of the peak"]
    measured.table(head, rows)


if __name__ == "__main__":
    app.run(main)
