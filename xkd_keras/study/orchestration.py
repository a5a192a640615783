"""A study from its Plan to its directory: search, run or resume, and report."""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

from xkd_keras import files
from xkd_keras.console import clock, many
from xkd_keras.devices import machine
from xkd_keras.errors import InputError
from xkd_keras.flags import config as configs
from xkd_keras.flags import parsing
from xkd_keras.study import (
    report,
    results,
    search,
    shards,
    statistics,
    together,
    workers,
)
from xkd_keras.study.plan import Plan, Task

_HOPELESS = 3  # runs that fail alike before any has succeeded end a study


def run(plan: Plan) -> dict:
    """Run what is not there yet, and write study.json, study.csv and the report.

    Args:
        plan: Its base's run_dir is the study's directory.

    Returns:
        What study.json holds. Interrupted, it reports what there is and raises KeyboardInterrupt.

    Raises:
        InputError: The directory cannot be written, or holds runs of another configuration; or
            every run fails.
    """
    _claim(plan)
    plan = _continuing(plan)
    with files.lock(plan.directory, shared=bool(plan.shard)):
        table = _search(plan) if plan.grid else None
        tasks = plan.tasks(search.chosen(table) if table else {})
        errors: dict[Path, str] = {}
        try:
            _execute(plan, tasks, errors)
        except KeyboardInterrupt:
            if not plan.shard and any(task.result.exists() for task in tasks):
                _finish(plan, tasks, table, errors)
            raise
        with shards.turn(plan):
            if plan.shard and shards.reported(plan.directory):
                return json.loads((plan.directory / "study.json").read_text())
            return _finish(plan, tasks, table, errors)


def _claim(plan: Plan) -> None:
    """Make the directory, or see that what it holds belongs to a study."""
    directory = plan.directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with shards.turn(plan):
            known = (directory / "study.flags").exists()
            if not known and any(path.name[0] != "." for path in directory.iterdir()):
                raise InputError(
                    f"'{directory}' is neither empty nor a study; valid: a new or empty directory.",
                    argument="run_dir",
                )
            (directory / ".lock").touch()
            if not known:
                files.write(directory / "study.flags", flags(plan))
    except OSError as error:
        raise files.cannot_write(directory, error) from None


