"""Similarity: peers learn which images are alike from one another, whatever their features' shapes.

With F_i [B, D_i] the features that the last layer of peer i classifies, and S_i the matrix
F_i F_i^T with every row divided by its length (after Tung and Mori, Similarity-Preserving Knowledge
Distillation, ICCV 2019, equations 1 to 4: there of activation maps, here of the last layer's
features, which most networks have averaged over the image; and in both directions),

L_i += d_i lambda(t) gamma mean_(j != i) 1 / B sum_ab (S_j[a, b] - S_i[a, b])^2

S_j is constant to the gradient; a peer without a share of the ensemble is none of the j, and an
image of weight 0 is like no other. Rows have length one, so the sum over b does not depend on the
size of a batch; the paper divides by B^2, and its gamma is B times this one. Over replicas, B are
the images of each replica.

Shapes: P peers, B images in the batch, D_i features of peer i.
"""

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from xkd_keras import operations
from xkd_keras.distillation import inside, recompute
from xkd_keras.errors import InputError

_DROPOUT = (
    *(keras.layers.Dropout, keras.layers.AlphaDropout, keras.layers.GaussianDropout),
    *(keras.layers.GaussianNoise, keras.layers.SpatialDropout2D),
)
# What may stand between a dropout and the last layer without making other features of them.
_SHAPING = (keras.layers.Flatten, keras.layers.Reshape, keras.layers.Activation)


class Similarity:
    """The peers as networks that return their features beside their logits.

    Args:
        peers: By name, as `members.opened` returns them: images [B, H, W, channels] -> logits
            [B, C]. Those of which `features` finds none take no part.
        exits: What the cohort has of them, with which this does not go together.
        at: By the peer's name, what `recompute.forward` calls `at`.

    Raises:
        InputError: There are exits.
    """

    def __init__(self, peers: Mapping[str, keras.Model], exits, at: Mapping[str, Sequence[str]]):
        if exits:
            raise InputError("cannot be combined with exits; valid: 0.", argument="similarity")
        self._forward = []
        for name, peer in peers.items():
            found = _features(peer)
            more = [] if found is None else [found]
            self._forward.append(recompute.forward(peer, more, at[name]))

    def logits(self, images: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
        """Return the peers' logits float32 [P, B, C], and the features of each, float32 [B, D]."""
        own, read = [], []
        for call in self._forward:
            logits, *more = call(images)
            own.append(tf.cast(logits, tf.float32))
            flat = [tf.reshape(tf.cast(each, tf.float32), [tf.shape(each)[0], -1]) for each in more]
            read.append(flat[0] if flat else None)
        return tf.stack(own), read


def features(peer: keras.Model) -> keras.KerasTensor | None:
    """Return what the last layer with weights of a peer reads, before dropout.

    None of a model that is not functional, of one that ends in a model that remains one layer
    (`operations.flat`), and of one whose end joins several layers.
    """
    return _features(operations.flat(peer))


def _features(peer: keras.Model) -> keras.KerasTensor | None:
    tensors = list(peer.outputs) if operations.has_graph(peer) else []
    while len(tensors) == 1:
        made = inside.node(tensors[0])
        layer, tensors = made.operation, made.input_tensors
        if isinstance(layer, keras.layers.InputLayer | keras.Model):
            return None
        if isinstance(layer, keras.Layer) and layer.weights:
            return _before_dropout(tensors[0]) if len(tensors) == 1 else None
    return None


def _before_dropout(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """Return what a dropout reads: its masks would differ between peers."""
    ahead = tensor
    while isinstance(inside.node(ahead).operation, (*_DROPOUT, *_SHAPING)):
        made = inside.node(ahead)
        ahead = made.input_tensors[0]
        if isinstance(made.operation, _DROPOUT):
            tensor = ahead
    return tensor


def terms(
    read: Sequence[tf.Tensor | None],
    teaches: Sequence[bool] | None = None,
    sample_weight: tf.Tensor | None = None,
) -> tf.Tensor:
    """Return the term of each image, float32 [P, B]: the mean over them is that above, at gamma 1.

    An image whose row is not finite for a peer is not taught by it.

    Args:
        read: Of each peer the features, float32 [B, D], of one at least; None takes no part.
        teaches: Of each peer whether others learn from it; None: all teach.
        sample_weight: [B]; images of weight 0 are compared with none. None: all count.
    """
    teaches = teaches or [True] * len(read)
    if sample_weight is not None:
        counts = tf.cast(tf.cast(sample_weight, tf.float32) != 0, tf.float32)[:, None]
        read = [None if f is None else tf.math.multiply_no_nan(f, counts) for f in read]
    alike = [None if f is None else tf.math.l2_normalize(f @ tf.transpose(f), 1) for f in read]
    nothing = tf.zeros(tf.shape(next(rows for rows in alike if rows is not None))[:1])
    taught = []
    for i, own in enumerate(alike):
        others = [
            rows for j, rows in enumerate(alike) if j != i and rows is not None and teaches[j]
        ]
        distances = [] if own is None else [_distance(rows, own) for rows in others]
        taught.append(tf.add_n(distances) / len(distances) if distances else nothing)
    return tf.stack(taught)


def _distance(teacher: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Return the squared distance of every row, [B], 0 where the teacher's is not finite."""
    sound = tf.reduce_all(tf.math.is_finite(teacher), axis=-1)
    teacher = tf.stop_gradient(tf.where(sound[:, None], teacher, 0.0))
    return tf.where(sound, tf.reduce_sum((teacher - rows) ** 2, axis=-1), 0.0)
