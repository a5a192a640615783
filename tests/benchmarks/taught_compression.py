"""What is it worth that compression is taught? The same recipes on labels alone, over seeds.

python tests/benchmarks/taught_compression.py RUN... [--peer=resnet20] [--recipe=qat --recipe=pcqat]

RUN are finished runs that differ in their seed, as STUDY/runs/solo/seed-*: each gives one pair. The
int8 file is what is measured, on the test images; nothing is chosen by it.
"""

import sys
from pathlib import Path

import numpy as np
from absl import app, flags
from scipy import stats

from xkd_keras import data as datasets
from xkd_keras.devices import start_up

flags.DEFINE_multi_string("peer", ["resnet20"], "Peers to compress.")
flags.DEFINE_multi_string("recipe", ["qat", "pcqat"], "Recipes.")
flags.DEFINE_integer("epochs", 20, "Of each pass.")
flags.DEFINE_float("sparsity", 0.7, "Of pruning.")
flags.DEFINE_integer("clusters", 8, "Of clustering.")
flags.DEFINE_float("distill_weight", 1.0, "lambda of the taught half.")


def top1(model, run, representative) -> float:
    """Return the accuracy of the int8 file of a model on the run's test images."""
    from xkd_keras.ship import lite

    with lite.converters(model) as convert:
        content = convert("int8", representative)
    n = len(run.data.test)
    images = datasets.images(run.data.test, range(n), run.data)
    return float(np.mean(lite.Lite(content)(images).argmax(-1) == datasets.labels(run.data.test)))


def pair(path: str, peer: str, recipe: str) -> tuple[float, float, float]:
    """Return top-1 of the peer, of its int8 file taught, and of that learned from labels alone."""
    from xkd_keras.compression import passes, tuning, twin
    from xkd_keras.runs import directory as rundir
    from xkd_keras.runs import evaluation

    run, values = rundir.load_run(Path(path)), flags.FLAGS
    (own,) = [each.learning["learning_rate"] for each in run.config.peers() if each.name == peer]
    found = []
    for weight in (values.distill_weight, 0.0):
        tune = tuning.Tuner(
            run, values.epochs, own / 10, weight, 3.0, run.config.batch_size, run.config.seed
        )
        model = passes.run(
            recipe, twin.twin(run.models[peer]), tune, values.sparsity, values.clusters
        )
        few = datasets.images(run.data.train, range(min(100, len(run.data.train))), run.data)
        ranged = passes.CHAINS[recipe][-1] == "quantize"  # the model itself has its ranges
        found.append(top1(model, run, None if ranged else few))
    predictions = evaluation.predict(run.models, run.weights, run.data, "test", 256)
    plain = np.mean(predictions.logits[peer].argmax(-1) == predictions.labels)
    return float(plain), *found


def interval(values) -> str:
    """Return mean and 95 % t-interval in points."""
    mean, half = np.mean(values), stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    return f"{100 * mean:.2f} ± {100 * half:.2f}"


def main(argv):
    """Print a line a pair, and a table."""
    sys.stdout.reconfigure(line_buffering=True)
    start_up.load_tensorflow()
    print(
        "| peer | recipe | seeds | float | taught | labels alone | difference | paired t-test p |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for peer in flags.FLAGS.peer:
        for recipe in flags.FLAGS.recipe:
            rows = np.array([pair(path, peer, recipe) for path in argv[1:]])
            plain, taught, alone = rows.T
            p = stats.ttest_rel(taught, alone).pvalue
            cells = [interval(each) for each in (plain, taught, alone, taught - alone)]
            print(f"| {peer} | {recipe} | {len(rows)} | {' | '.join(cells)} | {p:.3f} |")


if __name__ == "__main__":
    app.run(main)
