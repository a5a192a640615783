"""AlexNet for small images.

Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", NIPS 2012, in
the 32x32 form of bearpaw/pytorch-classification: five convolutions, three max-pools, one dense
layer.
"""

import keras

from xkd_keras.peers.layers import conv, logits, relu

VARIANTS = {"alexnet": None}
MIN_SIDE = 29  # smaller, and the third pool has nothing left to pool


def build(name, x, num_classes):
    """Return logits, float32 [batch, num_classes], of normalised images x [batch, H, W, C]."""
    x = conv(x, 64, 11, "conv1", stride=4, padding=5, use_bias=True)
    x = keras.layers.MaxPooling2D(2, name="pool1")(relu(x, "relu1"))
    x = conv(x, 192, 5, "conv2", use_bias=True)
    x = keras.layers.MaxPooling2D(2, name="pool2")(relu(x, "relu2"))
    for i, filters in enumerate((384, 256, 256), start=3):
        x = relu(conv(x, filters, 3, f"conv{i}", use_bias=True), f"relu{i}")
    x = keras.layers.MaxPooling2D(2, name="pool5")(x)
    return logits(keras.layers.Flatten(name="flatten")(x), num_classes)
