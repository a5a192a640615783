"""ResNet for small images, with projection shortcuts.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2 with shortcut
option B, as in bearpaw/pytorch-classification: three stages of basic blocks with 16, 32 and 64
channels.
"""

import keras

from xkd_keras.peers.layers import batch_norm, conv, conv_bn_relu, logits, relu

# Basic blocks in each stage: (depth - 2) / 6.
VARIANTS = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}
WIDTHS = (16, 32, 64)
MIN_SIDE = 4


def build(name, x, num_classes):
    """Return logits, float32 [batch, num_classes], of normalised images x [batch, H, W, C]."""
    x = conv_bn_relu(x, WIDTHS[0], 3, "stem")
    x = stages(x, WIDTHS, (VARIANTS[name],) * 3)
    return logits(keras.layers.GlobalAveragePooling2D(name="pool")(x), num_classes)


def stages(x, widths, blocks):
    """Stack `blocks[i]` basic blocks of `widths[i]` channels, halving the side between stages."""
    for stage, (filters, count) in enumerate(zip(widths, blocks, strict=True), start=1):
        for block in range(1, count + 1):
            stride = 2 if block == 1 and stage > 1 else 1
            x = basic_block(x, filters, f"stage{stage}_block{block}", stride)
    return x


def basic_block(x, filters, name, stride):
    """Add two 3x3 convolutions to a shortcut: a 1x1 convolution where the shape changes."""
    shortcut = x
    if stride > 1 or x.shape[-1] != filters:
        shortcut = conv(x, filters, 1, f"{name}_shortcut", stride=stride)
        shortcut = batch_norm(shortcut, f"{name}_shortcut_bn")
    y = conv_bn_relu(x, filters, 3, f"{name}_conv1", stride=stride)
    y = batch_norm(conv(y, filters, 3, f"{name}_conv2"), f"{name}_conv2_bn")
    return relu(keras.layers.Add(name=f"{name}_add")([shortcut, y]), f"{name}_relu")
