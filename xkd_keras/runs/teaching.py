"""What each peer's teacher was worth at the end of a run, on validation images."""

import numpy as np
import tensorflow as tf

from xkd_keras import data as datasets
from xkd_keras.data import pipeline
from xkd_keras.distillation import similar, teachers
from xkd_keras.distillation.cohort import Cohort
from xkd_keras.runs import scoring


def worth(cohort: Cohort, data: datasets.Dataset, batch_size: int) -> dict[str, dict]:
    """Return for each peer that is taught the scores of its teacher on the validation images.

    Args:
        cohort: Trained, its peers with the weights that are kept.
        data: Its images.
        batch_size: Of the evaluation.

    Returns:
        By the peer's name: what `scoring.scores` returns of the teacher's logits; `own_top1` of
        the peer itself; `agreement`, the share of images on which both name the same class; `gate`,
        the mean of the teacher's gate, 1 where it has none; `heard`, what multiplies lambda at the
        end of training; `teachers`, the names of the peers whose mean teaches it, none where the
        teacher is another; `told`, whether the teacher is made with the labels; and `features`,
        whether it learns from other peers' features too. A peer with the factor `distill` 0 is left
        out, and one whose others all have no share.
    """
    ask = tf.function(cohort.teaching, autograph=False)  # as Keras traces its steps
    parts = []
    for images, labels, weights in pipeline.eval_batches(
        data.validation, dataset=data, batch_size=batch_size
    ):
        real = weights.numpy() > 0
        answers = (each.numpy()[:, real] for each in ask(images, labels))
        parts.append((labels.numpy()[real], *answers))
    labels, *answers = zip(*parts, strict=True)
    labels = np.concatenate(labels)
    logits, taught, gate = (np.concatenate(each, axis=1) for each in answers)
    result, heard, comparing = {}, cohort.heard(), _comparing(cohort)
    for i, name in enumerate(cohort.peers):
        names = _teachers(cohort, name)
        if not cohort.distill[name] or names == [name]:
            continue
        own, target = logits[i].argmax(-1), taught[i].argmax(-1)
        result[name] = {
            **scoring.scores(labels, taught[i]),
            "own_top1": float(np.mean(own == labels)),
            "agreement": float(np.mean(own == target)),
            "gate": float(gate[i].mean()),
            "heard": heard[name],
            "teachers": names,
            "told": teachers.uses_labels(cohort.teacher, len(cohort.peers)),
            "features": name in comparing,
        }
    return result


def _teachers(cohort: Cohort, name: str) -> list[str]:
    """Return the names of the peers that a peer's teacher is the mean of, or none."""
    counting = [other for other in cohort.peers if cohort.shares[other]]
    if cohort.teacher == "mean":
        return counting
    if cohort.teacher == "leave_one_out":  # where there are no others, its own logits
        return [other for other in counting if other != name] or [name]
    of_others = cohort.teacher in teachers.OF_OTHERS
    return [other for other in cohort.peers if other != name] if of_others else []


def _comparing(cohort: Cohort) -> list[str]:
    """Return the names of the peers that learn from others' features."""
    if not cohort.similarity:
        return []
    read = [name for name, peer in cohort.peers.items() if similar.features(peer) is not None]
    teaching = [name for name in read if cohort.shares[name]]
    return [name for name in read if any(other != name for other in teaching)]
