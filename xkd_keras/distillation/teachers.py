"""Who teaches: from the peers' logits to the teacher logits of each peer.

Shapes: P peers, B images, C classes. A teacher is called as

    teacher(logits, weights=..., labels=..., images=...)

with logits float32 [P, B, C], weights float32 [P] summing to 1 (shares times mastery), labels
int [B], or float [B, C] where batches are mixed, and images [B, H, W, channels], and ignores what
it has no use for. It returns the teacher logits of every peer, [P, B, C], or of K teachers for
every peer, [K, P, B, C], whose terms are averaged. A teacher that does not speak equally of all
images returns (logits, gate), gate float32 [P, B] or [K, P, B]: the weight of each image's term;
with an attribute `gates = True`, the gates are among the metrics. A teacher that is none of the
peers has an attribute `of_peers = False`: their mastery does not weigh it. No gradient flows
through what it returns.
"""

import inspect
import math
from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from xkd_keras.distillation import losses
from xkd_keras.distillation import shares as ensemble_shares
from xkd_keras.errors import InputError


def mean(logits, weights, **_):
    """One teacher for all: z_T = sum_j w_j z_j (after MCOD, Gao et al., 2019)."""
    return tf.broadcast_to(ensemble_shares.ensemble(logits, weights), tf.shape(logits))


def leave_one_out(logits, weights, **_):
    """The teacher of peer i is the others: z_T,i = sum_{j != i} w_j z_j / (1 - w_i).

    A single peer has no others and is its own teacher, so that its distillation term is zero.
    """
    peers = logits.shape[0]
    if peers == 1:
        return logits
    others = tf.cast(weights, logits.dtype) * (1.0 - tf.eye(peers, dtype=logits.dtype))  # [P, P]
    whole = tf.reduce_sum(others, axis=1, keepdims=True)
    # Where one peer has all the weight, it has no others: its own logits again.
    taught = tf.einsum("ij,jbc->ibc", tf.math.divide_no_nan(others, whole), logits)
    return tf.where(whole[..., None] > 0.0, taught, logits)


def gated(logits, labels, **_):
    """The others, weighted by merit for each image, where they know more than the pupil.

    The target of peer p is sum_{q != p} w_q z_q with w_q = (1 - softmax_q(CE_q)) / (P - 2), the
    softmax over the others alone, CE_q the cross-entropy of peer q on the image (CA-MKD, Zhang et
    al., ICASSP 2022, equation 3, of P - 1 teachers); of two peers, the other has w_q = 1. The gate
    is 1 where CE(target) < CE_p, else 0 (the idea of ClassroomKD, arXiv 2409.20237). A single peer
    has no others: its gate is 0.
    """
    peers = logits.shape[0]
    if peers == 1:
        return logits, tf.zeros(tf.shape(logits)[:-1])
    own = losses.cross_entropy(labels, logits)  # [P, B]
    merit = 1.0 - tf.eye(peers)[..., None]  # [P pupils, P teachers, 1]
    if peers > 2:
        among = tf.nn.softmax(tf.where(merit > 0.0, own[None], -math.inf), axis=1)
        merit *= (1.0 - among) / (peers - 2)  # [P, P, B], sums to 1
    target = tf.reduce_sum(merit[..., None] * logits[None], axis=1)
    return target, tf.cast(losses.cross_entropy(labels, target) < own, tf.float32)


gated.gates = True


def swapped(logits, weights, labels, **_):
    """The ensemble with the label's logit and the largest exchanged where it is wrong (SWAP).

    The target then always names the label, and keeps what the ensemble thinks of the other classes
    (Wen et al., Preparing Lessons, Neurocomputing 2021, there called probability shift).
    """
    z = ensemble_shares.ensemble(logits, weights)  # [B, C]
    label, top = (
        tf.one_hot(losses.classes(labels), z.shape[-1]),
        tf.one_hot(tf.argmax(z, -1), z.shape[-1]),
    )
    gap = tf.reduce_sum((top - label) * z, axis=-1, keepdims=True)
    return tf.broadcast_to(z + gap * (label - top), tf.shape(logits))


def pairwise(logits, **_):
    """Each other peer is a teacher: P - 1 teachers of each (Deep Mutual Learning).

    Their averaged terms are those of Zhang et al., CVPR 2018, for a cohort of P networks:
    1 / (P - 1) sum_{j != i} KL(p_j || p_i), there at T = 1.
    """
    others = range(1, logits.shape[0])
    return tf.stack([tf.roll(logits, shift, axis=0) for shift in others] or [logits])


