"""MobileNetV2 for small images.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, table 2.
The stem and the 24-channel stage, which halve the side there, keep it here: 32x32 ends at 4x4.
"""

import keras

from xkd_keras.peers.layers import batch_norm, bn_relu, conv, conv_bn_relu, depthwise_conv, logits

# (expansion, channels, blocks, stride of the first block)
VARIANTS = {
    "mobilenet_v2": (
        (1, 16, 1, 1),
        (6, 24, 2, 1),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
}
RELU_MAX = 6.0
MIN_SIDE = 8


def build(name, x, num_classes):
    """Return logits, float32 [batch, num_classes], of normalised images x [batch, H, W, C]."""
    x = conv_bn_relu(x, 32, 3, "stem", max_value=RELU_MAX)
    for stage, (expansion, filters, blocks, first_stride) in enumerate(VARIANTS[name], start=1):
        for block in range(1, blocks + 1):
            stride = first_stride if block == 1 else 1
            x = _inverted_residual(x, expansion, filters, f"stage{stage}_block{block}", stride)
    x = conv_bn_relu(x, 1280, 1, "head", max_value=RELU_MAX)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return logits(keras.layers.Dropout(0.2, name="dropout")(x), num_classes)


def _inverted_residual(x, expansion, filters, name, stride):
    """Widen, convolve each channel, narrow; add the input where the shape is kept."""
    channels = x.shape[-1]
    y = x
    if expansion > 1:
        y = conv_bn_relu(y, expansion * channels, 1, f"{name}_expand", max_value=RELU_MAX)
    y = depthwise_conv(y, 3, f"{name}_depthwise", stride=stride)
    y = bn_relu(y, f"{name}_depthwise", RELU_MAX)
    y = batch_norm(conv(y, filters, 1, f"{name}_project"), f"{name}_project_bn")
    if stride > 1 or channels != filters:
        return y
    return keras.layers.Add(name=f"{name}_add")([x, y])
