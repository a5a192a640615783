"""Runs that never were, with curves and answers that look like those of one."""

import dataclasses
import json

import numpy as np

from xkd_keras import files
from xkd_keras.report import run_page
from xkd_keras.runs import answers, history

LEARNING = {
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "learning_rate_schedule": "step",
    "learning_rate_epochs": "",
    "nesterov": False,
}


@dataclasses.dataclass
class Predictions:
    labels: np.ndarray
    logits: dict[str, np.ndarray]
    shape: tuple[int, ...] = (32, 32, 3)

    def fetch(self, indices):
        rows = np.linspace(0, 255, self.shape[0], dtype=np.uint8)[None, :, None, None]
        shades = (np.asarray(indices) % 7 + 1)[:, None, None, None] / 7
        return (rows * shades * np.ones((1, 1, *self.shape[1:]))).astype(np.uint8)


@dataclasses.dataclass
class Run:
    """A run that never was, with curves that look like one."""

    peers: tuple[str, ...] = ("alexnet", "resnet20")
    names: tuple[str, ...] = tuple("0123456789")
    images: int = 360
    epochs: int = 30
    validation: bool = True
    teaching: bool = True
    mistakes: float = 0.05
    steps: int = 20  # an epoch

    @property
    def metrics(self):
        examples = {"train": 1257, "validation": 180, "test": self.images}

        def network(i):
            values = {"top1": 0.97 + 0.002 * i, "cross_entropy": 0.11 - 0.01 * i}
            values |= {"brier": 0.06, "ece": 0.03, "temperature": 1.62}
            values["calibrated"] = {"cross_entropy": 0.08, "brier": 0.05, "ece": 0.011}
            if len(self.names) > 10:
                values["top5"] = 0.995
            return {**values, "parameters": 2472266 // (i + 1), "milliseconds_per_image": 0.21}

        peers = {p: {**network(i), "file": f"peers/{p}.keras"} for i, p in enumerate(self.peers)}
        return {
            "dataset": "digits",
            "method": "mcod",
            "seed": 7,
            "created": "2025-11-23T04:00:00",
            "command": "python -m xkd_keras.train --flagfile=configs/quickstart.flags",
            "config": {
                "dataset": "digits",
                "peer": list(self.peers),
                "name": "a|b<c>",
                "none": None,
            },
            "versions": {"python": "3.11.4", "tensorflow": "2.21.0"},
            "data": {
                "fingerprint": "9f86d081884c7d65",
                "class_names": list(self.names),
                "image_shape": [32, 32, 3],
                "examples": examples,
                "class_counts": {part: self.spread(n) for part, n in examples.items()},
                "skipped": [["train/cat/broken|file.png", "empty <file>"]],
                "duplicates": [["in train and test", ["train/cat/a<b>.png", "test/cat/c.png"]]],
                "notes": ["'zip' contains nothing but 'pets', so that folder was read."],
            },
            "training": {
                "epochs": self.epochs,
                "steps": self.epochs * self.steps,
                "batch_size": 64,
                "seconds": 95.4,
                "steps_per_second": 12.6,
                "replicas": 1,
                "learning": {name: dict(LEARNING) for name in self.peers},
            },
            "peers": peers,
            "ensemble": network(len(self.peers)),
            "agreement": 0.953,
        }

    def spread(self, images):
        """Return how many images each class has, of so many: the first ones one more."""
        each, more = divmod(images, len(self.names))
        return [each + (i < more) for i in range(len(self.names))]

    @property
    def weights(self):
        if not self.teaching:
            return np.zeros(self.epochs * self.steps, np.float32)
        step = np.arange(self.epochs * self.steps)
        period = max(2, len(step) // 6)
        return np.where(step % period >= period // 2, (step // period + 1) / 6, 0).astype(
            np.float32
        )

    @property
    def history(self):
        rng = np.random.default_rng(0)
        rows = []
        for epoch in range(1, self.epochs + 1):
            row = {"epoch": epoch, "step": epoch * self.steps, "seconds": 3.0, "loss": 1 / epoch}
            for i, name in enumerate([*self.peers, "ensemble"]):
                error = 0.8 * np.exp(-epoch / (3 + i)) + 0.04 - 0.003 * i
                for prefix, more in (("", 0.8), ("val_", 1.0)):
                    wobble = rng.normal(0, 0.003)
                    row[f"{prefix}{name}_top1"] = 1 - more * error + wobble
                    row[f"{prefix}{name}_cross_entropy"] = 3 * more * error + abs(wobble)
                row[f"{name}_distillation"] = error * self.teaching
                row[f"{name}_learning_rate"] = 0.05 * (1 + np.cos(np.pi * epoch / 40))
            row |= {"agreement": 0.95 - 0.5 / epoch, "val_agreement": 0.94 - 0.4 / epoch}
            rows.append(
                {k: v for k, v in row.items() if self.validation or not k.startswith("val_")}
            )
        return rows

    @property
    def predictions(self):
        rng = np.random.default_rng(1)
        labels = rng.integers(0, len(self.names), self.images)
        logits = {}
        for name in self.peers:
            chosen = np.where(
                rng.random(self.images) < self.mistakes, (labels * 3 + 1) % len(self.names), labels
            )
            sure = rng.uniform(2, 5, (self.images, 1))
            logits[name] = (sure * np.eye(len(self.names))[chosen]).astype(np.float32)
        logits["ensemble"] = np.mean(list(logits.values()), axis=0)
        return Predictions(labels, logits)

    @property
    def answered(self):
        """Its answers, as the report reads them."""
        parts, warm = {"test": self.predictions}, dict.fromkeys([*self.peers, "ensemble"], 2.0)
        places = {"test": [f"train/{i}.png" for i in range(self.images)]}
        return answers.collect(parts, self.weights, warm, places)

    def write(self, run_dir):
        """Write what a run leaves behind, and the report of it; return the page's path."""
        files.write(run_dir / "metrics.json", json.dumps(self.metrics))
        if self.epochs:
            history.write(run_dir, self.history)
        else:
            files.write(history.path(run_dir), "")
        answers.write(run_dir, self.answered)
        return run_page.write(run_dir)
