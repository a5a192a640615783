"""Compress a trained peer: quantisation-aware, pruned, clustered; taught by its run's ensemble.

python -m xkd_keras.compress --run_dir=RUN --peer=NAME --recipe=qat
"""

from pathlib import Path

from absl import flags

from xkd_keras.devices import start_up
from xkd_keras.errors import FlagError
from xkd_keras.flags import command_line, parsing
from xkd_keras.runs import records
from xkd_keras.ship.variants import PRECISION

RECIPES = ("qat", "prune", "cluster", "pqat", "cqat", "pcqat")
_OPTIONS = (  # flags that are arguments of `pipeline.compress`
    "epochs",
    "learning_rate",
    "distill_weight",
    "temperature",
    "sparsity",
    "clusters",
    "batch_size",
    "seed",
    "precision",
)


def main() -> None:
    """Compress as the flags say; print the table and the advice."""
    values = flags.FLAGS
    for name in ("run_dir", "peer", "recipe"):
        if not values[name].value:
            raise FlagError(f"missing. {values[name].help}", argument=name)
    if values.recipe not in RECIPES:
        raise FlagError.unknown("recipe", values.recipe, RECIPES)
    run_dir = Path(parsing.path(values.run_dir, "run_dir"))
    records.finished(run_dir)
    command_line.tell(f"compressing {values.peer} of {values.run_dir}, {values.recipe}")
    start_up.load_tensorflow()
    with start_up.quiet():  # tfmot imports what TensorFlow has not
        from xkd_keras.compression import pipeline
        from xkd_keras.report import deployment_page

    given = {name: values[name].value for name in _OPTIONS}
    manifest = pipeline.compress(run_dir, values.peer, values.recipe, **given)
    print(f"\n{deployment_page.table(manifest)}\n{deployment_page.advice(manifest)}")


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", "", "Directory of a finished run.")
    flags.DEFINE_string("peer", "", "The peer to compress.")
    flags.DEFINE_string("recipe", "", f"One of {', '.join(RECIPES)}.")
    flags.DEFINE_integer("epochs", 5, "Epochs of fine-tuning after each pass.", 1)
    flags.DEFINE_float(
        "learning_rate", 0.0, "Learning rate of SGD; 0: a tenth of the peer's own.", 0
    )
    flags.DEFINE_float("distill_weight", 1.0, "Constant lambda; 0: learn from the labels alone.", 0)
    flags.DEFINE_float("temperature", 3.0, "Temperature that softens teacher and peer.", 0.01, 1000)
    flags.DEFINE_float(
        "sparsity", 0.5, "Fraction of each kernel's weights that pruning sets to zero.", 0.01, 0.99
    )
    flags.DEFINE_integer(
        "clusters", 16, "Number of distinct weights per kernel after clustering.", 2, 256
    )
    flags.DEFINE_integer("batch_size", 0, "Images per step; 0: as in the run.", 0)
    flags.DEFINE_integer("seed", 0, "Seed of the images' order and augmentation.", 0)
    flags.DEFINE_float("precision", None, PRECISION, 0, 1)
    command_line.run(main)
