"""The few layer combinations that the families share; every layer is named after its place.

All of them take and return Keras tensors, channels last. The conventions are those of the reference
implementations in PyTorch: a strided convolution pads both sides, batch normalisation forgets a
tenth per step, convolutions start He-normal by fan-out.
"""

import keras
import numpy as np

BN_MOMENTUM = 0.9  # PyTorch's 0.1, seen from the other side
BN_EPSILON = 1e-5


def he_normal_fan_out() -> keras.Initializer:
    """Return a new N(0, sqrt(2 / (k * k * filters))) initializer (He et al., 2015, eq. 14).

    A new one for each layer: a Keras initializer draws the same values every time it is called.
    """
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def normalize(x, mean, std):
    """Return (x - mean) / std per channel, as a frozen 1x1 depthwise convolution named `normalize`.

    Args:
        x: float32 [batch, height, width, channels] of pixels, 0..255.
        mean: float [channels], in units of pixels.
        std: float [channels], above zero, in units of pixels.
    """
    mean, std = np.asarray(mean, "float64"), np.asarray(std, "float64")
    return affine(x, 1.0 / std, -mean / std)


def affine(x, scale, offset):
    """Return x * scale + offset per channel, as a frozen 1x1 depthwise convolution, `normalize`.

    A convolution, because its statistics then travel as weights and every converter and quantiser
    knows it.

    Args:
        x: float32 [batch, height, width, channels] of pixels, 0..255.
        scale: float [channels], or [1] for all of them.
        offset: float, likewise.
    """
    # float32 also under a mixed policy: half precision would round pixels before they are centred.
    layer = keras.layers.DepthwiseConv2D(1, name="normalize", trainable=False, dtype="float32")
    y = layer(x)
    set_affine(layer, scale, offset)
    return y


def set_affine(layer, scale, offset):
    """Set what `affine` made: scale and offset, float [channels] or [1]."""
    channels = layer.kernel.shape[2]
    scale, offset = (np.broadcast_to(each, (channels,)) for each in (scale, offset))
    layer.set_weights([scale.reshape(1, 1, -1, 1), offset])


def pad(x, size, name):
    """Pad height and width with `size` zeros on both sides; a strided "same" pads one side."""
    return keras.layers.ZeroPadding2D(size, name=f"{name}_pad")(x)


def conv(x, filters, kernel, name, *, stride=1, padding=None, use_bias=False):
    """Convolve, padded by `padding` pixels on each side (by default half the kernel)."""
    half = kernel // 2
    padding = half if padding is None else padding
    same = stride == 1 and padding == half
    if padding and not same:
        x = pad(x, padding, name)
    return keras.layers.Conv2D(
        filters,
        kernel,
        strides=stride,
        padding="same" if same else "valid",
        use_bias=use_bias,
        kernel_initializer=he_normal_fan_out(),
        name=name,
    )(x)


def depthwise_conv(x, kernel, name, *, stride=1):
    """Convolve each channel on its own, padded by half the kernel on each side."""
    if stride > 1:
        x = pad(x, kernel // 2, name)
    return keras.layers.DepthwiseConv2D(
        kernel,
        strides=stride,
        padding="same" if stride == 1 else "valid",
        use_bias=False,
        depthwise_initializer=he_normal_fan_out(),
        name=name,
    )(x)


def batch_norm(x, name):
    """Normalise by the batch, with PyTorch's momentum and epsilon."""
    return keras.layers.BatchNormalization(momentum=BN_MOMENTUM, epsilon=BN_EPSILON, name=name)(x)


def relu(x, name, max_value=None):
    """Rectify, at most `max_value` if given."""
    return keras.layers.ReLU(max_value=max_value, name=name)(x)


def bn_relu(x, name, max_value=None):
    """Normalise and rectify: `NAME_bn`, `NAME_relu`."""
    return relu(batch_norm(x, f"{name}_bn"), f"{name}_relu", max_value)


def conv_bn_relu(x, filters, kernel, name, *, max_value=None, **options):
    """Convolve, normalise and rectify: `NAME`, `NAME_bn`, `NAME_relu`."""
    return bn_relu(conv(x, filters, kernel, name, **options), name, max_value)


def logits(x, num_classes):
    """Return float32 [batch, num_classes] from [batch, features], without a softmax.

    Weights start uniform within 1/sqrt(features), as PyTorch's Linear does.
    """
    uniform = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
    # float32 also under a mixed policy: losses and teachers need the precision.
    return keras.layers.Dense(
        num_classes, kernel_initializer=uniform, dtype="float32", name="logits"
    )(x)
