"""How one Keras 3 layer, or operation, becomes tf_keras layers that tfmot and int8 files can take.

Most have a namesake that is built from their configuration. Where the namesake differs, or has no
int8, the layer is taken apart into layers that have it: a scale and an offset, say, become a frozen
1x1 depthwise convolution. What is taken apart computes the same numbers.
"""

import functools

import keras
import numpy as np
import tf_keras

from xkd_keras.compression import activations, blocks
from xkd_keras.compression.making import Maker, affine, channelwise, is_tensor

_CONVOLUTIONS = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
)
_kinds = tf_keras.layers


def lowered(make: Maker, *args, **kwargs):
    """Return the tensors that `make.layer` has for these arguments, in tf_keras."""
    kind, stock = type(make.layer).__name__, type(make.layer).__module__.startswith("keras.")
    if not isinstance(make.layer, keras.layers.Layer):
        return _OPERATIONS.get(kind, activations.operation)(make, *args, **kwargs)
    if stock and kind in _LAYERS:
        return _LAYERS[kind](make, *args, **kwargs)
    return make.namesake()(*args, **kwargs)


def _batch_norm(make: Maker, x, **kwargs):
    """Tfmot folds a batch norm into the linear convolution before it.

    It knows no other (as most of DenseNet's are, or those after an activation): such a one gets a
    frozen identity convolution to be folded into.
    """
    layer = make.layer
    if layer.axis not in (-1, len(x.shape) - 1):
        raise make.error(f"normalises axis {layer.axis}, which is not that of the channels")
    norm = make.namesake(axis=-1)
    if folds(layer):
        return norm(x, **kwargs)
    ones = [np.ones((1, 1, x.shape[-1], 1), np.float32)]
    options = {"kernel_size": 1, "use_bias": False, "trainable": False}
    identity = make(_kinds.DepthwiseConv2D, "identity", ones, **options)
    return channelwise(make, x, lambda x: norm(identity(x), **kwargs), "identity")


def folds(layer) -> bool:
    """Whether tfmot can fold a batch norm: a linear convolution before it, seen by nobody else.

    After a dense layer tfmot says so too, but the file is left with a float multiplication.
    """
    if len(layer._inbound_nodes) != 1 or len(layer.input.shape) != 4:
        return False
    before = layer.input._keras_history.operation
    linear = getattr(before, "activation", None) is keras.activations.linear
    return isinstance(before, _CONVOLUTIONS) and linear and len(before._outbound_nodes) == 1


def _layer_norm(make: Maker, x):
    """(x - mean) / sqrt(variance + epsilon), then gamma and beta, one int8 operation at a time."""
    layer, rank = make.layer, len(x.shape)
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if [axis % rank for axis in axes] != [rank - 1] or layer.rms_scaling or rank > 4:
        raise make.error("normalises more than the channels, or without their mean")
    mean = make(blocks.Mean, "mean")(x)
    x = make(_kinds.Subtract, "centred")([x, mean])
    square = make(_kinds.Multiply, "square")([x, x])
    variance = make(blocks.Mean, "variance")(square)
    variance = affine(make, variance, 1.0, layer.epsilon, "epsilon")
    x = make(_kinds.Multiply, "normed")([x, make(blocks.InverseRoot, "inverse")(variance)])
    if layer.gamma is None and layer.beta is None:
        return x
    gamma, beta = (
        default if each is None else keras.ops.convert_to_numpy(each)
        for each, default in ((layer.gamma, 1.0), (layer.beta, 0.0))
    )
    return affine(make, x, gamma, beta, "", frozen=False)


def _apply(make: Maker, x, activation, part: str = ""):
    """Apply what a layer has as `activation`: a function of Keras, or a layer."""
    if isinstance(activation, keras.layers.Layer):
        make.inner = make.inner or Maker(activation, f"{make.name}_")
        return lowered(make.inner, x)
    name = getattr(activation, "__name__", str(activation))
    if getattr(keras.activations, name, None) is not activation:
        raise make.error(f"has the activation '{name}', which is not one of Keras's")
    return activations.activate(make, x, name, part)


def _with_activation(make: Maker, x, **kwargs):
    """A convolution or dense layer; of activations tfmot fuses only ReLU."""
    activation = make.layer.activation
    if activation in (None, keras.activations.linear, keras.activations.relu):
        return make.namesake()(x, **kwargs)
    return _apply(make, make.namesake(activation="linear")(x, **kwargs), activation, "activation")


def _activation(make: Maker, x, **_):
    return _apply(make, x, make.layer.activation)


def _relu(make: Maker, x, **_):
    """Of clipped ones, files have only that of 6: others are scaled to it and back."""
    layer = make.layer
    slope, top = layer.negative_slope, layer.max_value
    if layer.threshold or (slope and top is not None):
        raise make.error("has a threshold, or a slope and a maximum, which int8 files cannot")
    if slope:
        return activations.activate(make, x, "leaky_relu", negative_slope=slope)
    if top in (None, 6):
        return make.namesake()(x)
    x = make(_kinds.ReLU, "6", max_value=6.0)(affine(make, x, 6 / top, 0.0, "to_6"))
    return affine(make, x, top / 6, 0.0, "")


