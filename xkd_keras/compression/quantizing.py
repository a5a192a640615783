"""tfmot's quantisation-aware training: what each layer of a twin needs, and which have none."""

import contextlib
from collections.abc import Iterator
from unittest import mock

import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.quantization.keras import quantizers

from xkd_keras.compression import blocks, making

_quantize = tfmot.quantization.keras
_schemes = tfmot.experimental.combine
_kinds = tf_keras.layers
# Layers that tfmot does not know, and what of them is quantised. TFLite asks of an average, a
# resize and what passes on its input that the output has the scale of the input.
_AS_IT_IS = (
    _kinds.AveragePooling2D,
    _kinds.GaussianNoise,
    _kinds.GaussianDropout,
    _kinds.Resizing,
)
_OUTPUT = (
    _kinds.Maximum,
    _kinds.Minimum,
    _kinds.Multiply,
    _kinds.Subtract,
    *blocks.OWN.values(),
)
# What TFLite has in float alone, whoever quantises.
_FLOAT = (_kinds.ELU, _kinds.GroupNormalization, _kinds.RNN, _kinds.Bidirectional)
_ACTIVATIONS = ("linear", "relu", "sigmoid", "tanh", "gelu", "softmax")
_CENTROIDS = 0.05  # of the learning rate: at 1, networks are lost; 0.1 and 0.01 do alike


class AsItIs(_quantize.QuantizeConfig):
    """Quantise nothing of a layer: its output has the scale of its input."""

    def get_weights_and_quantizers(self, layer):
        return []

    def get_activations_and_quantizers(self, layer):
        return []

    def set_quantize_weights(self, layer, quantize_weights):
        pass

    def set_quantize_activations(self, layer, quantize_activations):
        pass

    def get_output_quantizers(self, layer):
        return []

    def get_config(self):
        return {}


class Output(AsItIs):
    """Quantise the output of a layer that is one operation of TFLite."""

    def get_output_quantizers(self, layer):
        return [
            _quantize.quantizers.MovingAverageQuantizer(
                num_bits=8, per_axis=False, symmetric=False, narrow_range=False
            )
        ]


_OWN = {"AsItIs": AsItIs, "Output": Output, **blocks.OWN}


def check(model: tf_keras.Model, recipe: str, aware: bool) -> None:
    """Raise InputError for a layer that an int8 file cannot hold, before anything is learned.

    Args:
        model: A twin.
        recipe: Its name, for the message.
        aware: Whether tfmot quantises; else the converter does, which knows more layers.
    """
    for layer in model.layers:
        kind, valid = type(layer), making.LISTED
        if isinstance(layer, _FLOAT):
            reason = "has no int8 in TFLite, which every recipe needs"
            raise making.cannot(layer.name, kind.__name__, reason, valid)
        if aware and not _has_int8(layer):
            what = f"of '{layer.activation.__name__}' " if kind is _kinds.Activation else ""
            reason = f"{what}has no int8 in tfmot, which '{recipe}' needs"
            raise making.cannot(
                layer.name, kind.__name__, reason, f"--recipe=prune or cluster, or {valid}"
            )


def _has_int8(layer) -> bool:
    if type(layer) is _kinds.Activation:
        return layer.activation.__name__ in _ACTIVATIONS
    known = _quantize.default_8bit.Default8BitQuantizeRegistry()
    ours = isinstance(layer, (_kinds.InputLayer, _kinds.BatchNormalization))
    return ours or _config(layer) is not None or known.supports(layer)


def _config(layer) -> _quantize.QuantizeConfig | None:
    if type(layer) in _AS_IT_IS:
        return AsItIs()
    return Output() if type(layer) in _OUTPUT else None


def quantized(model: tf_keras.Model, clone, tune, before: tuple[str, ...]) -> tf_keras.Model:
    """Return `model` fine-tuned with int8 rounding, which keeps what the passes before have won.

    Args:
        model: A twin, left as it is.
        clone: `passes._clone`.
        tune: A `passes.Tune`.
        before: The passes before: prune, cluster.
    """

    def annotate(layer):
        return _quantize.quantize_annotate_layer(layer, _config(layer))

    if "cluster" in before:
        scheme = _schemes.Default8BitClusterPreserveQuantizeScheme(
            preserve_sparsity="prune" in before
        )
    elif "prune" in before:
        scheme = _schemes.Default8BitPrunePreserveQuantizeScheme()
    else:
        scheme = _quantize.default_8bit.Default8BitQuantizeScheme()
    with _quantize.quantize_scope(_OWN):
        made = _quantize.quantize_apply(clone(model, annotate), scheme)
    _freeze(made, {f"quant_{layer.name}" for layer in model.layers if not layer.trainable})
    _settle_ranges(made, tune)
    if "cluster" not in before:
        tune(made, [])
        return made
    # A gradient of hundreds of weights moves their one centroid.
    tune(made, [], pace=_CENTROIDS)
    return _schemes.strip_clustering_cqat(made)


def _freeze(model: tf_keras.Model, names: set[str]) -> None:
    """Take the kernels of these wrappers from training: tfmot's would learn them whatever we say.

    Those of normalisation see pixels up to 255; learning them ends all other learning.
    """
    for layer in model.layers:
        if layer.name in names:
            layer._non_trainable_weights = [
                *layer._trainable_weights,
                *layer._non_trainable_weights,
            ]
            layer._trainable_weights = []


def _settle_ranges(model: tf_keras.Model, tune) -> None:
    """Give every activation the range that it has on training images, before fine-tuning.

    tfmot begins with -6..6 and moves it by a thousandth per step: after a short fine-tuning,
    networks with other ranges would be ruined. The first batch sets the ranges, some more
    average them.
    """
    layers = list(model._flatten_layers())
    flags = [layer.trainable for layer in layers]
    model.trainable = False  # batch norm keeps its statistics
    for decay, batches in ((0.0, 1), (0.9, 20)):
        with _range_decay(decay):
            forward = tf.function(lambda images: model(images, training=True))
            for images in tune.images(batches):
                forward(images)
    for layer, flag in zip(layers, flags, strict=True):
        layer.trainable = flag


@contextlib.contextmanager
def _range_decay(decay: float) -> Iterator[None]:
    """Within it, what is traced moves ranges by 1 - decay a step; tfmot has no option for it."""
    name, usual = "MovingAvgQuantize", quantizers.quant_ops.MovingAvgQuantize

    def faster(*args, **kwargs):
        return usual(*args, **{**kwargs, "ema_decay": decay})

    with mock.patch.object(quantizers.quant_ops, name, faster):
        yield
