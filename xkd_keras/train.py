"""Co-train different networks, evaluate them, report: one command, one run directory.

python -m xkd_keras.train --flagfile=configs/quickstart.flags
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import flags

from xkd_keras import data as datasets
from xkd_keras import peers, signals
from xkd_keras.devices import start_up
from xkd_keras.errors import FlagError, InputError
from xkd_keras.flags import command_line, effects, presets
from xkd_keras.flags import config as configs


def train_and_evaluate(config: configs.Config, callbacks: Sequence = ()) -> dict:
    """Train the cohort of a configuration, or resume it, and write its run directory.

    Args:
        config: With run_dir, dataset and peer set.
        callbacks: More Keras callbacks for `fit`. What they keep is not in the checkpoints.

    Returns:
        What metrics.json holds; an empty dict in a worker that is not the chief. A run that is
        already complete is not touched.

    Raises:
        InputError: Something in the configuration, the data or the directory cannot be used, or a
            peer's loss is not finite.
    """
    return _train(config, callbacks)


def _train(
    config: configs.Config,
    callbacks: Sequence = (),
    tell: Callable[[configs.Config, dict], None] | None = None,
) -> dict:
    """Train; where the files are, write the report, `tell` of the metrics, and export."""
    check_flags(config)
    names = ", ".join(peer.name for peer in config.peers())
    command_line.tell(f"training {names} on {config.dataset}; results in {config.run_dir}")
    check_own(config)
    start_up.load_tensorflow()
    from xkd_keras.runs import training  # after what may be wrong with the flags

    run_dir = Path(config.run_dir)

    def after(metrics: dict) -> None:
        if not (run_dir / "report.html").exists():
            from xkd_keras.report import run_page  # not before the first step: it draws

            run_page.write(run_dir)
        if tell:
            tell(config, metrics)
        if config.export:  # last: what cannot be made does not hide what was trained
            from xkd_keras.ship import artifacts

            artifacts.complete(run_dir, config.export)

    return training.run(config, callbacks, after)


def check_flags(config: configs.Config) -> None:
    """Raise InputError for what can be seen to be wrong at once, without TensorFlow."""
    config.require("run_dir", "dataset", "peer")
    if effects.is_frozen(config.method, config.teacher):
        config.require("teacher_run")
    elif config.teacher_run or config.teacher_peer:
        name = "teacher_run" if config.teacher_run else "teacher_peer"
        raise FlagError(
            f"is for --method=kd only; received --method={config.method}.", argument=name
        )
    if config.sampling == "balanced" and config.class_weights != "none":
        raise FlagError(
            f"is {config.class_weights} and --sampling is balanced, which together would count"
            " rare classes twice; valid: one of the two.",
            argument="class_weights",
        )
    if 0 < config.train_examples < (config.batch_size or 0):
        raise FlagError(
            f"{config.batch_size} is out of range for --train_examples={config.train_examples};"
            f" valid: 1 to {config.train_examples}.",
            argument="batch_size",
        )
    check_teaching(config)
    if config.recompute and config.sync_batch_norm:
        raise FlagError(
            "cannot be combined with --sync_batch_norm, because devices would wait twice; valid:"
            " one of the two.",
            argument="recompute",
        )
    datasets.check(config.dataset, config.data_dir or None)
    for peer in config.peers():
        if not peers.is_own(peer.builder):
            _check_peer(peer)
    together = ["ensemble"] if len(config.peer) > 1 else []
    names = [*(peer.name for peer in config.peers()), *together, "all"]
    for name in config.export:
        if name not in names:
            raise FlagError.unknown("export", name, names)


def check_teaching(config: configs.Config) -> None:
    """Raise FlagError for options of a method that do not go together."""
    if config.exits and config.distill_similarity:
        raise FlagError(
            f"is {config.distill_similarity:g} and --exits is {config.exits}, which cannot be"
            " combined; valid: one of the two.",
            argument="distill_similarity",
        )


def check_own(config: configs.Config) -> None:
    """Raise InputError for a network of the user's that cannot be used; loads TensorFlow."""
    for peer in config.peers():
        if peers.is_own(peer.builder):  # a user's module, and it will import Keras
            start_up.load_tensorflow()
            _check_peer(peer)


def _check_peer(peer) -> None:
    try:
        peers.check(peer.builder, peer.start, peer.pixels)
    except InputError as error:
        raise FlagError(error.message, argument=peer.flag_of(error.argument)) from None


def main() -> None:
    """Train as the flags say; print the table and where things are."""
    config = presets.from_flags()
    signals.restartable()
    try:
        _train(config, tell=_tell)
    except KeyboardInterrupt:
        print(f"interrupted; the same command resumes from {config.run_dir}", file=sys.stderr)
        sys.exit(130)


def _tell(config: configs.Config, metrics: dict) -> None:
    from xkd_keras.report import headline

    run_dir = Path(config.run_dir)
    print(f"\ntest images, {metrics['data']['examples']['test']} of {metrics['dataset']}:")
    print(headline.table(metrics))
    print(f"report  {run_dir / 'report.html'}")
    for row in metrics["peers"].values():
        print(f"model   {run_dir / row['file']}")


if __name__ == "__main__":
    configs.define(flags.FLAGS)
    presets.define(flags.FLAGS)
    command_line.run(main)
