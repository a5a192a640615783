"""Wide ResNet for small images, without dropout.

Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016: pre-activated blocks of two 3x3
convolutions; where the shape changes, the shortcut is a 1x1 convolution of the already activated
input.
"""

import keras

from xkd_keras.peers.layers import bn_relu, conv, logits

# (depth, width). A stage has (depth - 4) / 6 blocks.
VARIANTS = {"wrn-16-2": (16, 2), "wrn-28-10": (28, 10)}
WIDTHS = (16, 32, 64)
MIN_SIDE = 4


def build(name, x, num_classes):
    """Return logits, float32 [batch, num_classes], of normalised images x [batch, H, W, C]."""
    depth, width = VARIANTS[name]
    x = conv(x, WIDTHS[0], 3, "stem")
    for stage, filters in enumerate(WIDTHS, start=1):
        for block in range(1, (depth - 4) // 6 + 1):
            stride = 2 if block == 1 and stage > 1 else 1
            x = _wide_block(x, filters * width, f"stage{stage}_block{block}", stride)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(bn_relu(x, "final"))
    return logits(x, num_classes)


def _wide_block(x, filters, name, stride):
    activated = bn_relu(x, f"{name}_in")
    shortcut = x
    if stride > 1 or x.shape[-1] != filters:
        shortcut = conv(activated, filters, 1, f"{name}_shortcut", stride=stride)
    y = conv(activated, filters, 3, f"{name}_conv1", stride=stride)
    y = conv(bn_relu(y, f"{name}_mid"), filters, 3, f"{name}_conv2")
    return keras.layers.Add(name=f"{name}_add")([shortcut, y])
