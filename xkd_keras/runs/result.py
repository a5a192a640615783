"""What remains of a run after its last epoch: networks, final numbers, answers."""

import dataclasses
import datetime
import json
import shlex
from collections.abc import Mapping
from pathlib import Path

import keras

from xkd_keras import data as datasets
from xkd_keras import files, peers
from xkd_keras.distillation.cohort import Cohort
from xkd_keras.flags.peer import Peer
from xkd_keras.runs import (
    answers,
    building,
    calibration,
    evaluation,
    history,
    keeping,
    predictions,
    teaching,
)
from xkd_keras.runs import directory as rundir


def finish(config, run_dir: Path, cohort: Cohort, data: datasets.Dataset, rows: list) -> dict:
    """Save the peers, evaluate the saved files once on test; return what metrics.json holds.

    Args:
        config: What was run.
        run_dir: Its directory.
        cohort: Trained.
        data: Its images.
        rows: Its history, one dict per epoch.
    """
    with cohort.averaged():
        return _finish(config, run_dir, cohort, data, rows)


def _finish(config, run_dir: Path, cohort: Cohort, data: datasets.Dataset, rows: list) -> dict:
    """As `finish`, of the weights that the peers have."""
    best = config.keep == "best"
    kept = keeping.put(run_dir / "checkpoints", cohort, rows) if best else {}
    _save_models(config, run_dir, cohort)
    models = rundir.load_peers(run_dir, cohort.peers)
    parts = {
        split: evaluation.predict(models, cohort.shares, data, split, config.eval_batch_size)
        for split in ("validation", "test")
    }
    temperatures = calibration.fitted(parts["validation"])
    measured = evaluation.summarize(models, parts["test"])
    calibration.add(measured, temperatures, parts["test"])
    for name, row in measured["peers"].items():
        row["file"] = f"peers/{name}.keras"
    metrics = {**_circumstances(config, run_dir, cohort, data, rows), **measured}
    metrics["training"] |= {"kept": kept} if kept else {}
    weights = building.distill_weights(cohort.schedule, rows[-1]["step"])
    if weights.any() and (len(cohort.peers) > 1 or config.teacher_run):
        metrics["teaching"] = teaching.worth(cohort, data, config.eval_batch_size)
    _write_answers(run_dir, data, parts, weights, temperatures)
    (run_dir / "report.html").unlink(missing_ok=True)  # of earlier numbers; written where missing
    # Last: its presence says that the run is complete.
    files.write(run_dir / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    return metrics


def _write_answers(run_dir: Path, data: datasets.Dataset, parts, weights, temperatures) -> None:
    """Write what the networks answered, for the report and for people."""
    places = {split: datasets.places(getattr(data, split)) for split in parts}
    answers.write(run_dir, answers.collect(parts, weights, temperatures, places))
    predictions.write(run_dir, data, parts, temperatures)


def keep_answers(
    run: rundir.Run,
    parts: Mapping[str, evaluation.Predictions],
    temperatures: Mapping[str, float],
) -> None:
    """Write the answers of a finished run that has none: one of an earlier version."""
    if history.path(run.directory).exists() and not (run.directory / "predictions.csv").exists():
        steps = datasets.steps_per_epoch(run.data, run.config.batch_size)
        _, schedule = building.distillation(run.config, steps)
        weights = building.distill_weights(schedule, run.metrics["training"]["steps"])
        _write_answers(run.directory, run.data, parts, weights, temperatures)


def save_peers(config, run_dir: Path, cohort: Cohort, data: datasets.Dataset, measured) -> None:
    """Write the least that `--teacher_run` and evaluation need of a run: no logs, no report."""
    with cohort.averaged():
        _save_models(config, run_dir, cohort)
    files.write(run_dir / "config.flags", dataclasses.replace(config, run_dir=str(run_dir)).flags())
    metrics = {"dataset": config.dataset, "data": rundir.about(data), **measured}
    files.write(run_dir / "metrics.json", json.dumps(metrics, indent=1) + "\n")


def _save_models(config, run_dir: Path, cohort: Cohort) -> None:
    """Write RUN/peers/NAME.keras: stock layers, float32."""
    for peer in config.peers():
        model = peers.stock(cohort.peers[peer.name])
        if config.mixed_precision != "none":
            model = _single(model, f"mixed_{config.mixed_precision}")
        with files.whole(run_dir / "peers" / f"{peer.name}.keras") as beside:
            model.save(beside)


def _single(model: keras.Model, mixed: str) -> keras.Model:
    """Return a network with float32 wherever it has a mixed policy.

    By what Keras saves of it, as the file that a network came from may be gone by now.
    """
    text = model.to_json().replace(f'{{"name": "{mixed}"}}', '{"name": "float32"}')
    single = keras.models.model_from_json(text)
    single.set_weights(model.get_weights())
    return single


def _circumstances(config, run_dir: Path, cohort: Cohort, data, rows: list) -> dict:
    """Return the part of metrics.json that says what was run, on what, and how long."""
    seconds = sum(row["seconds"] for row in rows)
    return {
        "dataset": config.dataset,
        "method": config.method,
        "seed": config.seed,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": "python -m xkd_keras.train "
        + shlex.join([f"--flagfile={run_dir / 'config.flags'}", f"--run_dir={run_dir}-again"]),
        "config": dataclasses.asdict(config),
        "versions": rundir.versions(),
        "data": rundir.about(data),
        "training": {
            "epochs": len(rows),
            "steps": rows[-1]["step"],
            "batch_size": config.batch_size,
            "seconds": round(seconds, 3),
            "steps_per_second": round(rows[-1]["step"] / seconds, 3),
            "replicas": cohort.distribute_strategy.num_replicas_in_sync,
            "learning": {peer.name: learned(peer) for peer in config.peers()},
            "skipped": {name: _skipped(rows, name) for name in cohort.peers},
        },
    }


def learned(peer: Peer) -> dict:
    """Return how a peer learned, and from where: what suited it where nothing was given, too."""
    start = peer.start or (peer.builder if peers.starts(peer.builder, "") else "")
    begun = {"start": start, "freeze": peer.freeze, "start_rate": peer.start_rate}
    return {**peer.learning, **(begun if start else {})}


def learning_line(peer: Peer) -> str:
    """Return in a line how a peer learns, and from where."""
    own = learned(peer)
    text = f"{own['optimizer']}, learning rate {own['learning_rate']:g}"
    text += f" ({own['learning_rate_schedule']}), weight decay {own['weight_decay']:g}"
    if "start" in own:
        text += f"; starts from {own['start']}"
        text += f", its last layer alone for {peer.freeze} epochs" if peer.freeze else ""
    return text


def _skipped(rows: list, name: str) -> int:
    """Return the steps that a peer sat out: its loss or gradients were not finite."""
    return int(sum(row.get(f"{name}_skipped", 0) for row in rows))
