"""DenseNet-BC for small images.

Huang et al., "Densely Connected Convolutional Networks", CVPR 2017: bottlenecks of four times the
growth, transitions that keep half of the channels; three dense blocks.
"""

import keras

from xkd_keras.peers.layers import bn_relu, conv, logits

# (depth, growth). A dense block has (depth - 4) / 6 layers.
VARIANTS = {"densenet-bc-40-12": (40, 12), "densenet-bc-100-12": (100, 12)}
BLOCKS = 3
COMPRESSION = 0.5
MIN_SIDE = 4


def build(name, x, num_classes):
    """Return logits, float32 [batch, num_classes], of normalised images x [batch, H, W, C]."""
    depth, growth = VARIANTS[name]
    x = conv(x, 2 * growth, 3, "stem")
    for block in range(1, BLOCKS + 1):
        for unit in range(1, (depth - 4) // 6 + 1):
            x = _dense_layer(x, growth, f"block{block}_layer{unit}")
        if block < BLOCKS:
            x = _transition(x, f"transition{block}")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(bn_relu(x, "final"))
    return logits(x, num_classes)


def _dense_layer(x, growth, name):
    """Append `growth` channels to x."""
    y = conv(bn_relu(x, f"{name}_in"), 4 * growth, 1, f"{name}_conv1")
    y = conv(bn_relu(y, f"{name}_mid"), growth, 3, f"{name}_conv2")
    return keras.layers.Concatenate(name=f"{name}_concat")([x, y])


def _transition(x, name):
    """Keep half of the channels and half of the side."""
    channels = int(x.shape[-1] * COMPRESSION)
    x = conv(bn_relu(x, name), channels, 1, f"{name}_conv")
    return keras.layers.AveragePooling2D(2, name=f"{name}_pool")(x)
