"""Fine-tuning that learns nothing, and the images it is given."""

import numpy as np
import tensorflow as tf


def pixels(n, side=32):
    return np.float32(np.random.default_rng(5).integers(0, 256, (n, side, side, 3)))


class Watched:
    """Learns nothing; keeps what it was given."""

    steps = 1

    def __call__(self, model, callbacks, pace=1.0):
        self.model = model

    def images(self, batches):
        return [tf.constant(pixels(32, 20))] * batches
