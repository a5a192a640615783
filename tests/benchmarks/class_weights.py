"""What is --class_weights=balanced worth on uneven photographs, over seeds?

python tests/benchmarks/class_weights.py --photos=CIFAR10-JPEG --work=DIRECTORY [--jobs=2]

Of every other class 500 training images are taken, of the others 25 (links in DIRECTORY/uneven);
the test images stay as they are. Every part is a run of xkd_keras in DIRECTORY: the same command
goes on where it was stopped. The table is written to DIRECTORY/table.md.
"""

import concurrent.futures
import itertools
from pathlib import Path

import numpy as np
import train_runs
from absl import app, flags
from train_runs import told

flags.DEFINE_string("photos", None, "train/CLASS and test/CLASS.", required=True)
flags.DEFINE_string("work", None, "Where everything is kept.", required=True)
flags.DEFINE_integer("seeds", 5, "Seeds of every comparison.", 1)
flags.DEFINE_integer("jobs", 1, "Runs side by side; the cores are divided among them.", 1)
flags.DEFINE_integer("epochs", 12, "Of every run.", 1)

PEERS = ("alexnet", "resnet20")
MANY, FEW = 500, 25
RECIPES = {"plain": (), "balanced": ("--class_weights=balanced",)}


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
    line = [f"--dataset=folder:{folder}", "--image_size=32", "--augment=crop_flip"]
    line += [f"--epochs={values.epochs}", "--learning_rate_schedule=cosine", f"--seed={seed}"]
    # In bfloat16, which takes less time on CPUs that compute in it, for both alike.
    line += ["--mixed_precision=bfloat16", *(f"--peer={peer}" for peer in PEERS), *RECIPES[recipe]]
    run_dir = Path(values.work) / recipe / f"seed-{seed}"
    return train_runs.train(run_dir, [*line, "--batch_size=64"], values.jobs)


def table(found: dict[tuple[str, int], dict]) -> str:
    """Return top-1 (the test images are even, so it is balanced accuracy, too) by recipe."""
    seeds = sorted({seed for _, seed in found})
    lines = [f"| | {' | '.join(RECIPES)} | difference in points |", "|---|---|---|---|"]
    for network in (*PEERS, "ensemble"):
        plain, balanced = (
            [train_runs.of(found[recipe, seed], network)["top1"] for seed in seeds]
            for recipe in RECIPES
        )
        apart = told(np.subtract(balanced, plain).tolist(), sign="+")
        lines.append(f"| {network} | {told(plain)} | {told(balanced)} | {apart} |")
    return "\n".join(lines) + "\n"


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
