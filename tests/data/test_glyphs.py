"""The drawn glyphs: no class is another's twin, every pixel depends on split and index alone."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.ft2font import FT2Font
from tensorflow_datasets.core.utils import gcs_utils

from tests import once
from xkd_keras import data
from xkd_keras.data.glyph_drawing import CLASSES, COUNTS, FACES, draw, font_path, identity, shape
from xkd_keras.data.glyphs import CHECKSUMS, Glyphs, checksum

ALL_FACES = [face for faces in FACES.values() for face in faces]


@pytest.fixture(scope="module")
def directory(shared):
    def ask(*args):
        raise AssertionError("asked the network")

    def prepare(path):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gcs_utils, "gcs_dataset_info_files", ask)
            patch.setattr(gcs_utils, "is_dataset_on_gcs", ask)
            patch.setattr("socket.getaddrinfo", ask)
            data.load("glyphs", data_dir=str(path))

    return str(once.made(shared, "glyphs", prepare))


@pytest.fixture(scope="module")
def dataset(directory):
    return data.load("glyphs", data_dir=directory)


@pytest.fixture(scope="module")
def drawn():
    """The validation split, drawn here."""
    return [draw("validation", index) for index in range(COUNTS["validation"])]


def test_a_hundred_classes_of_one_character_each():
    assert len(CLASSES) == len(set(CLASSES)) == 100
    assert all(len(name) == 1 and name.isprintable() and not name.isspace() for name in CLASSES)


def test_no_face_is_in_two_splits():
    assert len(ALL_FACES) == len(set(ALL_FACES)) == 16


@pytest.mark.parametrize("face", ALL_FACES)
def test_every_class_is_in_every_face(face):
    font = FT2Font(str(font_path(face)))
    assert [name for name in CLASSES if not font.get_char_index(ord(name))] == []


@pytest.mark.parametrize("face", ALL_FACES)
def test_no_two_classes_have_the_same_shape(face):
    # As drawn but for the position: laid middle on middle, any two differ by more than a twentieth
    # of their ink. So do O and o, for all characters of a face are drawn at one size.
    ink = np.stack([centred(np.asarray(shape(name, face)) > 127) for name in CLASSES])
    flat = ink.reshape(len(CLASSES), -1).astype(np.float32)
    area = flat.sum(1)
    different = area[:, None] + area[None] - 2 * flat @ flat.T
    share = different / np.maximum(area[:, None], area[None]) + np.eye(len(CLASSES))
    one, other = np.unravel_index(share.argmin(), share.shape)
    assert share.min() > 0.05, (CLASSES[one], CLASSES[other])


def centred(ink):
    """Move the box round the ink to the middle."""
    (top, bottom), (left, right) = (np.flatnonzero(ink.any(axis))[[0, -1]] for axis in (1, 0))
    box = ink[top : bottom + 1, left : right + 1]
    canvas = np.zeros((160, 160), bool)
    y, x = ((160 - side) // 2 for side in box.shape)
    canvas[y : y + box.shape[0], x : x + box.shape[1]] = box
    return canvas


def test_no_character_is_cut_off_before_it_is_distorted():
    for face in ALL_FACES:
        for name in CLASSES:
            left, top, right, bottom = shape(name, face).getbbox()
            assert min(left, top, 128 - right, 128 - bottom) > 0, (face, name)


def test_an_example_is_the_same_in_another_order_and_process():
    order = [("test", 7), ("train", 2999), ("validation", 0)]
    program = (
        "from xkd_keras.data import glyph_drawing\n"
        f"for split, index in {order}:\n"
        "    image, label = glyph_drawing.draw(split, index)\n"
        "    print(image.tobytes().hex(), label)"
    )
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    here = [draw(split, index) for split, index in reversed(order)]
    lines = [f"{image.tobytes().hex()} {label}" for image, label in reversed(here)]
    assert other.stdout.splitlines() == lines


@pytest.mark.slow
def test_checksums_are_in_the_metadata_and_the_known_ones(dataset, directory, drawn):
    metadata = Glyphs(data_dir=directory).info.metadata
    assert metadata["drawn_with"] == identity()
    sums = {split: metadata[f"sha256_{split}"] for split in COUNTS}
    assert sums["validation"] == checksum(drawn)
    # With other versions of Pillow or FreeType the pixels may be others, and nobody knows which.
    assert sums == CHECKSUMS.get(identity(), sums)


def test_one_bit_or_one_label_changes_the_checksum(drawn):
    image, label = drawn[0]
    other = image.copy()
    other[31, 31, 2] ^= 1
    assert len({checksum([one]) for one in [(image, label), (other, label), (image, 99)]}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("split", COUNTS)
def test_images_differ_and_classes_are_equally_many(dataset, split):
    images, labels = read(dataset, split)
    assert np.bincount(labels).tolist() == [COUNTS[split] // 100] * 100
    assert len({image.tobytes() for image in images}) == COUNTS[split]


@pytest.mark.slow
def test_all_is_read_as_it_was_drawn(dataset, drawn):
    got = zip(*read(dataset, "validation"), strict=True)
    assert sorted((image.tobytes(), label) for image, label in got) == (
        sorted((image.tobytes(), label) for image, label in drawn)
    )


@pytest.mark.slow
def test_recipe(dataset):
    # A mirrored character would be another one, or none.
    assert (dataset.augment, dataset.image_shape) == ("crop", (32, 32, 3))
    assert dataset.class_names == CLASSES


@pytest.mark.slow
def test_pixels_alone_tell_something_but_not_much(dataset):
    (seen, labels), (unseen, truth) = read(dataset, "train"), read(dataset, "test")
    seen, unseen = (images.reshape(len(images), -1).astype(np.float32) for images in (seen, unseen))
    means = np.stack([seen[labels == label].mean(0) for label in range(100)])
    nearest = ((means**2).sum(1) - 2 * unseen @ means.T).argmin(1)
    assert 0.03 < np.mean(nearest == truth) < 0.35


def read(dataset, split):
    """Return images, uint8 [n, 32, 32, 3], and labels [n]."""
    part = getattr(dataset, split)
    return data.images(part, range(len(part)), dataset).astype(np.uint8), data.labels(part)
