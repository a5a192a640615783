"""Peers whose trained layers wait while the last one, which is new, learns alone."""

from collections.abc import Iterable

import keras

from xkd_keras import peers
from xkd_keras.flags.peer import Peer


class Freezing(keras.callbacks.Callback):
    """Freezes all layers but the last of peers that ask for it, in their first epochs.

    A frozen layer does not learn, and its batch normalisation is in inference: that is Keras'
    `trainable`. What is frozen depends on the epoch alone, so that a run that resumes needs to know
    no more. The step is traced anew where it changes.

    Args:
        options: The peers of the run.
    """

    def __init__(self, options: Iterable[Peer]):
        super().__init__()
        self.epochs = {peer.name: peer.freeze for peer in options if peer.freeze}
        self.frozen: dict[str, list[keras.Layer]] = {}

    def on_epoch_begin(self, epoch, logs=None):
        self._freeze([name for name, epochs in self.epochs.items() if epoch < epochs])

    def on_train_end(self, logs=None):
        self._freeze([])

    def _freeze(self, names: list[str]) -> None:
        """Freeze these peers, and no other."""
        if set(names) == set(self.frozen):
            return
        for layers in self.frozen.values():
            for layer in layers:
                layer.trainable = True
        self.frozen = {name: _body(self.model.peers[name]) for name in names}
        for layers in self.frozen.values():
            for layer in layers:
                layer.trainable = False
        self.model.make_train_function(force=True)


def _body(peer: keras.Model) -> list[keras.Layer]:
    """Return the layers that learn, but for the last."""
    return [leaf for leaf in peers.leaves(peer) if leaf is not peers.head(peer) and leaf.trainable]
