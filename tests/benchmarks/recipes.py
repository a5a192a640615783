"""What is --preset=photos worth? The same networks with the plain flags and with it, over seeds.

python tests/benchmarks/recipes.py --work=DIRECTORY --signs=SIGNS --images=IMAGENET100-32
    [--jobs=2] [--small]

Both have the same images, networks, method, epochs and batches; what differs is what the preset
chooses beside these. SIGNS has one folder per class, and its images are not mirrored; of
IMAGENET100-32 (train/CLASS and test/CLASS) each seed learns a subset, the same for both. Every part
is a run of xkd_keras in DIRECTORY: the same command goes on where it was stopped. The table is
written to DIRECTORY/table.md. `--small` takes minutes, and shows only that it works.
"""

import concurrent.futures
import itertools
from pathlib import Path

import numpy as np
import train_runs
from absl import app, flags
from train_runs import told

flags.DEFINE_string("work", None, "Where everything is kept.", required=True)
flags.DEFINE_string("signs", None, "One folder per class.")
flags.DEFINE_string("images", None, "imagenet100-32: train/CLASS and test/CLASS.")
flags.DEFINE_integer("seeds", 5, "Seeds of every comparison.", 1)
flags.DEFINE_integer("jobs", 1, "Runs side by side; the cores are divided among them.", 1)
flags.DEFINE_integer("epochs", 40, "Of every run.", 1)
flags.DEFINE_integer("examples", 4_000, "Training images of imagenet100-32.", 100)
flags.DEFINE_bool("small", False, "One epoch, two seeds, few images.")

PEERS = ("alexnet", "resnet20")
RECIPES = {"plain": (), "photos": ("--preset=photos",)}
# Signs are not mirrored, with the preset neither.
OF_DATA = {
    "signs": {"plain": ("--augment=crop",), "photos": ("--augment=crop+colour",)},
    "images": {"plain": (), "photos": ()},
}


def run(data: str, recipe: str, seed: int) -> dict:
    """Train, or go on; return what metrics.json holds."""
    values = flags.FLAGS
    run_dir = Path(values.work) / f"{data}-{recipe}" / f"seed-{seed}"
    examples = 200 if values.small else values.examples if data == "images" else 0
    line = ["--image_size=32", f"--dataset=folder:{values[data].value}"]
    line += [f"--train_examples={examples}", "--batch_size=64"]
    line += [f"--epochs={1 if values.small else values.epochs}"]
    # In bfloat16, which takes less time on CPUs that compute in it, for both alike.
    line += ["--mixed_precision=bfloat16", f"--seed={seed}", *(f"--peer={peer}" for peer in PEERS)]
    line += [*RECIPES[recipe], *OF_DATA[data][recipe]]
    return train_runs.train(run_dir, line, values.jobs)


def table(data: str, found: dict[tuple[str, int], dict]) -> str:
    """Return top-1 and cross-entropy of every network by recipe, and the paired difference."""
    seeds = sorted({seed for _, seed in found})
    some = next(iter(found.values()))
    lines = [
        f"{data}: {some['data']['examples']['train']:,} training and"
        f" {some['data']['examples']['test']:,} test images, {len(seeds)} seeds, mean and 95 %"
        " interval:",
        "",
        "| | top-1 %, plain | top-1 %, photos | difference in points | cross-entropy, plain |"
        " cross-entropy, photos |",
        "|---|---|---|---|---|---|",
    ]
    for network in (*PEERS, "ensemble"):

        def of(recipe, key, network=network):
            return [train_runs.of(found[recipe, seed], network)[key] for seed in seeds]

        top1 = {recipe: of(recipe, "top1") for recipe in RECIPES}
        apart = np.subtract(top1["photos"], top1["plain"]).tolist()
        cells = [told(top1["plain"]), told(top1["photos"]), told(apart, sign="+")]
        cells += [told(of(recipe, "cross_entropy"), 1, 3) for recipe in RECIPES]
        lines.append(f"| {network} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(_):
    """Do what is not done yet; print and write the table."""
    values = flags.FLAGS
    given = [data for data in OF_DATA if values[data].value]
    if not given:
        raise app.UsageError("give --signs, --images, or both")
    seeds = range(2 if values.small else values.seeds)
    tasks = list(itertools.product(given, seeds, RECIPES))
    pool = concurrent.futures.ThreadPoolExecutor(values.jobs)
    try:
        results = list(pool.map(lambda task: run(task[0], task[2], task[1]), tasks))
    finally:
        pool.shutdown(cancel_futures=True)  # of one that fails, those under way end first
    parts = []
    for data in given:
        own = {(t[2], t[1]): r for t, r in zip(tasks, results, strict=True) if t[0] == data}
        parts.append(table(data, own))
        print(parts[-1])
    (Path(values.work) / "table.md").write_text("\n".join(parts))


if __name__ == "__main__":
    app.run(main)
