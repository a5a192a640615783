"""How each network of a run learned, and what it started from."""

import math
from collections.abc import Mapping, Sequence

from xkd_keras.console import many
from xkd_keras.report.page import both, escape, grid
from xkd_keras.runs import history

_SGD_ONLY = ("momentum", "nesterov")
_BEGUN = ("start", "freeze", "start_rate")


def section(metrics: Mapping, rows: Sequence[Mapping] = ()) -> list[str]:
    """Return a table of learning options, one column per peer, and where the peers started.

    Args:
        metrics: What RUN/metrics.json holds; of a run of an earlier version there is no table.
        rows: One mapping per epoch, what RUN/logs/history.csv holds; may be empty.
    """
    peers = metrics["training"].get("learning", {})
    if not peers:
        return []
    names = [name for name in next(iter(peers.values())) if name not in _BEGUN]
    cells = [
        [name.replace("_", " "), *(_cell(name, own) for own in peers.values())] for name in names
    ]
    return [
        "Learning options of each network: those given, else its own defaults.",
        grid(["", *map(escape, peers)], cells),
        *[_begun(name, own) for name, own in peers.items() if own.get("start")],
        *_ended(metrics),
        *_fell(metrics, rows),
    ]


def _ended(metrics: Mapping) -> list[str]:
    """Return which epochs were kept, and whether training ended before its last epoch."""
    training, config = metrics["training"], metrics["config"]
    lines = []
    if kept := training.get("kept"):
        epochs = both([f"{escape(name)} from epoch {epoch}" for name, epoch in kept.items()])
        lines.append(
            f"Kept, out of {training['epochs']} epochs: {epochs}. Each is the network's best"
            " epoch on the validation images (by top-1, then by cross-entropy)."
        )
    if training["epochs"] < config.get("epochs", 0):
        lines.append(
            f"Training stopped early, after {training['epochs']} of {config['epochs']} epochs: no"
            f" network improved on the validation images in {many(config['patience'], 'epoch')}."
        )
    return lines


def _fell(metrics: Mapping, rows: Sequence[Mapping]) -> list[str]:
    """Return which networks were clearly better on the validation images before the end."""
    images = metrics["data"]["examples"]["validation"]
    if not images or metrics["training"].get("kept"):
        return []
    validated = [n for n in metrics["peers"] if rows and all(f"val_{n}_top1" in r for r in rows)]
    told = []
    for name, epoch in history.best(rows, validated).items():
        then, last = (row[f"val_{name}_top1"] for row in (rows[epoch - 1], rows[-1]))
        # Two standard errors of a difference between two epochs, if they erred independently.
        mean = (then + last) / 2
        if then - last > 2 * math.sqrt(2 * mean * (1 - mean) / images):
            told.append(
                f"{escape(name)} after epoch {epoch} ({100 * then:.1f} %, against"
                f" {100 * last:.1f} % at the end)"
            )
    if not told:
        return []
    return [
        f"On the validation images, some networks were better before the end: {both(told)}."
        " --keep=best keeps the best epoch of each."
    ]


def _cell(name: str, own: Mapping) -> str:
    if name in _SGD_ONLY and own["optimizer"] != "sgd":
        return "–"
    value = own[name]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "learning_rate_epochs":
        falls = own["learning_rate_schedule"] == "step"
        return (escape(value) or "1/2 and 3/4") if falls else "–"
    return escape(f"{value:g}" if isinstance(value, float) else str(value))


def _begun(name: str, own: Mapping) -> str:
    frozen = (
        f"; only its last layer learned in the first {many(own['freeze'], 'epoch')}"
        if own["freeze"]
        else ""
    )
    slower = (
        f"; all layers before the last learned at {own['start_rate']:g} times the learning rate"
        if own["start_rate"] != 1
        else ""
    )
    return f"{escape(name)} started from `{own['start']}`{frozen}{slower}."
