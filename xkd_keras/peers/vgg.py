"""VGG with batch normalisation and one dense layer.

Simonyan and Zisserman, "Very Deep Convolutional Networks", ICLR 2015, table 1 (A, B, D, E), in the
32x32 form of bearpaw/pytorch-classification: convolutions keep their biases, although batch norm
follows.
"""

import keras

from xkd_keras.peers.layers import conv_bn_relu, logits

# Convolutions in each of the five blocks.
VARIANTS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
WIDTHS = (64, 128, 256, 512, 512)
MIN_SIDE = 32  # five halvings


def build(name, x, num_classes):
    """Return logits, float32 [batch, num_classes], of normalised images x [batch, H, W, C]."""
    for block, (units, filters) in enumerate(zip(VARIANTS[name], WIDTHS, strict=True), start=1):
        for unit in range(1, units + 1):
            x = conv_bn_relu(x, filters, 3, f"block{block}_conv{unit}", use_bias=True)
        x = keras.layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    return logits(keras.layers.Flatten(name="flatten")(x), num_classes)
