"""Makes the tf_keras layers that stand for one Keras 3 layer, and says which cannot be taken."""

from collections.abc import Callable

import keras
import numpy as np
import tf_keras

from xkd_keras.errors import InputError, first_line

# What only says how weights begin or are kept in bounds: the twin gets trained weights.
_DROPPED = ("initializer", "regularizer", "constraint")
_UNKNOWN_THERE = {"autocast", "quantization_config", "data_format", "synchronized", "renorm"}
LISTED = "the layers that xkd_keras/compression/README.md lists"
_kinds = tf_keras.layers


class Maker:
    """Makes the tf_keras layers of one Keras layer or operation; called again, it returns the same.

    Args:
        layer: What they stand for.
        prefix: Of their names: the models that it is nested in.
    """

    def __init__(self, layer, prefix: str = ""):
        self.layer, self.name = layer, f"{prefix}{layer.name}"
        self.parts: dict[str, tuple[_kinds.Layer, list | None]] = {}
        self.inner: Maker | None = None  # of a layer that is this one's activation

    def __call__(self, kind: type, part: str = "", weights: list | None = None, **config):
        """Return the layer `part` ("" is what keeps the Keras layer's own name)."""
        if part not in self.parts:
            name = f"{self.name}_{part}" if part else self.name
            made = kind.from_config({**config, "name": name, "dtype": "float32"})
            self.parts[part] = made, weights
        return self.parts[part][0]

    def namesake(self, **changes):
        """Return the tf_keras layer of the same name, with the same configuration but `changes`."""
        layer = self.layer
        kind = getattr(_kinds, type(layer).__name__, None)
        if kind is None or not type(layer).__module__.startswith("keras.src.layers"):
            raise self.error("has no counterpart in tf_keras, which tfmot needs")
        config = {
            name: value
            for name, value in layer.get_config().items()
            if not name.endswith(_DROPPED) and name not in {*_UNKNOWN_THERE, "name", "dtype"}
        }
        try:
            return self(kind, "", layer.get_weights(), **{**config, **changes})
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            reason = first_line(error)[:120]
            raise self.error(f"cannot be made in tf_keras: {reason}") from None

    def error(self, reason: str, valid: str = LISTED):
        """Return the error that says why this layer cannot be taken."""
        return cannot(self.name, type(self.layer).__name__, reason, valid)

    def fill(self) -> None:
        """Give all layers made, which have been called, their weights and what is frozen."""
        for made, weights in self.parts.values():
            if weights is not None:
                made.set_weights(weights)
            if isinstance(self.layer, keras.layers.Layer) and not self.layer.trainable:
                made.trainable = False
        if self.inner:
            self.inner.fill()


def cannot(name: str, kind: str, reason: str, valid: str) -> InputError:
    """Return the error of a layer that cannot be compressed: one line."""
    return InputError(f"the layer '{name}' ({kind}) {reason}; valid: {valid}.", argument="recipe")


def is_tensor(x) -> bool:
    """Whether an argument of a layer comes from another, and is no constant."""
    return hasattr(x, "_keras_history")


def channelwise(make: Maker, x, call: Callable, part: str):
    """Apply to [B, ..., C] what takes only [B, H, W, C]."""
    if len(x.shape) == 4:
        return call(x)
    shape = tuple(x.shape[1:])
    images = (*(1,) * (3 - len(shape)), *shape)
    x = call(make(_kinds.Reshape, f"{part}_images", target_shape=images)(x))
    return make(_kinds.Reshape, f"{part}_back", target_shape=shape)(x)


def affine(make: Maker, x, scale, offset, part: str, frozen: bool = True):
    """Return scale x + offset by channel: a depthwise convolution, which all int8 knows."""
    channels = x.shape[-1]
    kernel = np.broadcast_to(np.float32(scale).reshape(-1), [channels])
    weights = [kernel.reshape(1, 1, channels, 1)]
    if has_offset := bool(np.any(offset)) or not frozen:
        weights.append(np.broadcast_to(np.float32(offset).reshape(-1), [channels]))
    layer = make(
        _kinds.DepthwiseConv2D,
        part,
        weights,
        kernel_size=1,
        use_bias=has_offset,
        trainable=not frozen,
    )
    return channelwise(make, x, layer, part)
