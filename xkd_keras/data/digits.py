"""scikit-learn's digits as a TFDS data set: real handwriting that needs no download."""

from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from xkd_keras.data.splits import FIXED_SEED, TRAIN_VALIDATION_TEST, stratified_split

IMAGE_SIZE = 32  # what CIFAR's networks take
_BRIGHTEST = 16  # of the original grey levels


class BundledInfo(tfds.core.DatasetInfo):
    """Information that is all here.

    TFDS asks a bucket on the network for every data set it has not prepared yet, and waits.
    """

    def initialize_from_bucket(self) -> None:
        """Ask nobody."""


class SklearnDigits(tfds.core.GeneratorBasedBuilder):
    """1,797 handwritten digits, 8x8 enlarged to 32x32, in fixed stratified splits."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Bicubic to 32x32; 70 % train, 10 % validation, 20 % test."}

    def _info(self) -> tfds.core.DatasetInfo:
        return BundledInfo(
            builder=self,
            description=(
                "Digits written by 43 people, 8x8 with 17 grey levels, as bundled with "
                "scikit-learn; enlarged to 32x32 (bicubic) and repeated to RGB."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(IMAGE_SIZE, IMAGE_SIZE, 3)),
                    "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            citation=(
                "E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, "
                "UCI Machine Learning Repository, 1998."
            ),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing to download
        from sklearn import datasets  # takes a second, and digits are prepared once

        bundled = datasets.load_digits()
        parts = stratified_split(bundled.target, TRAIN_VALIDATION_TEST, FIXED_SEED)
        return {
            name: self._generate_examples(bundled.images, bundled.target, part)
            for name, part in zip(("train", "validation", "test"), parts, strict=True)
        }

    def _generate_examples(self, images, labels, positions):
        for position in positions.tolist():
            yield position, {"image": enlarge(images[position]), "label": int(labels[position])}


def enlarge(image: np.ndarray) -> np.ndarray:
    """Return an 8x8 image of levels 0..16 as uint8 [32, 32, 3] of levels 0..255."""
    grey = np.round(image * (255 / _BRIGHTEST)).astype(np.uint8)
    big = Image.fromarray(grey).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return np.repeat(np.asarray(big)[:, :, None], 3, axis=2)
