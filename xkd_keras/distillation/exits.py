"""Exits: heads on a peer's stages that learn and teach during training, and are then left behind.

Every head, the peers' own logits included, is a classifier. An exit e of peer i learns from the
labels and from all heads of the other peers (after DCM: Yao and Sun, Knowledge Transfer via Dense
Cross-layer Mutual-distillation, ECCV 2020):

L_i += sum_e [CE(y, z_i,e) + d_i r_i lambda(t) mean_(j != i, f) T^2 KL(z_j,f || z_i,e)]

The heads of the others teach alike, whatever teacher and term the peers' own logits have. It is
simpler than DCM in three ways: a head there repeats the stages that follow, here it is one dense
layer; there the terms are summed, here averaged; and there a network's own logits learn from the
others' exits too. There T = 1.

Shapes: P peers, B images in the batch, C classes.
"""

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from xkd_keras import operations
from xkd_keras.distillation import inside, losses, recompute
from xkd_keras.errors import InputError


class Exits(keras.layers.Layer):
    """For each peer, heads on the outputs of some of its layers: mean over the image, then Dense.

    Args:
        peers: By name; functional models, as `members.opened` returns them: images [B, H, W,
            channels] -> logits [B, C].
        layers: By the peer's name, the names of layers (or of operators between them, such as
            `add`) that return [B, H, W, channels].
        classes: C.
        seed: Of the heads' first weights.
        at: By the peer's name, what `recompute.forward` calls `at`.

    Raises:
        InputError: No such peer or layer, or a layer with another kind of output.
    """

    def __init__(
        self,
        peers: Mapping[str, keras.Model],
        layers: Mapping[str, Sequence[str]],
        classes: int,
        seed: int,
        at: Mapping[str, Sequence[str]],
    ):
        super().__init__(name="exits", dtype="float32")
        for name in layers:
            if name not in peers:
                raise InputError.unknown("exits", name, peers, "peer")
        self.layers_of = {name: list(layers.get(name, ())) for name in peers}
        self.heads, forward = {}, []
        for i, (name, peer) in enumerate(peers.items()):
            outputs = _outputs(name, peer, self.layers_of[name])
            # A function, as Keras would count a model among what this layer owns.
            forward.append(recompute.forward(peer, outputs, at[name]))
            self.heads[name] = [
                _head(f"{name}_exit{k}", output.shape[-1], classes, seed + 1000 * i + k)
                for k, output in enumerate(outputs, start=1)
            ]
        # What a file holds: Keras 3.12 saves no list in a dict.
        self.all_heads = [head for heads in self.heads.values() for head in heads]
        self.forward = tuple(forward)
        self.built = True

    def variables_of(self, name: str) -> list:
        """Return the variables of a peer's exits."""
        return [variable for head in self.heads[name] for variable in head.trainable_variables]

    def logits(self, images: tf.Tensor) -> tuple[tf.Tensor, list[list[tf.Tensor]]]:
        """Return the peers' logits float32 [P, B, C], and those of each peer's exits [B, C]."""
        own, early = [], []
        for call, heads in zip(self.forward, self.heads.values(), strict=True):
            logits, *maps = call(images)
            own.append(tf.cast(logits, tf.float32))
            pooled = [tf.reduce_mean(tf.cast(each, tf.float32), axis=(1, 2)) for each in maps]
            early.append([head(each) for head, each in zip(heads, pooled, strict=True)])
        return tf.stack(own), early


def terms(labels, logits, early, temperature, smoothing=0.0):
    """Return the sums over each peer's exits: cross-entropy and distillation, float32 [P, B] each.

    An image for which a teaching head is not finite is not taught by it.

    Args:
        labels: int [B], or float [B, C] that sum to 1.
        logits: float32 [P, B, C], of the peers themselves.
        early: For each peer the logits of its exits, float32 [B, C].
        temperature: T > 0.
        smoothing: The part of each label that is spread over all classes.
    """
    labelled, distilled = [], []
    nothing = tf.zeros(tf.shape(logits)[1:2])
    for i, own in enumerate(early):
        if not own:
            labelled.append(nothing)
            distilled.append(nothing)
            continue
        z = tf.stack(own)  # [exits, B, C]
        entropy = losses.smoothed(losses.cross_entropy(labels, z), z, smoothing)
        labelled.append(tf.reduce_sum(entropy, axis=0))
        others = [t for j, exits in enumerate(early) if j != i for t in (logits[j], *exits)]
        taught = [tf.reduce_sum(_taught(t, z, temperature), axis=0) for t in others]
        distilled.append(tf.add_n(taught) / len(taught) if taught else nothing)
    return tf.stack(labelled), tf.stack(distilled)


def _taught(teacher: tf.Tensor, logits: tf.Tensor, temperature: float) -> tf.Tensor:
    """Return the KL term of each exit, [exits, B], 0 where the teacher [B, C] is not finite."""
    finite = tf.reduce_all(tf.math.is_finite(teacher), axis=-1)
    safe = tf.where(finite[:, None], teacher, tf.zeros_like(teacher))
    return tf.where(finite, losses.distillation(safe, logits, temperature), 0.0)


def _outputs(name: str, peer: keras.Model, layers: Sequence[str]) -> list[keras.KerasTensor]:
    """Return the outputs of a peer's layers of these names."""
    if layers and not operations.has_graph(peer):
        raise InputError(
            f"'{name}' is not a functional model; valid: no exits for this peer.", argument="exits"
        )
    calls, found = inside.calls(peer) if layers else {}, []
    for layer in layers:
        if layer not in calls:
            raise InputError.unknown("exits", layer, calls, f"layer (of '{name}')")
        if len(calls[layer]) > 1:
            raise InputError(
                f"'{layer}' is called {len(calls[layer])} times in '{name}';"
                " valid: the name of one layer that is called once.",
                argument="exits",
            )
        output, *more = calls[layer][0].output_tensors
        if more or len(output.shape) != 4:
            raise InputError(
                f"layer '{layer}' of '{name}' does not return [batch, height, width, channels];"
                " valid: a layer that does.",
                argument="exits",
            )
        found.append(output)
    return found


def _head(name: str, channels: int, classes: int, seed: int) -> keras.layers.Dense:
    head = keras.layers.Dense(
        classes,
        name=name,
        dtype="float32",
        kernel_initializer=keras.initializers.GlorotUniform(seed),
    )
    head.build((None, channels))
    return head
