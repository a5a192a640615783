"""Glyphs as a TFDS data set: 100 classes of drawn characters that need no download."""

import hashlib
from collections.abc import Iterable
from typing import ClassVar

import matplotlib
import numpy as np
import tensorflow_datasets as tfds

from xkd_keras.data.digits import BundledInfo
from xkd_keras.data.glyph_drawing import CLASSES, COUNTS, IMAGE_SIZE, draw, identity

_SUMS = {
    "train": "8e396c02865953592e2b94383d9760918c3c1362e6b2ba42294c33f01bdf878a",
    "validation": "867f1b0810ce61a7248425f0b56598c85754358683de24c1af5d19ae19aaab0b",
    "test": "5b036f344a4eaa986b7201f991302d5846af0ed813d34c5e12b86d20f512d712",
}
# By `identity()`: the `checksum` of each split, where it is known. Another Pillow or FreeType may
# draw other pixels (these three draw the same); the metadata of what it prepares say which.
CHECKSUMS = {
    "pillow-10.0.0_freetype-2.13.1_fonts-7b16775e": _SUMS,
    "pillow-11.3.0_freetype-2.13.3_fonts-7b16775e": _SUMS,
    "pillow-13.0.0_freetype-2.14.3_fonts-7b16775e": _SUMS,
}


class Glyphs(tfds.core.GeneratorBasedBuilder):
    """6,000 characters of 100 classes, 32x32 in colour, drawn in 16 faces.

    The configuration is named for what the pixels depend on: another Pillow prepares its own copy
    beside this one. The metadata say the same, and the `checksum` of each split.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "30 training, 10 validation, 20 test images a class."}
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=identity(), description="Drawn with these versions.")
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return BundledInfo(
            builder=self,
            description=(
                "Latin, Greek and Cyrillic letters, figures and signs, many of them look-alikes, "
                "in the DejaVu and STIX fonts that ship with matplotlib; distorted, coloured and "
                "on clutter. The faces of the validation and of the test images are not among "
                "those of the training images. Every image depends on its split and index alone."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(IMAGE_SIZE, IMAGE_SIZE, 3)),
                    "label": tfds.features.ClassLabel(names=CLASSES),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://matplotlib.org/stable/users/explain/text/fonts.html",
            metadata=tfds.core.MetadataDict(drawn_with=identity()),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing to download
        self.info.metadata["matplotlib"] = matplotlib.__version__  # whose fonts these are
        return {split: self._generate_examples(split) for split in COUNTS}

    def _generate_examples(self, split):
        digest = hashlib.sha256()
        for index in range(COUNTS[split]):
            image, label = draw(split, index)
            digest.update(_content(image, label))
            yield index, {"image": image, "label": label}
        self.info.metadata[f"sha256_{split}"] = digest.hexdigest()


def checksum(examples: Iterable[tuple[np.ndarray, int]]) -> str:
    """Return a SHA-256 of images, uint8 [32, 32, 3], and their labels, in the order given."""
    return hashlib.sha256(b"".join(_content(*example) for example in examples)).hexdigest()


def _content(image: np.ndarray, label: int) -> bytes:
    return image.tobytes() + bytes([label])
