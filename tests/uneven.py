"""A data set in memory whose classes have 40, 7, no and 3 images."""

import dataclasses

import numpy as np

from xkd_keras import data
from xkd_keras.data.sources import Arrays, Split

LABELS = np.array([0] * 40 + [1] * 7 + [3] * 3)  # class 2 has no images
COUNTS = {0: 40, 1: 7, 3: 3}


def uneven(source=None, sampling="balanced"):
    pixels = np.arange(50, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    split = Split(source or Arrays(pixels, LABELS), np.arange(50))
    shape, names = (8, 8, 3), tuple("abcd")
    whole = data.Dataset("toy", names, shape, *[split] * 3, (0,) * 3, (1,) * 3, "none", 1.0, "")
    return dataclasses.replace(whole, sampling=sampling)
