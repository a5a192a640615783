"""Batch norm with the statistics of images, as training leaves it, in a few passes."""

import keras
import numpy as np


def settle(model, images, passes=1):
    """Set every moving statistic to its mean over some passes of `images`, [n, H, W, C].

    Several where there is dropout, which differs between them; returns the model.
    """
    layers = [x for x in model._flatten_layers() if isinstance(x, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in layers]
    for done in range(passes):
        for layer in layers:
            layer.momentum = done / (done + 1)
        model(np.float32(images), training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    return model
