"""How fast is a training step, against plain Keras, PyTorch, and PyTorch compiled?

python tests/benchmarks/train_step.py [--rounds=15] [--steps=10] [--cohorts=alexnet+vgg11]

Needs torch, and g++ for torch.compile. The same networks (32x32, 100 classes), losses (sum over the
peers of cross-entropy and T^2 KL to the mean of the logits), optimizer (SGD with momentum and L2)
and batch in memory, float32, in every framework's default threads. Before anything is measured the
copied weights must give the same logits, and the same loss after a few steps of training.

What is not the same favours the others: ours keeps its usual metrics and looks for losses that are
not finite, they keep loss and top-1; ours normalises pixels in every peer, PyTorch once.
"""

import importlib.util
import math
import statistics

import measured
from absl import app, flags

COHORTS = [
    "alexnet+vgg11",
    "resnet20",
    "densenet-bc-40-12",
    "alexnet+vgg11+resnet20+densenet-bc-40-12",
]
CONTENDERS = ["ours", "keras", "torch", "torch.compile"]
flags.DEFINE_integer("rounds", 15, "How often each is measured.")
flags.DEFINE_integer("steps", 10, "Steps of a measurement.")
flags.DEFINE_integer("batch_size", 64, "Images a step.")
flags.DEFINE_list("cohorts", COHORTS, "Of peers, joined by +.")
flags.DEFINE_list("contenders", CONTENDERS, "Who takes part.")
flags.DEFINE_bool("check", False, "Check that all compute the same, and measure nothing.")
CLASSES = 100
CHECKED = 3  # steps of training that must agree
TOLERANCE = 1e-3


def plain_cohort(names: list[str]):
    """Return what a Keras user writes: stock layers, stock optimizer, two kinds of metrics."""
    from xkd_keras import peers
    from xkd_keras.devices import start_up

    start_up.load_tensorflow()
    import keras
    import tensorflow as tf

    class Plain(keras.Model):
        def __init__(self):
            super().__init__()
            shape = (32, 32, 3)
            self.peers = {name: peers.build(name, shape, CLASSES, seed=0) for name in names}
            self.label_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            self.divergence = keras.losses.KLDivergence()
            self.mean_loss = keras.metrics.Mean(name="loss")
            self.top1 = {n: keras.metrics.SparseCategoricalAccuracy(name=n) for n in names}
            self.built = True

        def train_step(self, data):
            images, labels = data
            with tf.GradientTape() as tape:
                logits = [peer(images, training=True) for peer in self.peers.values()]
                mean = tf.stop_gradient(sum(logits) / len(logits))
                taught, loss = tf.nn.softmax(mean / measured.TEMPERATURE), 0.0
                for z in logits:
                    own = tf.nn.softmax(z / measured.TEMPERATURE)
                    distilled = self.divergence(taught, own)
                    loss += self.label_loss(labels, z) + measured.TEMPERATURE**2 * distilled
            variables = self.trainable_variables
            gradients = tape.gradient(loss, variables)
            gradients = [g + measured.L2 * v for g, v in zip(gradients, variables, strict=True)]
            self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
            self.mean_loss.update_state(loss)
            for metric, z in zip(self.top1.values(), logits, strict=True):
                metric.update_state(labels, z)
            return {metric.name: metric.result() for metric in self.metrics}

    model = Plain()
    model.compile(keras.optimizers.SGD(measured.RATE, measured.MOMENTUM))
    return model


def plain_step(names: list[str], batch_size: int):
    """Make the contender in stock Keras."""
    model = plain_cohort(names)
    return measured.timed(measured.train_step(model, *measured.batch(batch_size)))


def torch_step(names: list[str], batch_size: int, compiled: bool):
    """Make the contender in PyTorch."""
    import torch_peers

    batch = measured.batch(batch_size)
    return measured.timed(torch_peers.Training(names, *batch, CLASSES, compiled).step)


MAKES = {
    "ours": (measured.own_step,),
    "keras": (plain_step,),
    "torch": (torch_step, False),
    "torch.compile": (torch_step, True),
}


