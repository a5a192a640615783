"""Smaller copies of large photographs, for training: a phone's has ten times the pixels it needs.

Training on random crops (inception) decodes every photograph in every epoch. A copy whose smallest
crop still has as many pixels as the network takes is decoded and cropped in a sixth of the time (at
224 pixels, of a photograph of 4000x3000: 11 ms, not 62), and takes a sixth of the memory.
Evaluation reads the files themselves, but for training images.
"""

import io
import math
import threading
from collections.abc import Sequence

import numpy as np
from PIL import Image

from xkd_keras.data import preparation
from xkd_keras.data.sources import Encoded

_WORTH = 1.5  # a copy whose sides are hardly smaller would lose quality and gain nothing


def least(image_size: tuple[int, int]) -> int:
    """Return the shorter side, in pixels, at which no random crop has to be enlarged.

    The smallest has `preparation.AREA[0]` of a picture, and the most extreme of its aspects.
    """
    smallest = math.sqrt(preparation.AREA[0] / max(preparation.ASPECT))
    return math.ceil(max(image_size) / smallest)


class Copies:
    """Makes what training reads of each file, as long as all of it fits into memory.

    Args:
        image_size: Height and width that the networks take.
        most: Bytes that may be kept.
    """

    def __init__(self, image_size: tuple[int, int], most: int):
        self._least, self._left, self._lock = least(image_size), most, threading.Lock()
        self._smaller = 0

    def copy_of(self, encoded: bytes, image: np.ndarray) -> bytes | None:
        """Return the copy of a file, itself if it is not large; None if memory does not suffice.

        Args:
            encoded: The file.
            image: uint8 [h, w, 3], the file decoded.
        """
        if self._left < 0:
            return None
        scale = self._least / min(image.shape[:2])
        smaller = scale * _WORTH < 1
        copy = _shrunk(image, scale) if smaller else encoded
        with self._lock:  # files are decoded side by side
            self._smaller += smaller
            self._left -= len(copy)
            return copy if self._left >= 0 else None

    def source(self, copies: Sequence[bytes | None], labels: np.ndarray) -> Encoded | None:
        """Return a source of all copies, or None: one is missing, or none is any smaller.

        Args:
            copies: Of every file; of those that are not for training, anything.
            labels: int [n].
        """
        if not self._smaller or self._left < 0:
            return None
        return Encoded([copy or b"" for copy in copies], labels)


def _shrunk(image: np.ndarray, scale: float) -> bytes:
    height, width = (round(scale * side) for side in image.shape[:2])
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()
