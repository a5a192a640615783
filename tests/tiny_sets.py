"""Small data sets of TFDS, one of every kind: importing this registers their builders."""

import io
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


class _Tiny(tfds.core.GeneratorBasedBuilder):
    """Builders below differ in their splits, images and labels."""

    VERSION = tfds.core.Version("1.0.0")
    PARTS: ClassVar = {"train": 20}
    SHAPE = (12, 12, 1)
    KEYS = ("image", "label")
    LABEL = tfds.features.ClassLabel(names=["cat", "dog"])
    UNLABELLED = ()

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=self.SHAPE),
            "label": self.LABEL,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="A few plain images.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=self.KEYS,
        )

    def _split_generators(self, dl_manager):
        return {part: self._generate_examples(part) for part in self.PARTS}

    def _generate_examples(self, part):
        for i in range(self.PARTS[part]):
            height, width = (size or 9 + i for size in self.SHAPE[:2])
            image = np.full((height, width, self.SHAPE[2]), 10 * (i % 2) + i // 2, np.uint8)
            yield i, {"image": image, "label": -1 if part in self.UNLABELLED else i % 2}


class TinyTrainOnly(_Tiny):
    """One split of grey 12x12 images."""


class TinyComplete(_Tiny):
    """Three splits."""

    PARTS: ClassVar = {"train": 20, "validation": 6, "test": 8}


class TinyCompetition(_Tiny):
    """Ragged images; nobody knows the labels of test."""

    PARTS: ClassVar = {"train": 20, "validation": 6, "test": 8}
    SHAPE = (None, None, 3)
    UNLABELLED = ("test",)


class TinyTransparent(_Tiny):
    """Red that is half transparent, and all of it."""

    SHAPE = (12, 12, 4)

    def _generate_examples(self, part):
        for i in range(self.PARTS[part]):
            image = np.full(self.SHAPE, [200, 0, 0, 128 * (i % 2)], np.uint8)
            image[0, 0] = i
            yield i, {"image": image, "label": i % 2}


class TinyTurned(_Tiny):
    """JPEGs that, by their EXIF, are upside down: TFDS stores files as they are."""

    SHAPE = (12, 12, 3)

    def _generate_examples(self, part):
        exif = Image.Exif()
        exif[0x0112] = 3
        for i in range(self.PARTS[part]):
            image = np.full(self.SHAPE, 10 * i, np.uint8)
            image[:4] = 255
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", exif=exif)
            file.seek(0)
            yield i, {"image": file, "label": i % 2}


class TinyConfigured(_Tiny):
    """Two configurations; EMNIST, for one, has several."""

    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="letters", version="1.0.0"),
        tfds.core.BuilderConfig(name="numerals", version="1.0.0"),
    ]


class TinyUnsupervised(_Tiny):
    """No supervised keys, as of dtd and sun397."""

    KEYS = None


class TinyAges(_Tiny):
    """Images with a number each."""

    KEYS = None
    LABEL = tfds.features.Scalar(np.float32)


class TinyOtherWords(_Tiny):
    """Splits that are named as folders may be, and one more."""

    PARTS: ClassVar = {"train": 20, "val": 6, "testing": 8, "extra": 4}


class TinyExtra(_Tiny):
    """No test, and a split that is none of the three."""

    PARTS: ClassVar = {"train": 20, "extra": 4}


class TinySpecies(_Tiny):
    """A test of a class that training never sees."""

    PARTS: ClassVar = {"train": 20, "test": 8}

    def _generate_examples(self, part):
        for i, example in super()._generate_examples(part):
            yield i, {**example, "label": 0 if part == "train" else 1}


class TinySorted(_Tiny):
    """Written class by class."""

    def _info(self):
        info = super()._info()
        return tfds.core.DatasetInfo(
            builder=self,
            features=info.features,
            supervised_keys=self.KEYS,
            disable_shuffling=True,
        )

    def _generate_examples(self, part):
        for i, example in super()._generate_examples(part):
            yield i, {**example, "label": int(i >= self.PARTS[part] // 2)}


class TinyTestOnly(_Tiny):
    """No train split."""

    PARTS: ClassVar = {"test": 8}
