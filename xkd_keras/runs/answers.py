"""RUN/logs/answers.npz: what every network answered on the test images, for the report."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xkd_keras import files
from xkd_keras.runs import calibration

SHOWN = 12  # images that the networks disagree on, kept for the report's picture
MISTAKES = 24  # images whose wrong answers are the surest, kept for the page of mistakes


@dataclasses.dataclass(frozen=True)
class Mistakes:
    """The k held-out images that the ensemble gets wrong and is surest of, the surest first.

    Attributes:
        files: Of the images; SPLIT/POSITION where they have none.
        labels: int [k], what they are said to be.
        given: Each peer and `ensemble` -> int [k], their answers.
        sure: float32 [k], the ensemble's calibrated probability of its answer.
        images: uint8 [k, H, W, channels].
    """

    files: tuple[str, ...]
    labels: np.ndarray
    given: Mapping[str, np.ndarray]
    sure: np.ndarray
    images: np.ndarray


@dataclasses.dataclass(frozen=True)
class Answers:
    """What networks answered on the n test images of a run.

    Attributes:
        labels: int [n], the true classes.
        given: Each peer and `ensemble` -> int [n], the class with the largest logit.
        disputed: int [k], the images to show: those on which the most peers differ from the
            ensemble.
        images: uint8 [k, H, W, channels], those images.
        distill_weights: float32 [steps], lambda at each step of the training.
        sure: Each network -> float32 [2, n], the probability of its answer as trained, and
            calibrated; empty for a run of an earlier version.
        mistakes: The surest; None for a run of an earlier version.
    """

    labels: np.ndarray
    given: Mapping[str, np.ndarray]
    disputed: np.ndarray
    images: np.ndarray
    distill_weights: np.ndarray
    sure: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    mistakes: Mistakes | None = None


def disagreements(labels: np.ndarray, given: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the indices of images where a peer and the ensemble differ, most dissenters first.

    Among as many dissenters, images that the ensemble gets wrong come first: they are the rarer.

    Args:
        labels: int [n], the true classes.
        given: Each peer and `ensemble` -> int [n].
    """
    teacher = given["ensemble"]
    dissenters = np.sum([answer != teacher for answer in given.values()], axis=0)
    order = np.lexsort((teacher == labels, -dissenters))  # stable: then by position
    return order[dissenters[order] > 0]


def collect(
    parts: Mapping,
    distill_weights: np.ndarray,
    temperatures: Mapping[str, float],
    places: Mapping[str, Sequence[str]],
) -> Answers:
    """Return the answers of a run.

    Args:
        parts: `evaluation.Predictions` by split; `test` is among them.
        distill_weights: float32 [steps].
        temperatures: By network, as `calibration.fitted`.
        places: The images' file names, or positions, by split.
    """
    test = parts["test"]
    labels = np.asarray(test.labels)
    given = {name: logits.argmax(axis=-1) for name, logits in test.logits.items()}
    disputed = disagreements(labels, given)[:SHOWN]
    images = test.fetch(disputed) if disputed.size else np.zeros((0, 1, 1, 3), np.uint8)
    sure = {
        name: np.stack([calibration.confidence(logits, t) for t in (1.0, temperatures[name])])
        for name, logits in test.logits.items()
    }
    mistakes = _mistakes(parts, temperatures["ensemble"], places)
    return Answers(
        labels, given, disputed, np.asarray(images), np.asarray(distill_weights), sure, mistakes
    )


def _mistakes(parts, temperature: float, places: Mapping[str, Sequence[str]]) -> Mistakes:
    """Return the surest mistakes of all splits."""
    where = [(split, i) for split, each in parts.items() for i in range(len(each.labels))]
    labels = np.concatenate([each.labels for each in parts.values()])
    names = list(next(iter(parts.values())).logits)
    logits = {n: np.concatenate([each.logits[n] for each in parts.values()]) for n in names}
    sure = calibration.confidence(logits["ensemble"], temperature)
    wrong = np.flatnonzero(logits["ensemble"].argmax(-1) != labels)
    chosen = wrong[np.argsort(-sure[wrong], kind="stable")][:MISTAKES]
    shown = []
    for split, i in (where[at] for at in chosen):
        place = places[split][i]
        shown.append(f"{split}/{i}" if place == str(i) else place)
    return Mistakes(
        tuple(shown),
        labels[chosen].astype(np.int32),
        {name: each[chosen].argmax(-1).astype(np.int32) for name, each in logits.items()},
        sure[chosen],
        _images(parts, [where[at] for at in chosen]),
    )


def _images(parts, where: Sequence[tuple[str, int]]) -> np.ndarray:
    """Return the images at (split, position), read once per split: a stream takes long to start."""
    found = {}
    for split in {split for split, _ in where}:
        own = [i for one, i in where if one == split]
        images = np.asarray(parts[split].fetch(own))
        found |= {(split, i): image for i, image in zip(own, images, strict=True)}
    return np.stack([found[each] for each in where]) if where else np.zeros((0, 1, 1, 3), np.uint8)


def path(run_dir: Path) -> Path:
    """Return where the answers of a run are."""
    return run_dir / "logs" / "answers.npz"


def write(run_dir: Path, answers: Answers) -> None:
    """Write the answers, whole or not at all."""
    names, mistakes = list(answers.given), answers.mistakes
    arrays = {
        "labels": answers.labels.astype(np.int32),
        "names": np.array(names),
        "given": np.array([answers.given[name] for name in names], np.int32),
        "disputed": answers.disputed,
        "images": answers.images,
        "distill_weights": answers.distill_weights,
    }
    if mistakes:
        arrays |= {
            "sure": np.array([answers.sure[name] for name in names], np.float32),
            "mistakes_files": np.array(mistakes.files, np.str_),
            "mistakes_given": np.array([mistakes.given[name] for name in names], np.int32),
            **{
                f"mistakes_{name}": getattr(mistakes, name) for name in ("labels", "sure", "images")
            },
        }
    with files.whole(path(run_dir)) as beside:
        np.savez_compressed(beside, **arrays)


def read(run_dir: Path) -> Answers:
    """Return the answers of a run."""
    with np.load(path(run_dir)) as file:
        names = file["names"].tolist()
        rest = {name: file[name] for name in ("labels", "disputed", "images", "distill_weights")}
        if "sure" in file:
            rest["sure"] = dict(zip(names, file["sure"], strict=True))
            rest["mistakes"] = Mistakes(
                files=tuple(file["mistakes_files"].tolist()),
                given=dict(zip(names, file["mistakes_given"], strict=True)),
                **{name: file[f"mistakes_{name}"] for name in ("labels", "sure", "images")},
            )
        return Answers(given=dict(zip(names, file["given"], strict=True)), **rest)
