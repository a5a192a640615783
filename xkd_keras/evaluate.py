"""Evaluate a finished run again: its own test images, or any others with the same classes.

python -m xkd_keras.evaluate --run_dir=RUN [--peer=NAME] [--dataset=folder:PATH]
python -m xkd_keras.evaluate --model=RUN/export/tflite/NAME-int8.tflite
"""

from pathlib import Path

from absl import flags

from xkd_keras import data as datasets
from xkd_keras.data import names
from xkd_keras.devices import start_up
from xkd_keras.errors import FlagError
from xkd_keras.flags import command_line, parsing
from xkd_keras.runs import records, whereabouts

SPLITS = ("train", "validation", "test", "all")


def main() -> None:
    """Evaluate the run, or the file, that the flags name and print the table."""
    values = flags.FLAGS
    if not values.run_dir and not values.model:
        raise FlagError(
            "missing. Give the directory of a finished run, or --model.", argument="run_dir"
        )
    if values.model and values.peer:
        raise FlagError("applies to a run's networks, but --model names a file.", argument="peer")
    if values.split not in ("", *SPLITS):
        raise FlagError.unknown("split", values.split, SPLITS)
    run_dir = Path(parsing.path(values.run_dir, "run_dir"))
    model = Path(parsing.path(values.model, "model"))
    if not values.run_dir:
        run_dir = whereabouts.containing(model)
    config = records.finished(run_dir)[0] if run_dir else None
    command_line.tell(f"evaluating {values.model or values.run_dir}")
    start_up.load_tensorflow()
    from xkd_keras.report import headline
    from xkd_keras.runs import directory as rundir
    from xkd_keras.runs import evaluation  # after what may be wrong with the flags

    own = config is not None and rundir.is_own(config, values.dataset)
    split = values.split or _usual_split(values.dataset, own)
    if values.model:
        from xkd_keras.ship import evaluate_file

        result = evaluate_file.evaluate_model(
            model, run_dir, values.dataset, split, values.skip_unreadable
        )
    else:
        result = evaluation.evaluate_run(
            run_dir, values.peer, values.dataset, split, values.skip_unreadable
        )
    for line in result["about"]:
        print(line)
    of = values.dataset or "the run"
    whose = ", the run's own" if own and values.dataset else ""
    print(f"{result['examples']} images of {of}{whose}, split {split}:")
    print(headline.table(result))


def _usual_split(dataset: str, own: bool) -> str:
    """Return `all` for other images that have no test split of their own, else `test`.

    Args:
        dataset: Its name; empty: the run's.
        own: Whether the run was trained on it: a part of its images is held out for the test.
    """
    if own or not names.is_folder(dataset):
        return "test"
    return "test" if datasets.has_test(Path(names.folder_path(dataset))) else "all"


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", "", "Directory of a finished run.")
    flags.DEFINE_string(
        "model", "", "Instead of a run: a .tflite or .onnx file, or a SavedModel's directory."
    )
    flags.DEFINE_multi_string("peer", [], "Evaluate only this peer; may be repeated.")
    flags.DEFINE_string(
        "dataset", "", "Another dataset, named as in xkd_keras.train; empty: the run's own."
    )
    flags.DEFINE_string(
        "split",
        "",
        "train, validation, test or all; empty: test, or all for another folder without a"
        " test split.",
    )
    flags.DEFINE_bool(
        "skip_unreadable", False, "Skip files of --dataset=folder:PATH that cannot be read."
    )
    command_line.run(main)
