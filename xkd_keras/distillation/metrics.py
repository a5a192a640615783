"""The running metrics of a cohort: what `fit` and `evaluate` return, by name."""

from collections.abc import Iterable

import keras
import tensorflow as tf

from xkd_keras.devices import cluster
from xkd_keras.distillation import losses
from xkd_keras.distillation.shares import ensemble

_COMMON = ("loss", "distill_weight", "agreement", "pairwise_kl")
_COMMON += ("ensemble_cross_entropy", "ensemble_top1")


class Metrics:
    """Means over the images of an epoch.

    Of the cohort: loss, distill_weight (lambda), agreement, pairwise_kl, ensemble_cross_entropy,
    ensemble_top1; of each peer NAME: NAME_cross_entropy, NAME_distillation (its term,
    gated, times how far it hears its teacher; without lambda, features and exits), NAME_top1, and
    NAME_gate where the teacher has gates.

    Args:
        peers: Names.
        gates: Whether the teacher has gates.
    """

    def __init__(self, peers: Iterable[str], gates: bool):
        self.peers = list(peers)
        kinds = ("cross_entropy", "distillation", "top1", *(["gate"] if gates else []))
        self.kinds = kinds
        own = [f"{name}_{kind}" for name in self.peers for kind in kinds]
        self.means = {name: keras.metrics.Mean(name=name) for name in (*_COMMON, *own)}

    def update(self, labels, logits, sound, shares, terms, loss, distill_weight, sample_weight):
        """Add a batch.

        Args:
            labels: int64 [B], or float32 [B, C] where images are mixed.
            logits: float32 [P, B, C].
            sound: The same, where no broken peer spoils the ensemble.
            shares: float32 [P].
            terms: (cross-entropy, distillation term, gate), each float32 [P, B].
            loss: float32 [P, B].
            distill_weight: lambda of the step.
            sample_weight: [B] or None.
        """
        together = ensemble(sound, shares)
        values = {
            "loss": tf.reduce_sum(loss, axis=0),
            "distill_weight": tf.fill(tf.shape(labels)[:1], distill_weight),
            "agreement": losses.agreement(sound),
            "pairwise_kl": losses.pairwise_kl(sound),
            "ensemble_cross_entropy": losses.cross_entropy(labels, together),
            "ensemble_top1": losses.top1(labels, together),
        }
        labelled, distilled, gate = terms
        by_kind = {"cross_entropy": labelled, "distillation": distilled, "gate": gate}
        by_kind["top1"] = losses.top1(labels, logits)
        for i, name in enumerate(self.peers):
            values |= {f"{name}_{kind}": by_kind[kind][i] for kind in self.kinds}
        for name, value in values.items():
            self.means[name].update_state(value, sample_weight=sample_weight)


def results(metrics: Iterable[keras.metrics.Metric]) -> dict[str, tf.Tensor]:
    """Return the values by name, as a step of Keras returns them."""
    values = {metric.name: metric.result() for metric in metrics}
    if cluster.several(tf.distribute.get_strategy()):
        # Keras takes the mean over the machines along axis 0, which a scalar has not.
        return {name: value[None] for name, value in values.items()}
    return values
