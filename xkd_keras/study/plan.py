"""What a study runs: methods and their variants, seeds, and the Config of every run."""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xkd_keras.flags import config as configs
from xkd_keras.flags import effects

ABOUT = {
    "solo": "each network alone",
    "xkd": "the others, as far as they have learned",
    "mcod": "the ensemble, in windows of growing weight",
    "ensemble": "the ensemble all the time",
    "ramp": "growing, without windows",
    "dml": "the networks teach each other in pairs",
    "kdcl": "a teacher computed with the labels",
    "one": "a learned mixture, ramped up",
    "kd": "a frozen teacher: the networks trained alone before",
}
SWEEP_SEED = 100_000  # first seed of the search: none of the study's own


@dataclasses.dataclass(frozen=True)
class Arm:
    """A method, or a variant of one, with the flags in which it differs from the base."""

    name: str
    method: str
    options: Mapping[str, Any]

    @property
    def main(self) -> bool:
        """Whether it is a method of its own rather than an ablation of ours."""
        return self.name in ("xkd", "mcod") or self.method not in ("xkd", "mcod", "ramp")


@dataclasses.dataclass(frozen=True)
class Task:
    """One run: where its result goes, and whose trained networks it needs first."""

    name: str
    config: configs.Config
    result: Path
    keep: bool = False  # the trained networks, as somebody's teacher
    after: Path | None = None  # the result of the run that trains its teacher
    test: bool = True  # whether to look at the test images: a search must not

    @property
    def networks(self) -> Path:
        """Where the trained networks are kept, as a run that `--teacher_run` takes."""
        return self.result.with_suffix("")


@dataclasses.dataclass(frozen=True)
class Plan:
    """A whole study.

    Attributes:
        base: What all runs share; its run_dir is the study's.
        arms: What is compared.
        seeds: One run of every arm for each.
        grid: Flag -> values to try on validation images first; empty: no search.
        sweep_seeds: Seeds of the search.
        jobs: Processes side by side; 0: as many as suit the machine.
        shard: Index and number of this process' part, where several share the directory.
    """

    base: configs.Config
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    grid: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
    sweep_seeds: tuple[int, ...] = ()
    jobs: int = 1
    shard: tuple[int, int] | None = None

    @property
    def directory(self) -> Path:
        """Where everything is written."""
        return Path(self.base.run_dir)

    def settings(self) -> list[dict[str, Any]]:
        """Return every combination of the grid's values."""
        return [
            dict(zip(self.grid, each, strict=True))
            for each in itertools.product(*self.grid.values())
        ]

    def about(self, arm: Arm, options: Mapping[str, Any]) -> str:
        """Return a few words about an arm for the report; `options` are those it runs with."""
        given = ", ".join(f"{name} {value}" for name, value in arm.options.items())
        similarity, exits = (
            options.get(name, getattr(self.base, name)) for name in ("distill_similarity", "exits")
        )
        features = arm.method == "xkd" and similarity != 0 and not exits
        text = ABOUT[arm.method] + ("; features too" if features else "")
        return text + (f" ({given})" if arm.name != arm.method and given else "")

    def left_open(self, arm: Arm) -> list[str]:
        """Return the flags of the grid that make a difference to an arm and that it leaves open."""
        teacher = arm.options.get("teacher", self.base.teacher)
        unused = effects.unused(arm.method, teacher) | set(arm.options)
        return [name for name in self.grid if name not in unused]

    def candidates(self, arm: Arm) -> list[dict[str, Any]]:
        """Return what the search tries for an arm: the settings that make a difference to it.

        A variant tries none: it takes what is chosen for its method.
        """
        if arm.method == "solo" or arm.name != arm.method:
            return []
        free = self.left_open(arm)
        each = [{name: setting[name] for name in free} for setting in self.settings()]
        return [setting for i, setting in enumerate(each) if setting and setting not in each[:i]]

    def tasks(self, chosen: Mapping[str, Mapping] | None = None) -> list[Task]:
        """Return the study's runs, seed by seed, with the settings that the search chose."""
        folder, chosen = self.directory / "runs", chosen or {}
        return [
            self._task(arm, {**chosen.get(arm.method, {}), **arm.options}, seed, folder, arm.name)
            for seed in self.seeds
            for arm in self.arms
        ]

    def sweep_tasks(self) -> list[Task]:
        """Return the runs of the search, and of what it needs as teachers."""
        folder = self.directory / "sweep"
        tried = [(arm, each) for arm in self.arms for each in self.candidates(arm)]
        solo = [(arm, {}) for arm in self.arms if arm.name == "solo" and self._teaches()]
        return [
            dataclasses.replace(
                self._task(arm, {**each, **arm.options}, seed, folder, label(arm, each)), test=False
            )
            for seed in self.sweep_seeds
            for arm, each in solo + tried
        ]

    def _teaches(self) -> bool:
        """Whether the networks trained alone teach others afterwards."""
        return any(arm.method == "kd" for arm in self.arms) and not self.base.teacher_run

    def _task(self, arm: Arm, options, seed: int, folder: Path, name: str) -> Task:
        given = {"method": arm.method, "seed": seed, "run_dir": "", **options}
        alone = folder / "solo" / f"seed-{seed}"
        after = None
        if arm.method != "kd":
            given |= {"teacher_run": "", "teacher_peer": ""}
        elif self._teaches():
            after, given["teacher_run"] = alone.with_suffix(".json"), str(alone)
        config = dataclasses.replace(self.base, **given)
        keep = arm.name == "solo" and self._teaches()
        return Task(name, config, folder / name / f"seed-{seed}.json", keep, after)


def label(arm: Arm, settings: Mapping[str, Any]) -> str:
    """Return the name of a setting's directory."""
    return "-".join([arm.name, *(f"{name}={value}" for name, value in settings.items())])
