"""tfmot's passes over a twin, alone and in chains; each is followed by fine-tuning.

Every pass works on a fresh clone, since tfmot's wrappers share what they wrap. A chain keeps what
the pass before it has won: pqat the zeros, cqat the clusters, pcqat both.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol
from unittest import mock

import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.clustering.keras.cluster_config import (
    GradientAggregation,
)

# The only one that keeps zeros; it has no public name.
from tensorflow_model_optimization.python.core.clustering.keras.experimental.cluster import (
    cluster_weights,
)
from tensorflow_model_optimization.python.core.quantization.keras import quantizers

from xkd_keras.errors import InputError

_quantize = tfmot.quantization.keras
_cluster = tfmot.clustering.keras
_schemes = tfmot.experimental.combine
# Recipe -> its passes.
CHAINS = {
    "qat": ("quantize",),
    "prune": ("prune",),
    "cluster": ("cluster",),
    "pqat": ("prune", "quantize"),
    "cqat": ("cluster", "quantize"),
    "pcqat": ("prune", "cluster", "quantize"),
}
_KERNELS = (tf_keras.layers.Conv2D, tf_keras.layers.Dense)
_CENTROIDS = 0.05  # of the learning rate: at 1, networks are lost; 0.1 and 0.01 do alike
_PRUNINGS = 20  # of a kernel, up to its final sparsity


class Tune(Protocol):
    """Fine-tunes a model in place at `pace` times its learning rate; `images` gives n batches."""

    steps: int

    def __call__(self, model: tf_keras.Model, callbacks: list, pace: float = 1.0) -> None: ...

    def images(self, batches: int) -> Iterable[tf.Tensor]: ...


def run(chain: str, model: tf_keras.Model, tune: Tune, sparsity: float, clusters: int):
    """Return `model` after all passes of a recipe.

    Args:
        chain: A key of `CHAINS`.
        model: The twin of a trained peer; left as it is.
        tune: Fine-tunes after each pass.
        sparsity: Share of every kernel that pruning sets to zero, in (0, 1).
        clusters: Different values that clustering leaves in a kernel, at least 2.

    Raises:
        InputError: The network has a layer that the recipe cannot take.
    """
    passes = CHAINS[chain]
    try:
        for i, each in enumerate(passes):
            before = passes[:i]
            if each == "prune":
                model = _prune(model, tune, sparsity)
            elif each == "cluster":
                model = _clustered(model, tune, clusters, keep_zeros="prune" in before)
            else:
                model = _quantized(model, tune, before)
    except (RuntimeError, ValueError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"this network cannot take '{chain}': {reason}", argument="recipe"
        ) from None
    return model


def _has_kernel(layer) -> bool:
    depthwise = isinstance(layer, tf_keras.layers.DepthwiseConv2D)
    return isinstance(layer, _KERNELS) and not depthwise


def _clone(model: tf_keras.Model, change: Callable | None = None) -> tf_keras.Model:
    """Return a copy with the same weights, its layers replaced by what `change` makes of them."""
    copy = tf_keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return tf_keras.models.clone_model(copy, clone_function=change) if change else copy


def _prune(model: tf_keras.Model, tune: Tune, share: float) -> tf_keras.Model:
    pruning = tfmot.sparsity.keras

    def wrap(layer):
        if not _has_kernel(layer):
            return layer
        # The last quarter of the steps learns with the final zeros.
        end = max(1, 3 * tune.steps // 4)
        schedule = pruning.PolynomialDecay(0.0, share, 0, end, 3, max(1, end // _PRUNINGS))
        return pruning.prune_low_magnitude(layer, pruning_schedule=schedule)

    wrapped = _clone(model, wrap)
    tune(wrapped, [pruning.UpdatePruningStep()])
    return pruning.strip_pruning(wrapped)


def _clustered(model: tf_keras.Model, tune: Tune, clusters: int, keep_zeros: bool):
    how = _cluster.CentroidInitialization.KMEANS_PLUS_PLUS

    def wrap(layer):
        if not _has_kernel(layer):
            return layer
        # Of hundreds of thousands of weights, the sum of their gradients ends all learning.
        return cluster_weights(
            layer,
            clusters,
            how,
            preserve_sparsity=keep_zeros,
            cluster_gradient_aggregation=GradientAggregation.AVG,
        )

    wrapped = _clone(model, wrap)
    tune(wrapped, [])
    return _cluster.strip_clustering(wrapped)


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


def _quantized(model: tf_keras.Model, tune: Tune, before: tuple[str, ...]) -> tf_keras.Model:
    def annotate(layer):
        # tfmot knows no average pooling; an average of int8 needs no scale of its own.
        pooling = isinstance(layer, tf_keras.layers.AveragePooling2D)
        return _quantize.quantize_annotate_layer(layer, AsItIs() if pooling else None)

    if "cluster" in before:
        scheme = _schemes.Default8BitClusterPreserveQuantizeScheme(
            preserve_sparsity="prune" in before
        )
    elif "prune" in before:
        scheme = _schemes.Default8BitPrunePreserveQuantizeScheme()
    else:
        scheme = _quantize.default_8bit.Default8BitQuantizeScheme()
    with _quantize.quantize_scope({"AsItIs": AsItIs}):
        made = _quantize.quantize_apply(_clone(model, annotate), scheme)
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


def _settle_ranges(model: tf_keras.Model, tune: Tune) -> None:
    """Give every activation the range that it has on training images, before fine-tuning.

    tfmot begins with -6..6 and moves it by a thousandth per step: after a short fine-tuning,
    networks with other ranges would be ruined. The first batch sets the ranges, some more average
    them.
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
