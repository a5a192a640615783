"""What the runs of a study have measured, as study.json and study.csv hold it."""

import csv
import dataclasses
import datetime
import io
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from xkd_keras.devices import machine
from xkd_keras.errors import InputError
from xkd_keras.study import search
from xkd_keras.study.plan import Plan, Task


def results(tasks: Sequence[Task]) -> dict[tuple[str, int], dict]:
    """Return what was measured, by name and seed; runs without a result are left out.

    Raises:
        InputError: The runs saw different images.
    """
    measured, prints = {}, {}
    for task in tasks:
        if task.result.exists():
            measured[task.name, task.config.seed] = result = json.loads(task.result.read_text())
            # A subset (--train_examples) has a fingerprint of its own for each seed.
            drawn = task.config.seed if task.config.train_examples else "all"
            prints.setdefault(drawn, set()).add(result["data"]["fingerprint"])
            prints.setdefault("test", set()).add(result["data"]["examples"]["test"])
    if any(len(each) > 1 for each in prints.values()):
        raise InputError(
            "its images have changed since the first runs of this study; restore them,"
            " or choose another --run_dir.",
            argument="dataset",
        )
    return measured


def study(plan: Plan, tasks: Sequence[Task], table, errors: Mapping[Path, str]) -> dict:
    """Return what study.json holds, but for the statistics.

    Args:
        plan: What was to be done.
        tasks: Its runs.
        table: What `search.choose` returned, or None.
        errors: What went wrong, by result.
    """
    measured, directory = results(tasks), plan.directory
    there = set(directory.glob("runs/*/seed-*.json"))
    some = next(iter(measured.values()), {"data": {}, "peers": {}})
    peers = {
        peer.name: {
            "builder": peer.builder,
            "parameters": some["peers"].get(peer.name, {}).get("parameters"),
        }
        for peer in plan.base.peers()
    }
    return {
        "dataset": plan.base.dataset,
        "title": f"{' and '.join(peers)} on {plan.base.dataset}",
        "command": "python -m xkd_keras.study "
        + shlex.join([f"--flagfile={directory / 'study.flags'}", f"--run_dir={directory}-again"]),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": _versions(measured),
        "data": some["data"],
        "peers": peers,
        "config": {k: v for k, v in dataclasses.asdict(plan.base).items() if k != "method"},
        "jobs": plan.jobs or machine.here().jobs(len(tasks)),
        "shards": plan.shard[1] if plan.shard else 1,
        "seeds": list(plan.seeds),
        "methods": _methods(plan, search.chosen(table) if table else {}),
        "main": [arm.name for arm in plan.arms if arm.main],
        "sweep": _sweep(plan, table) if table else None,
        "runs": _rows(plan, tasks, measured, errors),
        "left_out": len(there - {task.result for task in tasks}),
    }


def _versions(measured: Mapping) -> dict[str, str]:
    """Return the versions that the runs had; of several for one package, all of them."""
    seen: dict[str, dict] = {}
    for result in measured.values():
        for name, version in result.get("versions", {}).items():
            seen.setdefault(name, {})[version] = None
    return {name: ", ".join(versions) for name, versions in seen.items()}


def _methods(plan: Plan, chosen: Mapping[str, Mapping]) -> dict[str, dict]:
    methods = {}
    for arm in plan.arms:
        options = {**chosen.get(arm.method, {}), **arm.options}
        about = plan.about(arm, options)
        methods[arm.name] = {"method": arm.method, "options": options, "about": about}
    return methods


def _sweep(plan: Plan, table: Mapping) -> dict:
    about = {"seeds": list(plan.sweep_seeds), "split": "validation", "criterion": search.CRITERION}
    return {**about, "methods": table}


def _rows(plan: Plan, tasks, measured: Mapping, errors: Mapping[Path, str]) -> list[dict]:
    """Return one row for each run that has finished or failed."""
    outside = _seconds_of(plan.base.teacher_run)
    rows = []
    for task in tasks:
        seed = task.config.seed
        row = {"method": task.name, "seed": seed}
        if (task.name, seed) in measured:
            run, teacher = measured[task.name, seed], 0.0
            if task.config.method == "kd":
                alone = measured.get(("solo", seed), {}).get("seconds")
                teacher = alone if task.after else outside
            row |= {"status": "done", "teacher_seconds": teacher}
            kept = ("seconds", "peers", "ensemble", "agreement", "history", "lambda_max")
            rows.append(row | {name: run[name] for name in kept if name in run})
        elif task.result in errors:
            rows.append(row | {"status": "failed", "error": errors[task.result]})
    return rows


def _seconds_of(teacher_run: str) -> float | None:
    """Return how long the training of a teacher from elsewhere took, if its metrics say."""
    try:
        metrics = json.loads((Path(teacher_run) / "metrics.json").read_text())
    except (OSError, ValueError):
        return None
    return metrics.get("seconds", metrics.get("training", {}).get("seconds"))


def table(study: Mapping) -> str:
    """Return study.csv: one row for each run and network."""
    names = ("top1", "top5", "balanced_accuracy", "cross_entropy", "brier", "ece", "parameters")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "seed", "network", *names, "seconds", "teacher_seconds", "error"])
    for row in study["runs"]:
        start = [row["method"], row["seed"]]
        if row["status"] == "failed":
            writer.writerow([*start, "", *[""] * len(names), "", "", row["error"]])
            continue
        for network, values in {**row["peers"], "ensemble": row["ensemble"]}.items():
            cells = [values.get(name, "") for name in names]
            writer.writerow([*start, network, *cells, row["seconds"], row["teacher_seconds"], ""])
    return text.getvalue()
