"""A folder of plain pictures, as a person has one: written, loaded, refused."""

import pytest
from PIL import Image

from xkd_keras import data
from xkd_keras.errors import InputError

COLOURS = {"blue": (20, 40, 200), "green": (30, 180, 50), "red": (210, 30, 20)}


def picture(path, colour, size=(20, 14), mode="RGB", **options):
    """Save a picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, **options)


def fill(root, per_class=10, classes=COLOURS):
    """Write a folder of pictures for each class, no two of one size; return the whole."""
    for name in classes:
        for i in range(per_class):
            picture(root / name / f"{i}.png", COLOURS[name], (10 + i, 25 - i))
    return root


def load(root, **options):
    """Return it as a data set of 16x16 pixels."""
    return data.load(f"folder:{root}", image_size=16, **options)


def refused(root, line, **options):
    """See that it is refused in one line that matches."""
    with pytest.raises(InputError, match=line) as caught:
        load(root, **options)
    assert str(caught.value).startswith("dataset: folder:")
    assert "\n" not in str(caught.value)


def sizes(dataset):
    """Return how many images there are for training, validation and the test."""
    return [len(split) for split in (dataset.train, dataset.validation, dataset.test)]
