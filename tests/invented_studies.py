"""Studies that never were, with a known effect of every method."""

import dataclasses

import numpy as np

from xkd_keras.study.report import document

MAIN = ("solo", "kd", "dml", "ensemble", "mcod")
VARIANTS = {"windows_only": {"distill_growth": "constant"}, "growth_only": {"distill_duty": 1.0}}


@dataclasses.dataclass
class Study:
    """A study that never was. Effects, in points, are what a method adds to each peer."""

    peers: dict[str, str] = dataclasses.field(
        default_factory=lambda: {"alexnet": "alexnet", "resnet20": "resnet20"}
    )
    seeds: int = 20
    main: tuple[str, ...] = MAIN
    variants: tuple[str, ...] = ()
    effects: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    base: tuple[float, ...] = (84.0, 89.0)  # of the peers alone, percent
    noise: float = 0.6  # of a run, points; as much again is shared by all methods of a seed
    images: int = 361
    broken: dict = dataclasses.field(default_factory=dict)  # (method, seed) -> error or None
    sweep: bool = False
    history: bool = True

    @property
    def content(self):
        """Return what study.json would hold."""
        methods = [*self.main, *self.variants]
        examples = {"train": 100, "validation": 179, "test": self.images}
        return {
            "dataset": "digits",
            "title": "alexnet and resnet20 on digits",
            "command": "python -m xkd_keras.study --flagfile=configs/study/digits.flags",
            "created": "2026-11-23T08:00:00+00:00",
            "versions": {"python": "3.11.7", "tensorflow": "2.21.0"},
            "data": {
                "name": "digits",
                "fingerprint": "9f86d081884c7d65",
                "class_names": list("0123456789"),
                "image_shape": [32, 32, 3],
                "examples": examples,
                "skipped": [],
            },
            "peers": {
                name: {"builder": builder, "parameters": 2472266}
                for name, builder in self.peers.items()
            },
            "config": {"dataset": "digits", "epochs": 30, "batch_size": 64, "peer": ["a", "b"]},
            "seeds": list(range(self.seeds)),
            "methods": {name: self._method(name) for name in methods},
            "main": list(self.main),
            "sweep": self._sweep() if self.sweep else None,
            "runs": [
                run
                for i, method in enumerate(methods)
                for seed in range(self.seeds)
                if (run := self._run(method, i, seed))
            ],
        }

    def _method(self, name):
        own = {"kd": {"temperature": 3.0}, **VARIANTS}.get(name, {})
        return {"method": name, "options": own, "about": f"how {name} teaches"}

    def _sweep(self):
        settings = [
            {"options": {"temperature": t}, "top1": 0.85 + t / 1000, "sd": 0.01, "n": 3}
            | {"error": 0.14, "cross_entropy": 0.5, "chosen": t == 3.0}
            for t in (1.0, 3.0)
        ]
        return {
            "seeds": [100000, 100001, 100002],
            "split": "validation",
            "criterion": "the geometric mean of the error rates",
            "methods": {"kd": settings, "mcod": settings},
        }

    def _run(self, method, i, seed):
        if (method, seed) in self.broken:
            error = self.broken[method, seed]
            return error and {"method": method, "seed": seed, "status": "failed", "error": error}
        shared = np.random.default_rng(seed).normal(0, self.noise, len(self.peers))
        rng = np.random.default_rng([seed, i])
        effects = self.effects.get(method, (0.0,) * len(self.peers))
        points = [
            self.base[j % len(self.base)] + shared[j] + rng.normal(0, self.noise) + effects[j]
            for j in range(len(self.peers))
        ]

        def result(percent):
            return {
                "top1": round(min(percent, 100) / 100 * self.images) / self.images,
                "cross_entropy": 5 * (1 - percent / 100) + abs(rng.normal(0, 0.02)),
                "ece": 0.03 + abs(rng.normal(0, 0.005)),
                "brier": 1.5 * (1 - percent / 100),
            }

        return {
            "method": method,
            "seed": seed,
            "status": "done",
            "seconds": 20 + 2 * i + abs(rng.normal()),
            "teacher_seconds": 19.0 if method == "kd" else 0.0,
            "peers": {name: result(p) for name, p in zip(self.peers, points, strict=True)},
            "ensemble": result(max(points) + 0.5),
            "agreement": 0.9,
            "history": [self._epoch(e, i, rng) for e in range(2, 31, 2)] if self.history else [],
        }

    def _epoch(self, epoch, i, rng):
        left = np.exp(-epoch / 8)
        return {
            "epoch": epoch,
            "disagreement": 0.1 + 0.4 * left / (1 + i / 4) + rng.normal(0, 0.01),
            "pairwise_kl": 0.3 + 2 * left / (1 + i / 3) + rng.normal(0, 0.05),
            "seconds": epoch * 0.7,
        }

    def write(self, study_dir):
        document.write(study_dir, self.content)
        return (study_dir / "report.md").read_text()
