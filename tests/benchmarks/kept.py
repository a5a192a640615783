"""What studies measured, kept in configs/study/runs/NAME.json: what tables are written from.

Runs' directories are large and ignored by git; the numbers of every finished run are small. So
seeds that run later, or elsewhere, join those that are kept.
"""

import json
from collections.abc import Mapping
from pathlib import Path

HOME = Path(__file__).parents[2] / "configs" / "study" / "runs"
_SCORES = ("top1", "cross_entropy", "brier", "ece")
# What may differ between runs of one study.
_WHERE = ("run_dir", "data_dir", "dataset", "seed", "logical_cpus", "strategy")


def load(name: str) -> dict | None:
    """Return a study as study.json has it, with every run that is kept; None without any."""
    path = HOME / f"{name}.json"
    if not path.exists():
        return None
    study = json.loads(path.read_text())
    study["runs"] = [{**run, "status": "done"} for run in study["runs"]]
    study["seeds"] = sorted({run["seed"] for run in study["runs"]})
    return study


def merged(kept: Mapping | None, study: Mapping) -> dict:
    """Return what is kept with the finished runs of a study.json; of a run in both, the later.

    Raises:
        ValueError: They are of different data, networks or settings, which it names.
    """
    new = {
        "data": {key: study["data"][key] for key in ("fingerprint", "examples")},
        "peers": study["peers"],
        "config": {k: v for k, v in study["config"].items() if k not in _WHERE},
        "versions": study["versions"],
        "methods": study["methods"],
        "main": study["main"],
    }
    old = kept or new
    if kept and int(study["config"].get("train_examples") or 0) and _first(old) != _first(study):
        # Of a subset, which is drawn by seed, the fingerprint is that of the first seed.
        new["data"] = {**new["data"], "fingerprint": old["data"]["fingerprint"]}
    for part in ("data", "peers", "config", "methods"):
        for key in set(old[part]) & set(new[part]):
            if old[part][key] != new[part][key]:
                raise ValueError(f"{part}, {key}: {old[part][key]} is kept, not {new[part][key]}")
    runs = {(run["method"], run["seed"]): _numbers(run) for run in old.get("runs", ())}
    runs |= {(r["method"], r["seed"]): _numbers(r) for r in study["runs"] if r["status"] == "done"}
    methods = {**old["methods"], **new["methods"]}
    main = [method for method in methods if method in {*old["main"], *new["main"]}]
    order = sorted(runs, key=lambda key: (key[1], list(methods).index(key[0])))
    return {**new, "methods": methods, "main": main, "runs": [runs[key] for key in order]}


def _first(study: Mapping) -> int:
    return min(run["seed"] for run in study["runs"])


def _numbers(run: Mapping) -> dict:
    def scores(found):
        return {key: round(found[key], 6) for key in _SCORES if key in found}

    peers = {name: scores(found) for name, found in run["peers"].items()}
    seconds = {key: run[key] for key in ("seconds", "teacher_seconds")}
    start = {"method": run["method"], "seed": run["seed"], **seconds}
    return {**start, "peers": peers, "ensemble": scores(run["ensemble"])}


def save(name: str, study: Mapping) -> None:
    """Write what `merged` returned: one line for each run."""
    about = json.dumps({key: value for key, value in study.items() if key != "runs"}, indent=1)
    runs = ",\n".join(f"  {json.dumps(run)}" for run in study["runs"])
    HOME.mkdir(exist_ok=True)
    (HOME / f"{name}.json").write_text(f'{about[:-2]},\n "runs": [\n{runs}\n ]\n}}\n')
