"""What is --class_weights=balanced worth on uneven photographs, over seeds?

python tests/benchmarks/class_weights.py --photos=CIFAR10-JPEG --work=DIRECTORY [--jobs=2]

Of every other class 500 training images are taken, of the others 25 (links in DIRECTORY/uneven);
the test images stay as they are. Every part is a run of xkd_keras in DIRECTORY: the same command
goes on where it was stopped. The table is written to DIRECTORY/table.md.
"""

import concurrent.futures
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from absl import app, flags

from xkd_keras.study.statistics import interval

flags.DEFINE_string("photos", None, "train/CLASS and test/CLASS.", required=True)
flags.DEFINE_string("work", None, "Where everything is kept.", required=True)
flags.DEFINE_integer("seeds", 5, "Seeds of every comparison.", 1)
flags.DEFINE_integer("jobs", 1, "Runs side by side; the cores are divided among them.", 1)
flags.DEFINE_integer("epochs", 12, "Of every run.", 1)

PEERS = ("alexnet", "resnet20")
MANY, FEW = 500, 25
RECIPES = {
    "plain": (),
    "class_weights=balanced": ("--class_weights=balanced",),
}


def uneven(photos: Path, work: Path) -> Path:
    """Return a folder of links: of every other class many training images, of the others few."""
    for place, each in enumerate(sorted((photos / "train").iterdir())):
        chosen = sorted(each.iterdir())[: FEW if place % 2 else MANY]
        for file in [*chosen, *(photos / "test" / each.name).iterdir()]:
            link = work / "uneven" / file.relative_to(photos)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(file.resolve())
    return work / "uneven"


def run(folder: Path, recipe: str, seed: int) -> dict:
    """Train, or go on; return what metrics.json holds."""
    values = flags.FLAGS
    run_dir = Path(values.work) / recipe / f"seed-{seed}"
    line = [sys.executable, "-m", "xkd_keras.train", f"--run_dir={run_dir}", "--image_size=32"]
    line += [f"--dataset=folder:{folder}", "--augment=crop_flip", "--batch_size=64"]
    line += [f"--epochs={values.epochs}", "--learning_rate_schedule=cosine", f"--seed={seed}"]
    # In bfloat16, which takes less time on CPUs that compute in it, for all alike.
    line += ["--mixed_precision=bfloat16", *(f"--peer={peer}" for peer in PEERS), *RECIPES[recipe]]
    threads = str(max(1, (os.cpu_count() or 1) // values.jobs))
    env = {"TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": threads}
    done = subprocess.run(line, env={**os.environ, **env}, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)  # the run has said why
    print(f"{recipe}, seed {seed}: done", flush=True)
    return json.loads((run_dir / "metrics.json").read_text())


def told(values) -> str:
    """Return the mean in %, or points, and the half of its 95 % interval."""
    found = interval(list(values))
    half = "" if found["low"] is None else f" ± {50 * (found['high'] - found['low']):.2f}"
    return f"{100 * found['mean']:.2f}{half}"


def table(found: dict[tuple[str, int], dict]) -> str:
    """Return top-1 (the test images are even, so it is balanced accuracy, too) by recipe."""
    seeds = sorted({seed for _, seed in found})
    lines = [
        "| | " + " | ".join([*RECIPES, *(f"{r} − plain, points" for r in RECIPES if r != "plain")]),
        "|---" * (2 * len(RECIPES)),
    ]
    for network in (*PEERS, "ensemble"):
        top1 = {
            recipe: np.array(
                [
                    found[recipe, s]["peers"].get(network, found[recipe, s]["ensemble"])["top1"]
                    for s in seeds
                ]
            )
            for recipe in RECIPES
        }
        apart = [told(top1[r] - top1["plain"]) for r in RECIPES if r != "plain"]
        lines.append(" | ".join([f"| {network}", *map(told, top1.values()), *apart]))
    return "".join(f"{line} |\n" for line in lines)


def main(_):
    """Do what is not done yet; print and write the table."""
    values = flags.FLAGS
    folder = uneven(Path(values.photos), Path(values.work))
    tasks = list(itertools.product(range(values.seeds), RECIPES))
    with concurrent.futures.ThreadPoolExecutor(values.jobs) as pool:
        results = list(pool.map(lambda task: run(folder, task[1], task[0]), tasks))
    text = table({(recipe, seed): r for (seed, recipe), r in zip(tasks, results, strict=True)})
    print(text)
    (Path(values.work) / "table.md").write_text(text)


if __name__ == "__main__":
    app.run(main)
