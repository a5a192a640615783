"""tfmot's passes over a twin, alone and in chains; each is followed by fine-tuning.

Every pass works on a fresh clone, since tfmot's wrappers share what they wrap. A chain keeps what
the pass before it has won: pqat the zeros, cqat the clusters, pcqat both.
"""

import re
from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
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

from xkd_keras.compression import making, quantizing
from xkd_keras.errors import InputError, first_line

_cluster = tfmot.clustering.keras
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
        sparsity: Share of every kernel, but for depthwise ones, that pruning sets to zero, in
            (0, 1).
        clusters: Different values that clustering leaves in a kernel, at least 2.

    Raises:
        InputError: The network has a layer that the recipe cannot take.
    """
    check(chain, model)
    passes, layers = CHAINS[chain], model.layers
    try:
        for i, each in enumerate(passes):
            before = passes[:i]
            if each == "prune":
                model = _prune(model, tune, sparsity)
            elif each == "cluster":
                model = _clustered(model, tune, clusters, keep_zeros="prune" in before)
            else:
                model = quantizing.quantized(model, _clone, tune, before)
    except InputError:
        raise
    except (RuntimeError, ValueError, AttributeError, TypeError) as error:
        reason = first_line(error)[:150]
        raise blamed(layers, f"cannot take '{chain}': {reason}", str(error)) from None
    return model


def check(chain: str, model: tf_keras.Model) -> None:
    """Raise InputError for a layer that a recipe is known not to take."""
    quantizing.check(model, chain, aware="quantize" in CHAINS[chain])


def blamed(layers: Iterable, reason: str, text: str) -> InputError:
    """Return the error of the layer, if there is one, whose name stands in what a library said."""
    words = set(re.findall(r"[\w.-]+", text))
    for layer in layers:
        if {layer.name, f"quant_{layer.name}"} & words:
            kind = type(getattr(layer, "layer", layer)).__name__
            valid = making.LISTED
            return making.cannot(layer.name.removeprefix("quant_"), kind, reason, valid)
    return InputError(f"this network {reason}", argument="recipe")


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
        # tfmot breaks where there are fewer weights than clusters; those few need none.
        kernel = layer.kernel.numpy()
        if kernel.size <= clusters or np.count_nonzero(kernel) < clusters:
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