def best(logits, labels, **_):
    """For each image the peer with the smallest cross-entropy (KDCL-Naive, Guo et al., CVPR 2020).

    z_T = argmin over z in {z_1, ..., z_P} of CE(y, z).
    """
    first = tf.argmin(losses.cross_entropy(labels, logits), axis=0)  # [B]
    chosen = tf.gather(tf.transpose(logits, [1, 0, 2]), first, batch_dims=1)
    return tf.broadcast_to(chosen, tf.shape(logits))


def linear(logits, labels, **_):
    """For each image the best convex combination (KDCL-Linear, Guo et al., CVPR 2020).

    z_T = sum_k a_k z_k with a = argmin of CE(y, z_T), a_k >= 0, sum_k a_k = 1.
    """
    shares = _best_shares(_above_label(logits, labels))
    return tf.broadcast_to(_mixed(shares, logits), tf.shape(logits))


def min_logit(logits, labels, **_):
    """The least likely other classes of any peer (KDCL-MinLogit, Guo et al., CVPR 2020).

    z_T,c = min over k of (z_k,c - z_k,y): the label's entry is 0 and the others are as low as
    possible, so that no peer has a smaller cross-entropy.
    """
    lowest = tf.reduce_min(_above_label(logits, labels), axis=0)
    return tf.broadcast_to(lowest, tf.shape(logits))


def _above_label(logits, labels):
    """Return z_c - z_y, which leaves every softmax as it is: [P, B, C]."""
    labels = losses.classes(labels)
    own = tf.gather(logits, tf.broadcast_to(labels, tf.shape(logits)[:-1]), batch_dims=2)
    return logits - own[..., None]


def _mixed(shares, logits):
    """Return sum_k a_k z_k of every image: [B, C]."""
    return tf.reduce_sum(shares[..., None] * logits, axis=0)


def _best_shares(logits, steps: int = 50):
    """Return, for each image, a of the simplex with least logsumexp(sum_k a_k z_k): [P, B].

    Exponentiated gradient (Kivinen and Warmuth, 1997): convex, so it ends near the minimum. The
    step is one over the largest curvature along a peer: the variance of its logits.
    """
    log_shares = tf.zeros(tf.shape(logits)[:-1])
    for _ in range(steps):
        p = tf.nn.softmax(_mixed(tf.nn.softmax(log_shares, axis=0), logits))
        slope = tf.reduce_sum(p * logits, axis=-1)  # [P, B]
        variance = tf.reduce_sum(p * (logits - slope[..., None]) ** 2, axis=-1)
        curvature = tf.reduce_max(variance, axis=0)
        log_shares -= tf.math.divide_no_nan(slope, curvature)
    return tf.nn.softmax(log_shares, axis=0)


@keras.saving.register_keras_serializable("xkd_keras")
class Gate(keras.layers.Layer):
    """A learned, per-image mixture of the peers' logits (after ONE, Lan et al., NeurIPS 2018).

    z_T = sum_j g_j z_j with g = softmax(W p + b) of the peers' probabilities p [P C], learned by
    CE(y, z_T). In ONE the gate reads features that its branches share
    and its loss reaches them; different networks share none, and here no loss reaches another
    peer, so it reads their answers and learns alone. It starts as the plain mean.
    """

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})  # as the logits are

    def build(self, input_shape):
        peers, _, classes = input_shape
        self.kernel = self.add_weight((peers * classes, peers), "zeros", name="kernel")
        self.bias = self.add_weight((peers,), "zeros", name="bias")

    def call(self, logits, labels, **_):
        logits = tf.stop_gradient(logits)
        answers = tf.transpose(tf.nn.softmax(logits), [1, 0, 2])  # [B, P, C]
        answers = tf.reshape(answers, [-1, self.kernel.shape[0]])
        shares = tf.nn.softmax(tf.matmul(answers, self.kernel) + self.bias)  # [B, P]
        mixed = tf.einsum("bp,pbc->bc", shares, logits)
        self.add_loss(tf.reduce_mean(losses.cross_entropy(labels, mixed)))
        return tf.broadcast_to(mixed, tf.shape(logits))