def _continuing(plan: Plan) -> Plan:
    """Return the plan with the options that it leaves open as its first runs had them.

    But for those that one of its methods, or the search, sets: they are not the others'.
    """
    own = {*plan.grid}.union(*(arm.options for arm in plan.arms))
    alone = dict.fromkeys(own & {*plan.base.open_options()}, None)
    runs = [plan.directory / "runs" / arm.name for arm in plan.arms]
    for path in sorted(path for each in runs for path in each.glob("seed-*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            before = configs.Config(**json.loads(path.read_text())["config"])
            before = dataclasses.replace(before, **alone)
            return dataclasses.replace(plan, base=plan.base.continuing(before))
    return plan


def _search(plan: Plan) -> dict[str, list[dict]]:
    """Return the scores of all settings: those found before, or from runs that make them now.

    They are written down once, so that nothing that happens later can change the choice.
    """
    path = plan.directory / "sweep.json"
    known = _known_search(plan, path)
    new = [arm for arm in plan.arms if plan.candidates(arm) and arm.method not in known]
    if not new:
        return {arm.method: known[arm.method] for arm in plan.arms if plan.candidates(arm)}
    alone = [arm for arm in plan.arms if arm.method == "solo"]  # the teachers of kd
    asked = dataclasses.replace(plan, arms=tuple(alone + new))
    tasks, errors = asked.sweep_tasks(), {}
    _execute(asked, tasks, errors)
    with shards.turn(plan):
        known = _known_search(plan, path)  # another part may have written it meanwhile
        if any(arm.method not in known for arm in new):
            known |= _chosen(asked, tasks, errors)
            about = {"seeds": list(plan.sweep_seeds), "table": known}
            files.write(path, json.dumps(about, indent=1) + "\n")
    return {arm.method: known[arm.method] for arm in plan.arms if plan.candidates(arm)}


def _chosen(asked: Plan, tasks: Sequence[Task], errors: dict[Path, str]) -> dict[str, list[dict]]:
    """Return the scores of the settings; raises InputError for a method of which none ran."""
    table = search.choose(asked, results.results(tasks))
    for method, rows in table.items():
        if not any(row["chosen"] for row in rows):
            reason = next(iter(errors.values()), "unknown")
            raise InputError(
                f"no setting of {method} ran; the first failed with: {reason}", argument="sweep"
            )
    return table


def _known_search(plan: Plan, path: Path) -> dict[str, list[dict]]:
    """Return what was found before by method; raises InputError where it was another search."""
    if not path.exists():
        return {}
    before = json.loads(path.read_text())
    for arm in plan.arms:
        tried = [row["options"] for row in before["table"].get(arm.method, [])]
        same = before["seeds"] == list(plan.sweep_seeds) and tried == plan.candidates(arm)
        if tried and arm.name == arm.method and not same:
            raise InputError(
                f"'{plan.directory}' contains another search ({arm.method} has tried {len(tried)}"
                f" settings, the first {tried[0]}, with {len(before['seeds'])} seeds). Choose"
                " another directory, or delete it.",
                argument="sweep",
            )
    return before["table"]


def _execute(plan: Plan, tasks: Sequence[Task], errors: dict[Path, str]) -> None:
    """Run the tasks without a result; put what goes wrong into `errors`, by result."""
    with shards.part(plan, tasks, lambda task: _done(plan, task)) as part:
        todo = [task for task in tasks if not _done(plan, task)]
        if tasks[0].test:
            with shards.turn(plan):
                _say_flags(plan)  # what is there belongs to it
        word, ready = "run" if tasks[0].test else "search", len(tasks) - len(todo)
        there = f", {ready} of them already done" if ready else ""
        print(f"{word}: {many(len(tasks), 'run')}{there}")
        if tasks[0].test and len(plan.seeds) == 1 and len(plan.arms) > 1:
            print(f"warning: {report.ONE_SEED}")
        jobs = plan.jobs or _choose(len(todo))
        began = time.monotonic()
        for count, (task, error) in enumerate(workers.run_all(todo, jobs, part), start=1):
            left = time_left(time.monotonic() - began, count, len(todo), jobs)
            if error:
                errors[task.result] = parsing.as_typed(error)
            outcome = f"FAILED: {errors[task.result]}" if error else _line(task)
            where = f"{word} {ready + count:>3}/{len(tasks)}  {task.name}, seed {task.config.seed}"
            print(f"{where}  {outcome}  {clock(left)} left", flush=True)
            if not error and count - len(errors) == 1:  # the first that has a result
                _tell_of_images(task)
            if count == len(errors) == _HOPELESS and len(set(errors.values())) == 1 and not ready:
                raise InputError(f"every run failed; the first error: {errors[task.result]}")


def _tell_of_images(task: Task) -> None:
    """Print what reading the images found, and a warning where those of the test are few."""
    measured = json.loads(task.result.read_text())
    lines = list(measured.get("reading", ()))
    if task.test:
        alone = [peer["top1"] for peer in measured["peers"].values()]
        lines += report.few_images(measured["data"]["examples"]["test"], alone)
    for line in lines:
        print(line, flush=True)


def time_left(seconds: float, done: int, runs: int, jobs: int) -> float:
    """Return the seconds that are left after `done` of the runs, which go `jobs` at a time."""
    rounds, all_rounds = math.ceil(done / jobs), math.ceil(runs / jobs)
    return seconds / rounds * (all_rounds - rounds)


def _say_flags(plan: Plan) -> None:
    """Write study.flags; untouched, where it says the same, it is not newer than the report."""
    path, text = plan.directory / "study.flags", flags(plan)
    if path.read_text(encoding="utf-8") != text:
        files.write(path, text)


def _choose(runs: int) -> int:
    """Return how many of so many runs are done side by side on this machine, and say it."""
    here = machine.here()
    jobs = here.jobs(runs)
    if runs:
        print(f"jobs: {jobs}, threads per job: {here.cores // jobs} ({here})")
    return jobs


def _line(task: Task) -> str:
    """Return a run's accuracies: on the test images, or of a search on the validation images."""
    measured = json.loads(task.result.read_text())
    last, names = measured["history"][-1], [peer.name for peer in task.config.peers()]
    shown = {
        name: measured["peers"][name]["top1"] if task.test else last[f"{name}_top1"]
        for name in names
    }
    text = "  ".join(f"{name} {100 * value:.1f}%" for name, value in shown.items())
    return f"{text}{'' if task.test else ' (validation)'}  {measured['seconds']:.0f} s of training"


def _done(plan: Plan, task: Task) -> bool:
    """Whether the result is there; raises InputError where it is another configuration's."""
    try:
        there = configs.Config(**_said(json.loads(task.result.read_text())["config"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if task.keep and not (task.networks / "metrics.json").exists():
        return False
    # Where none was given, the images said how many are in a batch.
    asked = dataclasses.replace(task.config, batch_size=task.config.batch_size or there.batch_size)
    if task.after:  # the teacher's path changes with the study's; the rest says who teaches
        there = dataclasses.replace(there, teacher_run=task.config.teacher_run)
    if differences := there.differences(asked):
        raise InputError(
            f"'{plan.directory}' contains a run of another configuration"
            f" ({task.result.relative_to(plan.directory)}: {'; '.join(differences)}). Choose"
            " another directory, or delete it.",
            argument="run_dir",
        )
    return True


def _said(config: dict) -> dict:
    """Return the fields of a result's configuration; before xkd compared features, none did."""
    old = config["method"] == "xkd" and "distill_similarity" not in config
    return {**config, "distill_similarity": 0.0} if old else config


def _finish(plan: Plan, tasks: Sequence[Task], table, errors: dict[Path, str]) -> dict:
    """Write study.csv, the report, and study.json, which says last that all is there."""
    study = results.study(plan, tasks, table, errors)
    if not any(run["status"] == "done" for run in study["runs"]):
        first = next(iter(errors.values()), "none has finished")
        raise InputError(f"every run failed; the first error: {first}")
    study["summary"] = statistics.summarize(study) | {"together": together.compared(study)}
    files.write(plan.directory / "study.csv", results.table(study))
    report.write(plan.directory, study)
    files.write(plan.directory / "study.json", json.dumps(study, indent=1) + "\n")
    return study


def flags(plan: Plan) -> str:
    """Return the text of a flag file that repeats the study."""
    lines = [f"--seeds={len(plan.seeds)}", f"--jobs={plan.jobs}"]
    if plan.grid:
        lines.append(f"--sweep_seeds={len(plan.sweep_seeds)}")
    lines += [f"--sweep={name}={':'.join(map(str, each))}" for name, each in plan.grid.items()]
    for arm in plan.arms:
        options = [f"name={arm.name}"] if arm.name != arm.method else []
        options += [f"{name}={value}" for name, value in arm.options.items()]
        lines.append(f"--compare={','.join([arm.method, *options])}")
    base = [line for line in plan.base.flags().splitlines() if not line.startswith("--method=")]
    return "\n".join(base + lines) + "\n"
