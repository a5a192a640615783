"""Does the input pipeline keep up: `fit` against its bare step? And does its memory stay constant?

python tests/benchmarks/input_pipeline.py [--rounds=5] [--steps=40] [--cases=digits,cifar-files]

A case's step within `fit`, fed by `train_batches`, without its first, over that on one batch in
memory; the pipeline's own time for a batch, of which nobody learns, is what the two have to hide.
Folders are drawn: PNGs of 32x32, JPEGs of 500x375 and of 4000x3000. "files" are read again each
epoch, as folders beyond --cache_gib are; otherwise they are in memory, PNGs decoded and JPEGs
encoded (large ones as smaller copies). Memory is a process' VmRSS after one epoch of AlexNet on
PNGs read from files (Linux: read from /proc).
"""

import dataclasses
import re
import tempfile
import time
from pathlib import Path

import measured
from absl import app, flags

flags.DEFINE_integer("rounds", 5, "How often each is measured.")
flags.DEFINE_integer("steps", 40, "Steps of a measurement.")
flags.DEFINE_integer("pngs", 2000, "Images of 32x32; 70 % are trained on.")
flags.DEFINE_integer("jpegs", 600, "Images of 500x375.")
flags.DEFINE_integer("photos", 100, "Images of 4000x3000, as phones make them.")
flags.DEFINE_list("growth", ["1", "4", "16"], "Times --pngs, for memory.")


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained on what.

    Attributes:
        data: `digits`, or a folder that `main` draws.
        peers: Names.
        batch_size: Images a step.
        image_size: Side; 0 takes the data set's own.
        augment: What training images go through.
        cache_gib: As `datasets.load`; 0 reads files again each epoch.
    """

    data: str
    peers: tuple[str, ...] = ("alexnet", "resnet20")
    batch_size: int = 64
    image_size: int = 0
    augment: str = "auto"
    cache_gib: float = 2.0


MOBILE = Case("jpeg", ("imagenet_mobilenet_v2",), 16, 224)
CASES = {
    "digits": Case("digits"),
    "cifar": Case("png", image_size=32),
    "cifar-files": Case("png", image_size=32, cache_gib=0),
    "imagenet": MOBILE,
    "imagenet-files": dataclasses.replace(MOBILE, cache_gib=0),
    "phone": dataclasses.replace(MOBILE, data="photo"),
    "phone-files": dataclasses.replace(MOBILE, data="photo", cache_gib=0),
    "cifar-colour": Case("png", image_size=32, augment="crop+flip+colour"),
    "imagenet-all": dataclasses.replace(MOBILE, augment="inception+randaugment+erase"),
}
flags.DEFINE_list("cases", list(CASES), "What to measure.")


def draw(folder: Path, count: int, suffix: str, size: tuple[int, int]) -> None:
    """Write images of coarse colours with fine noise, in ten folders."""
    import numpy as np
    from PIL import Image

    random, (width, height) = np.random.default_rng(0), size
    for label in range(10):
        (folder / f"class{label}").mkdir(parents=True)
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8)).resize(size)
        noise = random.integers(-16, 17, (height, width, 3), np.int16)
        pixels = np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"class{i % 10}" / f"{i}.{suffix}", quality=90)


def prepared(case: Case, folder: str):
    """Return the data of a case and a cohort for them."""
    from xkd_keras import data as datasets
    from xkd_keras.devices import start_up

    start_up.load_tensorflow()
    name = f"folder:{folder}/{case.data}" if case.data in ("png", "jpeg", "photo") else case.data
    data = datasets.load(
        name, image_size=case.image_size, augment=case.augment, cache_gib=case.cache_gib
    )
    return data, measured.cohort(case.peers, data.image_shape[0], len(data.class_names))


def batches(case: Case, data, epochs: int):
    """Return the stream that training reads."""
    from xkd_keras import data as datasets

    return datasets.train_batches(data, batch_size=case.batch_size, epochs=epochs)


def fitted(case: Case, folder: str):
    """Make the contender that trains as `xkd_keras.train` does, epochs' ends included."""
    data, cohort = prepared(case, folder)
    import keras

    an_epoch = len(data.train) // case.batch_size

    def run(steps: int) -> float:
        ends = []
        epochs = 1 + steps // an_epoch  # one step more than is measured: the first is not
        clock = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter())
        )
        cohort.fit(
            batches(case, data, epochs),
            steps_per_epoch=an_epoch,
            epochs=epochs,
            callbacks=[clock],
            shuffle=False,
            verbose=0,
        )
        return (ends[-1] - ends[0]) / (len(ends) - 1)

    return run


def bare(case: Case, folder: str):
    """Make the contender that learns from the first batch again and again."""
    data, cohort = prepared(case, folder)
    return measured.timed(measured.train_step(cohort, *next(iter(batches(case, data, 1)))))


def read(case: Case, folder: str):
    """Make the contender that learns nothing."""
    data, _ = prepared(case, folder)
    # Anew each turn: the old one has read ahead while others had theirs.
    return lambda steps: measured.timed(iter(batches(case, data, 10**6)).get_next)(steps)


def resident(case: Case, folder: str):
    """Make a contender that answers with the MiB of memory in use after an epoch."""
    run = fitted(case, folder)

    def answer() -> float:
        run(1)
        return int(re.search(r"VmRSS:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024

    return answer


def measure(name: str, folder: str) -> list:
    """Return the row of a case."""
    makes = {make.__name__: (make, CASES[name], folder) for make in (fitted, bare, read)}
    seconds = measured.take_turns(makes, flags.FLAGS.rounds, flags.FLAGS.steps)
    fit, step, pipeline = (1000 * value for value in seconds.values())
    return [name, CASES[name].batch_size, pipeline, step, fit, fit / step]


def memory(times: int) -> list:
    """Return the row of so many times the images."""
    with tempfile.TemporaryDirectory() as folder:
        count = times * flags.FLAGS.pngs
        draw(Path(folder) / "png", count, "png", (32, 32))
        case = Case("png", ("alexnet",), image_size=32, cache_gib=0)
        with measured.Contender(resident, case, folder) as contender:
            return [count, contender.ask()]


def main(_):
    """Draw images, measure, print tables."""
    values = flags.FLAGS
    measured.circumstances()
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder) / "png", values.pngs, "png", (32, 32))
        draw(Path(folder) / "jpeg", values.jpegs, "jpeg", (500, 375))
        if any(CASES[name].data == "photo" for name in values.cases):
            draw(Path(folder) / "photo", values.photos, "jpeg", (4000, 3000))
        rows = [measure(name, folder) for name in values.cases]
    head = ["case", "batch", "pipeline alone, ms", "bare step, ms", "step in fit, ms", "fit / bare"]
    measured.table(head, rows)
    rows = [memory(int(times)) for times in values.growth]
    measured.table(["images", "MiB in use after an epoch"], rows)


if __name__ == "__main__":
    app.run(main)
