"""RUN/logs/answers.npz: what every network answered on the test images, for the report."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from xkd_keras import files

SHOWN = 12  # images that the networks disagree on, kept for the report's picture


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
    """

    labels: np.ndarray
    given: Mapping[str, np.ndarray]
    disputed: np.ndarray
    images: np.ndarray
    distill_weights: np.ndarray


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


def of(predictions, distill_weights: np.ndarray) -> Answers:
    """Return the answers of `evaluation.Predictions` on the test images."""
    labels = np.asarray(predictions.labels)
    given = {name: logits.argmax(axis=-1) for name, logits in predictions.logits.items()}
    disputed = disagreements(labels, given)[:SHOWN]
    images = predictions.fetch(disputed) if disputed.size else np.zeros((0, 1, 1, 3), np.uint8)
    return Answers(labels, given, disputed, np.asarray(images), np.asarray(distill_weights))


def path(run_dir: Path) -> Path:
    """Return where the answers of a run are."""
    return run_dir / "logs" / "answers.npz"


def write(run_dir: Path, answers: Answers) -> None:
    """Write the answers, whole or not at all."""
    with files.whole(path(run_dir)) as beside:
        np.savez_compressed(
            beside,
            labels=answers.labels.astype(np.int32),
            names=np.array(list(answers.given)),
            given=np.array(list(answers.given.values()), np.int32),
            disputed=answers.disputed,
            images=answers.images,
            distill_weights=answers.distill_weights,
        )


def read(run_dir: Path) -> Answers:
    """Return the answers of a run."""
    with np.load(path(run_dir)) as file:
        given = dict(zip(file["names"].tolist(), file["given"], strict=True))
        rest = {name: file[name] for name in ("labels", "disputed", "images", "distill_weights")}
    return Answers(given=given, **rest)