def _arithmetic(make: Maker, a, b, *, kind: str):
    """A sum, difference, product or quotient: of two tensors, or of one and a constant."""
    tensors = [is_tensor(each) for each in (a, b)]
    if all(tensors) and kind != "Divide":
        return make(getattr(_kinds, kind))([a, b])
    x, constant = (a, b) if tensors[0] else (b, a)
    constant = keras.ops.convert_to_numpy(constant) if not all(tensors) else None
    if constant is None or constant.size not in (1, constant.shape[-1:] and x.shape[-1]):
        raise make.error("combines what is neither two equal layers nor a layer and a constant")
    if kind == "Divide" and not tensors[0]:
        raise make.error("divides by a layer, which int8 does not support")
    sign = -1.0 if kind == "Subtract" and not tensors[0] else 1.0
    scale, offset = {
        "Add": (1.0, constant),
        "Subtract": (sign, -sign * constant),
        "Multiply": (constant, 0.0),
        "Divide": (1.0 / constant, 0.0),
    }[kind]
    return affine(make, x, scale, offset, "")


def _average(make: Maker, xs):
    return affine(make, make(_kinds.Add, "sum")(xs), 1 / len(xs), 0.0, "")


def _rescaling(make: Maker, x, **_):
    return affine(make, x, make.layer.scale, make.layer.offset, "")


def _normalization(make: Maker, x):
    layer = make.layer
    mean, deviation = (
        keras.ops.convert_to_numpy(each).astype(np.float64)
        for each in (layer.mean, keras.ops.sqrt(layer.variance))
    )
    deviation = np.maximum(deviation, keras.config.epsilon())
    if max(mean.size, deviation.size) not in (1, x.shape[-1]):
        raise make.error("normalises an axis other than the channels")
    if layer.invert:
        return affine(make, x, deviation, mean, "")
    return affine(make, x, 1 / deviation, -mean / deviation, "")


def _resizing(make: Maker, x, **_):
    """A crop or a border, and a resize of what is left."""
    layer = make.layer
    if layer.interpolation not in ("bilinear", "nearest") or layer.antialias:
        raise make.error(
            f"resizes by '{layer.interpolation}'{' with antialias' if layer.antialias else ''},"
            " which int8 files cannot",
            "interpolation='bilinear' or 'nearest' without antialias",
        )
    (height, width), (rows, columns) = x.shape[1:3], (layer.height, layer.width)
    if layer.crop_to_aspect_ratio:
        inner = min(height, int(width * rows / columns)), min(width, int(height * columns / rows))
        x = make(_kinds.Cropping2D, "crop", cropping=_borders((height, width), inner))(x)
    elif layer.pad_to_aspect_ratio:
        if layer.fill_value:
            raise make.error(f"pads with {layer.fill_value}", "fill_value=0")
        outer = max(height, int(width * rows / columns)), max(width, int(height * columns / rows))
        x = make(_kinds.ZeroPadding2D, "pad", padding=_borders(outer, (height, width)))(x)
    options = {"height": rows, "width": columns, "interpolation": layer.interpolation}
    return make(_kinds.Resizing, "", **options)(x)


def _borders(outer: tuple, inner: tuple) -> list:
    return [
        [int((o - max(i, 1)) / 2), o - max(i, 1) - int((o - max(i, 1)) / 2)]
        for o, i in zip(outer, inner, strict=True)
    ]


def _separable(make: Maker, x, **_):
    """A depthwise convolution and one of 1x1: so is its kernel pruned and clustered too."""
    layer = make.layer
    depthwise, pointwise, *bias = layer.get_weights()
    names = ("strides", "padding", "dilation_rate", "depth_multiplier", "kernel_size")
    options = {name: getattr(layer, name) for name in names}
    x = make(_kinds.DepthwiseConv2D, "depthwise", [depthwise], use_bias=False, **options)(x)
    options = {"filters": layer.filters, "kernel_size": 1, "use_bias": bool(bias)}
    x = make(_kinds.Conv2D, "", [pointwise, *bias], **options)(x)
    return _apply(make, x, layer.activation, "activation")


def _mean(make: Maker, x):
    """keras.ops.mean over an image: global average pooling."""
    if len(x.shape) != 4 or sorted(axis % 4 for axis in make.layer.axis or ()) != [1, 2]:
        raise make.error("averages axes other than height and width")
    return make(_kinds.GlobalAveragePooling2D, "", keepdims=make.layer.keepdims)(x)


def _unchanged(make: Maker, x, **_):
    """What acts in training alone, where the run's own augmentation stands for it."""
    return make(_kinds.Activation, "", activation="linear")(x)


_LAYERS = {
    **dict.fromkeys(
        ("Conv1D", "Conv2D", "DepthwiseConv2D", "Conv2DTranspose", "Dense"), _with_activation
    ),
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "SeparableConv2D": _separable,
    "Activation": _activation,
    "ReLU": _relu,
    "LeakyReLU": lambda make, x: activations.activate(
        make, x, "leaky_relu", negative_slope=make.layer.negative_slope
    ),
    "Average": _average,
    "Rescaling": _rescaling,
    "Normalization": _normalization,
    "Resizing": _resizing,
    **dict.fromkeys(("Identity", "RandomFlip", "RandomRotation", "RandomZoom"), _unchanged),
    **dict.fromkeys(("RandomTranslation", "RandomContrast", "RandomBrightness"), _unchanged),
}
_OPERATIONS = {
    "Mean": _mean,
    **{
        name: functools.partial(_arithmetic, kind=kind)
        for name, kind in (
            *((each, each) for each in ("Add", "Subtract", "Multiply", "Divide")),
            ("TrueDivide", "Divide"),
        )
    },
}
