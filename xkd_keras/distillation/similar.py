"""Similarity: peers learn which images are alike from one another, whatever their features' shapes.

With F_i [B, D_i] the features that the last layer of peer i classifies, and S_i the matrix
F_i F_i^T with every row divided by its length (Tung and Mori, Similarity-Preserving Knowledge
Distillation, ICCV 2019, equations 1 to 4, of the last layer only, and in both directions),

L_i += d_i lambda(t) gamma mean_(j != i) 1 / B^2 sum_ab (S_j[a, b] - S_i[a, b])^2

S_j is constant to the gradient. Over replicas, B are the images of each replica.

Shapes: P peers, B images in the batch, D_i features of peer i.
"""

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from xkd_keras.errors import InputError


class Similarity:
    """The peers as networks that return their features beside their logits.

    Args:
        peers: By name; functional models, images [B, H, W, channels] -> logits [B, C].
        exits: What the cohort has of them, with which this does not go together.

    Raises:
        InputError: A peer of which `features` finds none, or exits.
    """

    def __init__(self, peers: Mapping[str, keras.Model], exits=None):
        if exits:
            raise InputError("is not there beside exits; valid: 0.", argument="similarity")
        self._forward = []
        for name, peer in peers.items():
            found = features(peer)
            if found is None:
                raise InputError(
                    f"'{name}' has no features before its last layer; valid: 0 with it.",
                    argument="similarity",
                )
            self._forward.append(keras.Model(peer.inputs[0], [peer.outputs[0], found]))

    def logits(self, images: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Return the peers' logits float32 [P, B, C], and the features of each, float32 [B, D]."""
        own, read = [], []
        for model in self._forward:
            logits, found = model(images, training=True)
            own.append(tf.cast(logits, tf.float32))
            read.append(tf.reshape(tf.cast(found, tf.float32), [tf.shape(found)[0], -1]))
        return tf.stack(own), read


def features(peer: keras.Model) -> keras.KerasTensor | None:
    """Return what the last layer with weights of a peer reads; None if that cannot be told.

    It cannot of a model that is not functional, of a nested one at the end, and of ends that join
    several layers.
    """
    tensors = list(getattr(peer, "outputs", ()))
    while len(tensors) == 1:
        layer, place, _ = tensors[0]._keras_history
        if isinstance(layer, keras.layers.InputLayer | keras.Model):
            return None
        tensors = layer._inbound_nodes[place].input_tensors
        if layer.weights:
            return tensors[0] if len(tensors) == 1 else None
    return None


def terms(read: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return the term of each image, float32 [P, B]: the mean over them is that above, at gamma 1.

    An image whose row is not finite for a peer is not taught by it.

    Args:
        read: Of each peer the features, float32 [B, D].
    """
    alike = tf.stack([tf.math.l2_normalize(f @ tf.transpose(f), axis=1) for f in read])
    sound = tf.reduce_all(tf.math.is_finite(alike), axis=-1)
    teachers = tf.stop_gradient(tf.where(sound[..., None], alike, 0.0))
    taught = []
    for i, own in enumerate(tf.unstack(alike)):
        others = [j for j in range(len(read)) if j != i]
        rows = [
            tf.where(sound[j], tf.reduce_mean((teachers[j] - own) ** 2, axis=-1), 0.0)
            for j in others
        ]
        taught.append(tf.add_n(rows) / len(rows) if rows else tf.zeros_like(sound[i], tf.float32))
    return tf.stack(taught)
