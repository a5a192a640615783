"""A study from its Plan to its directory: search, run, or go on, and report."""

import csv
import dataclasses
import datetime
import importlib.metadata
import io
import json
import platform
import shlex
import time
from pathlib import Path

from xkd_keras import config as configs
from xkd_keras import files
from xkd_keras.cli import clock
from xkd_keras.errors import InputError
from xkd_keras.study import report, search, statistics, workers
from xkd_keras.study.plan import Plan, Task

_PACKAGES = ("xkd_keras", "tensorflow", "keras", "tensorflow-datasets", "numpy", "scipy")


def run(plan: Plan) -> dict:
    """Run what is not there yet, and write study.json, study.csv and the report.

    Args:
        plan: Its base's run_dir is the study's directory.

    Returns:
        What study.json holds. Interrupted, it reports what there is and raises KeyboardInterrupt.

    Raises:
        InputError: The directory cannot be written, or holds runs of another configuration.
    """
    _claim(plan)
    with files.lock(plan.directory):
        try:
            table = None
            if plan.grid:
                tasks = plan.sweep_tasks()
                errors = _execute(plan, tasks, "search")
                table = search.choose(plan, _results(tasks))
                _check_search(table, errors)
            tasks = plan.tasks(search.chosen(table) if table else {})
            errors = _execute(plan, tasks, "run")
        except KeyboardInterrupt:
            tasks = plan.tasks(search.chosen(table) if table else {})
            if any(task.result.exists() for task in tasks):
                _finish(plan, tasks, table, {})
            raise
        return _finish(plan, tasks, table, errors)


def _claim(plan: Plan) -> None:
    """Make the directory, or see that what it holds belongs to this study."""
    directory = plan.directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
        known = (directory / "study.flags").exists()
        if not known and any(path.name[0] != "." for path in directory.iterdir()):
            raise InputError(
                f"--run_dir: '{directory}' is not empty and not a study; valid: a new or empty"
                " directory."
            )
        (directory / ".lock").touch()
    except OSError as error:
        raise InputError(
            f"--run_dir: cannot write to '{directory}' ({error.strerror}); valid: a directory that"
            " can be made or written."
        ) from None


def _flags(plan: Plan) -> str:
    """Return the text of a flag file that repeats the study."""
    lines = [f"--seeds={len(plan.seeds)}", f"--sweep_seeds={len(plan.sweep_seeds)}"]
    lines += [f"--sweep={name}={':'.join(map(str, each))}" for name, each in plan.grid.items()]
    for arm in plan.arms:
        options = [f"name={arm.name}"] if arm.name != arm.method else []
        options += [f"{name}={value}" for name, value in arm.options.items()]
        lines.append(f"--compare={','.join([arm.method, *options])}")
    return plan.base.flags() + "\n".join(lines) + "\n"


def _execute(plan: Plan, tasks: list[Task], word: str) -> dict[Path, str]:
    """Run the tasks without a result; return what went wrong, by result."""
    todo = [task for task in tasks if not _done(plan, task)]
    files.write(plan.directory / "study.flags", _flags(plan))  # what is there belongs to it
    ready = len(tasks) - len(todo)
    print(f"{word}: {len(tasks)} runs" + (f", {ready} of them there already" if ready else ""))
    errors, began = {}, time.monotonic()
    for count, (task, error) in enumerate(workers.run_all(todo, plan.jobs), start=1):
        left = (time.monotonic() - began) / count * (len(todo) - count)
        if error:
            errors[task.result] = error
        outcome = f"FAILED: {error}" if error else _line(json.loads(task.result.read_text()), word)
        where = f"{word} {ready + count:>3}/{len(tasks)}  {task.name}, seed {task.config.seed}"
        print(f"{where}  {outcome}  {clock(left)} left", flush=True)
    return errors


def _line(measured: dict, word: str) -> str:
    """Return a run's accuracies: a search shows nothing of the test images."""
    if word == "search":
        last = measured["history"][-1]
        rows = {name: last[f"{name}_top1"] for name in measured["peers"]}
    else:
        rows = {name: row["top1"] for name, row in measured["peers"].items()}
    split = " (validation)" if word == "search" else ""
    shown = "  ".join(f"{name} {100 * value:.1f}%" for name, value in rows.items())
    return f"{shown}{split}  {measured['seconds']:.0f} s"