def keras_numbers(build, names: list[str], batch_size: int):
    """Answer with parameters, weights, logits, and the mean loss of the first steps."""
    model, (pixels, labels) = build(names), measured.batch(batch_size)
    step = measured.train_step(model, pixels, labels)

    def answer():
        networks = list(model.peers.values())
        learned = [[layer for layer in net.layers if layer.trainable_weights] for net in networks]
        weights = [{layer.name: layer.get_weights() for layer in net} for net in learned]
        counts = [sum(v.shape.num_elements() for v in n.trainable_variables) for n in networks]
        # Of inference, whose moving statistics are copied and, unlike training's, not yet moved.
        logits = [network.predict(pixels, verbose=0) for network in networks]
        logs = [step() for _ in range(CHECKED)][-1]
        return counts, logits, float(logs["loss"]), weights

    return answer


def torch_numbers(names: list[str], batch_size: int):
    """Answer, to weights, with the same."""
    import torch
    import torch_peers

    training = torch_peers.Training(names, *measured.batch(batch_size), CLASSES, False)
    networks = training.cohort.peers

    def answer(weights):
        for network, each in zip(networks, weights, strict=True):
            torch_peers.load(network, each)
        with torch.no_grad():
            training.cohort.eval()
            logits = training.cohort(training.images, training.labels)[1].numpy()
        training.cohort.train()
        for _ in range(CHECKED):
            training.step()
        counts = [torch_peers.parameters(network) for network in networks]
        return counts, list(logits), float(training.loss) / CHECKED

    return answer


def check(names: list[str], batch_size: int) -> None:
    """Stop unless all compute the same."""
    import numpy as np

    arguments = (names, batch_size)
    with measured.Contender(keras_numbers, measured.cohort, *arguments) as ours:
        *own, weights = ours.ask()
    with measured.Contender(keras_numbers, plain_cohort, *arguments) as plain:
        others = {"keras": plain.ask()[:3]}
    with measured.Contender(torch_numbers, *arguments) as reference:
        others["torch"] = reference.ask(weights)
    for contender, (counts, logits, loss) in others.items():
        if counts != own[0]:
            raise SystemExit(f"{contender}: {counts} parameters, ours {own[0]}")
        apart = [abs(a - b).max() / abs(a).max() for a, b in zip(own[1], logits, strict=True)]
        apart.append(abs(own[2] - loss) / own[2])
        if not np.max(apart) < TOLERANCE:
            raise SystemExit(f"{contender}: logits and loss differ by {apart} of ours")
        print(
            f"{'+'.join(names)}, {contender}: {sum(counts):,} parameters, as ours; logits differ by"
            f" {max(apart[:-1]):.0e}, the loss of {CHECKED} steps by {apart[-1]:.0e} of ours"
        )


def measure(names: list[str]) -> dict[str, float]:
    """Return the median milliseconds a step, by contender."""
    values, makes = flags.FLAGS, {}
    for contender in values.contenders:
        make, *more = MAKES[contender]
        makes[contender] = (make, names, values.batch_size, *more)
    seconds = measured.take_turns(makes, values.rounds, values.steps)
    return {name: 1000 * value for name, value in seconds.items()}


def compared(row: dict[str, float]) -> list[float]:
    """Return how many times as long as ours PyTorch takes, the faster way, and Keras."""
    rivals = [[name for name in row if "torch" in name], [name for name in row if name == "keras"]]
    times = [min((row[name] for name in names), default=math.nan) for names in rivals]
    return [each / row.get("ours", math.nan) for each in times]


def main(_):
    """Check, measure, print a table."""
    values = flags.FLAGS
    if importlib.util.find_spec("torch") is None:
        raise SystemExit("torch cannot be imported; valid: pip install torch")
    measured.circumstances()
    cohorts = {cohort: cohort.split("+") for cohort in values.cohorts}
    for names in cohorts.values():
        check(names, values.batch_size)
    if values.check:
        return
    rows = {cohort: measure(names) for cohort, names in cohorts.items()}
    ratios = {cohort: compared(row) for cohort, row in rows.items()}
    head = ["cohort", *(f"{name}, ms" for name in values.contenders)]
    lines = [[cohort, *rows[cohort].values(), *ratios[cohort]] for cohort in rows]
    means = [statistics.geometric_mean(each) for each in zip(*ratios.values(), strict=True)]
    lines.append(["geometric mean", *([""] * len(values.contenders)), *means])
    measured.table([*head, "faster PyTorch / ours", "Keras / ours"], lines)


if __name__ == "__main__":
    app.run(main)
