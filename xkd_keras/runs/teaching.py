"""What each peer's teacher was worth at the end of a run, on validation images."""

import numpy as np
import tensorflow as tf

from xkd_keras import data as datasets
from xkd_keras.data import pipeline
from xkd_keras.distillation.cohort import Cohort
from xkd_keras.runs import evaluation


def worth(cohort: Cohort, data: datasets.Dataset, batch_size: int) -> dict[str, dict]:
    """Return for each peer the scores of its teacher on the validation images.

    Args:
        cohort: Trained.
        data: Its images.
        batch_size: Of the evaluation.

    Returns:
        By the peer's name: what `evaluation.scores` returns of the teacher's logits; `own_top1` of
        the peer itself; `agreement`, the share of images on which both name the same class; `gate`,
        the mean of the teacher's gate, 1 where it has none; and `heard`, what multiplies lambda.
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
    result, heard = {}, cohort.heard()
    for i, name in enumerate(cohort.peers):
        own, target = logits[i].argmax(-1), taught[i].argmax(-1)
        result[name] = {
            **evaluation.scores(labels, taught[i]),
            "own_top1": float(np.mean(own == labels)),
            "agreement": float(np.mean(own == target)),
            "gate": float(gate[i].mean()),
            "heard": heard[name],
        }
    return result