def _done(plan: Plan, task: Task) -> bool:
    """Whether the result is there; raises InputError where it is another configuration's."""
    try:
        there = json.loads(task.result.read_text())["config"]
    except (OSError, ValueError, KeyError):
        return False
    if task.keep and not (task.result.with_suffix("") / "metrics.json").exists():
        return False
    # The teacher's path changes with the study's; which networks teach follows from the rest.
    skipped = {"teacher_run"} if task.after else set()
    names = [f.name for f in dataclasses.fields(configs.Config) if f.metadata["identity"]]
    now = json.loads(json.dumps(dataclasses.asdict(task.config)))
    changed = [n for n in names if n not in skipped and there.get(n) != now[n]]
    if changed:
        name = changed[0]
        raise InputError(
            f"--run_dir: '{plan.directory}' holds a run of another configuration"
            f" ({task.result.relative_to(plan.directory)}: --{name} was {there.get(name)} and is"
            f" {now[name]}). Choose another directory, or delete it."
        )
    return True


def _results(tasks: list[Task]) -> dict[tuple[str, int], dict]:
    """Return what was measured, by name and seed."""
    return {
        (task.name, task.config.seed): json.loads(task.result.read_text())
        for task in tasks
        if task.result.exists()
    }


def _check_search(table: dict, errors: dict) -> None:
    for method, rows in table.items():
        if not any(row["n"] for row in rows):
            reason = next(iter(errors.values()), "unknown")
            raise InputError(f"--sweep: every run of {method} failed, the first with: {reason}")


def _finish(plan: Plan, tasks: list[Task], table, errors: dict[Path, str]) -> dict:
    """Write study.csv, the report, and study.json, which says last that all is there."""
    study = _study(plan, tasks, table, errors)
    if not any(run["status"] == "done" for run in study["runs"]):
        first = next(iter(errors.values()), "none has finished")
        raise InputError(f"every run failed, the first with: {first}")
    study["summary"] = statistics.summarize(study)
    files.write(plan.directory / "study.csv", _csv(study))
    report.write(plan.directory, study)
    files.write(plan.directory / "study.json", json.dumps(study, indent=1) + "\n")
    return study


def _study(plan: Plan, tasks: list[Task], table, errors: dict[Path, str]) -> dict:
    """Return what study.json holds, but for the statistics."""
    measured = _results(tasks)
    some = next(iter(measured.values()), {"data": {}, "peers": {}})
    peers = {
        peer.name: {
            "builder": peer.builder,
            "parameters": some["peers"].get(peer.name, {}).get("parameters"),
        }
        for peer in plan.base.peers()
    }
    chosen = search.chosen(table) if table else {}
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    sweep = {
        "seeds": list(plan.sweep_seeds),
        "split": "validation",
        "criterion": search.CRITERION,
        "methods": table,
    }
    return {
        "dataset": plan.base.dataset,
        "title": f"{' and '.join(peers)} on {plan.base.dataset}",
        "command": "python -m xkd_keras.study "
        + shlex.join([f"--flagfile={plan.directory / 'study.flags'}"]),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **versions},
        "data": some["data"],
        "peers": peers,
        "config": dataclasses.asdict(plan.base),
        "seeds": list(plan.seeds),
        "methods": {
            arm.name: {
                "method": arm.method,
                "options": {**chosen.get(arm.method, {}), **arm.options},
                "about": arm.about,
            }
            for arm in plan.arms
        },
        "main": [arm.name for arm in plan.arms if arm.main],
        "sweep": sweep if table else None,
        "runs": _rows(plan, tasks, measured, errors),
    }


def _rows(plan: Plan, tasks: list[Task], measured: dict, errors: dict[Path, str]) -> list[dict]:
    """Return one row a run that has finished or failed."""
    outside = _seconds_of(plan.base.teacher_run)
    rows = []
    for task in tasks:
        seed = task.config.seed
        row = {"method": task.name, "seed": seed}
        if (task.name, seed) in measured:
            found = measured[task.name, seed]
            teacher = (
                measured.get(("solo", seed), {}).get("seconds", 0.0) if task.after else outside
            )
            row |= {"status": "done", "teacher_seconds": teacher if _taught(task) else 0.0}
            kept = ("seconds", "peers", "ensemble", "agreement", "history")
            rows.append(row | {name: found[name] for name in kept})
        elif task.result in errors:
            rows.append(row | {"status": "failed", "error": errors[task.result]})
    return rows


def _taught(task: Task) -> bool:
    return task.config.method == "kd"


def _seconds_of(teacher_run: str) -> float:
    """Return how long the training of a teacher from elsewhere took, as its metrics say."""
    try:
        return json.loads((Path(teacher_run) / "metrics.json").read_text())["training"]["seconds"]
    except (OSError, ValueError, KeyError):
        return 0.0


def _csv(study: dict) -> str:
    """Return one row for each run and network."""
    names = ("top1", "top5", "cross_entropy", "ece", "parameters")
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
