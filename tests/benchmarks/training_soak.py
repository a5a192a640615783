"""Does a long run leak? 200 short epochs with validation, checkpoints and exports.

python tests/benchmarks/training_soak.py [--epochs=200] [--out=soak.svg]

After every epoch: resident memory, threads and open files of the process. Every tenth epoch a peer
is exported, as a SavedModel and as TFLite. Printed are a table and, over the second half of the
run, the slope of the memory; drawn, all of it.
"""

import os
import sys
import tempfile
from pathlib import Path

from absl import app, flags

flags.DEFINE_integer("epochs", 200, "How long to train.")
flags.DEFINE_integer("every", 10, "Epochs between two exports.")
flags.DEFINE_string("out", "", "Where to draw it, as .svg or .png.")
sys.path.insert(0, str(Path(__file__).parent.parent.parent))


def configuration(directory: Path, epochs: int):
    """Return two small peers on few digits."""
    from xkd_keras.flags import config

    return config.Config(
        run_dir=str(directory / "run"),
        data_dir=str(directory / "data"),
        dataset="digits",
        train_examples=200,
        peer=("tests.small_peers:plain", "tests.small_peers:normalised,optimizer=adamw"),
        learning_rate=0.01,
        batch_size=50,
        epochs=epochs,
    )


def resident() -> float:
    """Return the memory of this process in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def watch(rows: list, every: int):
    """Return the callback that exports, and notes what the process holds."""
    import keras
    import numpy as np

    from xkd_keras import peers
    from xkd_keras.ship import lite, savedmodel

    def export(model):
        model, labels = peers.stock(model), [str(i) for i in range(model.output_shape[-1])]
        with tempfile.TemporaryDirectory() as directory:
            example = np.zeros(model.input_shape[1:], np.uint8)
            path = Path(directory) / "1"
            savedmodel.write(path, {"a": model}, {"a": 1.0}, labels, 1.0, example, "a")
            with lite.converters(model) as convert:
                convert("dynamic", None)

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if (epoch + 1) % every == 0:
                export(next(iter(self.model.peers.values())))
            held = (len(list(Path(f"/proc/self/{kind}").iterdir())) for kind in ("task", "fd"))
            rows.append((epoch + 1, resident(), *held))

    return Watch()


def draw(rows, path: str) -> None:
    """Draw memory, threads and open files over the epochs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, sharex=True, figsize=(6, 5))
    for axis, name, values in zip(axes, ("MiB", "threads", "open files"), rows.T[1:], strict=True):
        axis.plot(rows[:, 0], values)
        axis.set_ylabel(name)
        axis.set_ylim(0, 1.2 * values.max())
    axes[-1].set_xlabel("epoch")
    figure.savefig(path)


def main(_):
    """Train, and print what was held."""
    import numpy as np

    from xkd_keras import train

    given, rows = flags.FLAGS, []
    with tempfile.TemporaryDirectory() as directory:
        config = configuration(Path(directory), given.epochs)
        train.train_and_evaluate(config, [watch(rows, given.every)])
    rows = np.array(rows)
    print("\n| epoch | MiB | threads | open files |\n|---|---|---|---|")
    shown = {0, *range(given.epochs // 10 - 1, given.epochs, given.epochs // 10)}
    for row in rows[sorted(shown)]:
        print("| {:.0f} | {:.0f} | {:.0f} | {:.0f} |".format(*row))
    late = rows[len(rows) // 2 :]
    slope = np.polyfit(late[:, 0], late[:, 1], 1)[0]
    print(f"second half: {100 * slope:+.1f} MiB in 100 epochs")
    if given.out:
        draw(rows, given.out)


if __name__ == "__main__":
    app.run(main)