@keras.saving.register_keras_serializable("xkd_keras")
class Frozen(keras.layers.Layer):
    """A teacher trained before: the weighted mean of the logits of fixed models.

    This is traditional distillation (Hinton, Vinyals and Dean, 2015).

    Args:
        models: Trained Keras models by name, images -> logits; set to be not trainable.
        weights: Their weights in the mean, by name; only ratios matter.
    """

    of_peers = False

    def __init__(self, models: dict, weights: dict[str, float], **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})  # pixels are not to be rounded
        self.models, self.weights_by_name = models, dict(weights)
        self.trainable = False
        self.built = True  # the models are

    def call(self, logits, images, **_):
        shares = ensemble_shares.normalized(self.weights_by_name, self.models)
        stacked = ensemble_shares.stacked(self.models.values(), images)
        taught = ensemble_shares.ensemble(stacked, list(shares.values()))
        return tf.broadcast_to(taught, tf.shape(logits))

    def get_config(self):
        models = keras.saving.serialize_keras_object(self.models)
        return {**super().get_config(), "models": models, "weights": self.weights_by_name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        models = keras.saving.deserialize_keras_object(config["models"], custom_objects)
        return cls(**{**config, "models": models})


TEACHERS = {
    "mean": mean,
    "leave_one_out": leave_one_out,
    "gated": gated,
    "swapped": swapped,
    "pairwise": pairwise,
    "best": best,
    "linear": linear,
    "min_logit": min_logit,
    "gate": Gate,
}


# Those whose teacher of a peer is the other peers, without itself.
OF_OTHERS = ("leave_one_out", "gated", "pairwise")


def uses_labels(teacher: str | Callable, peers: int) -> bool:
    """Whether a teacher is made with the labels, so that how often it is right says nothing.

    Of two peers, `gated` has the other one as it is.
    """
    return teacher in ("swapped", "best", "linear", "min_logit") or (
        teacher == "gated" and peers > 2
    )


def ask(teacher: Callable, logits, **given) -> tuple[tf.Tensor, tf.Tensor]:
    """Return what a teacher says, and its gate, 1 where it has none; constant to the gradient.

    Whatever the teacher and the term are, a peer's loss then does not reach another peer.

    Args:
        teacher: As described above.
        logits: float32 [P, B, C].
        **given: The teacher's other arguments.

    Returns:
        float32 [(K,) P, B, C] and [(K,) P, B].
    """
    said = teacher(logits, **given)
    taught, gate = said if isinstance(said, tuple) else (said, tf.ones(tf.shape(said)[:-1]))
    gate = tf.broadcast_to(gate, tf.shape(taught)[:-1])  # of several teachers, there may be one
    return tf.stop_gradient(taught), tf.stop_gradient(gate)


def build(teacher: Callable, peers: Mapping[str, keras.Model], classes: int) -> None:
    """Let a teacher that is a layer make its variables, if it has not: what it learns is trained.

    It is called as `Cohort` does it, on symbols: layers inside it are built, too. (One that Keras
    has loaded may count as built, and these not.)
    """
    layer = isinstance(teacher, keras.layers.Layer)
    if layer and not all(each.built for each in teacher._flatten_layers()):
        shapes = (getattr(peer, "input_shape", None) for peer in peers.values())
        symbols = {
            "weights": keras.KerasTensor((len(peers),)),
            "labels": keras.KerasTensor((None,), dtype="int64"),
            "images": keras.KerasTensor(next(filter(None, shapes), (None,) * 4)),
        }
        teacher(keras.KerasTensor((len(peers), None, classes)), **symbols)


def get(teacher: str | Callable) -> Callable:
    """Return the teacher of that name, or the one given, if it can be called as one.

    Raises:
        InputError: Unknown name, or a function that takes other arguments.
    """
    if isinstance(teacher, keras.Model) or teacher == "frozen":
        what = "'frozen'" if teacher == "frozen" else "a model"
        valid = "xkd_keras.teachers.Frozen({'NAME': model}, {'NAME': 1.0})"
        raise InputError(f"received {what}; valid: {valid}.", argument="teacher")
    if isinstance(teacher, str):
        if teacher not in TEACHERS:
            raise InputError.unknown("teacher", teacher, TEACHERS)
        found = TEACHERS[teacher]
        return found() if isinstance(found, type) else found
    try:
        signature = inspect.signature(getattr(teacher, "call", teacher))
        signature.bind(None, weights=None, labels=None, images=None)
    except TypeError:
        raise InputError(
            f"teacher: received {teacher!r}; valid: a name, or a function of (logits, weights,"
            " labels, images); end it with **_ for what it does not use."
        ) from None
    return teacher
