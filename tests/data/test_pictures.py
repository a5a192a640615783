"""What training and evaluation see of pictures as people have them."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from tests.pictures import PICTURES, READABLE, REFUSED
from xkd_keras import data
from xkd_keras.data import preparation
from xkd_keras.errors import InputError

DECODE = tf.function(preparation.decode, input_signature=[tf.TensorSpec([], tf.string)])


def close(found, seen, rounding):
    assert found.shape == seen.shape
    assert np.abs(found.astype(int) - seen).max() <= rounding


@pytest.mark.parametrize("name", READABLE)
def test_a_picture_is_decoded_as_a_person_sees_it(name):
    picture = PICTURES[name]
    close(DECODE(picture.content).numpy(), picture.seen, picture.rounding)


@pytest.mark.parametrize("name", REFUSED)
def test_a_picture_that_is_too_large_is_refused(name):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"The image has .*; valid: sides"):
        DECODE(PICTURES[name].content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder whose classes are the pictures, in all three parts."""
    root = tmp_path_factory.mktemp("pictures")
    for part in ("train", "validation", "test"):
        for name, picture in READABLE.items():
            (root / part / name).mkdir(parents=True)
            path = root / part / name / f"it.{picture.suffix}"
            path.write_bytes(picture.content)
    return root


@pytest.mark.parametrize("gib", [2, 0])  # decoded in memory; read again each time
def test_training_and_evaluation_see_what_a_person_sees(folder, gib):
    # With the names of classes, nobody asks for the mean of all pixels.
    options = {"augment": "none", "cache_gib": gib, "class_names": tuple(sorted(READABLE))}
    dataset = data.load(f"folder:{folder}", image_size=32, **options)
    batches = (
        next(iter(data.train_batches(dataset, batch_size=len(READABLE), epochs=1))),
        next(iter(data.eval_batches(dataset.test, dataset=dataset, batch_size=len(READABLE)))),
    )
    for images, labels, *_ in batches:
        assert sorted(labels.numpy()) == list(range(len(READABLE)))
        for pixels, label in zip(images.numpy(), labels.numpy(), strict=True):
            picture = READABLE[dataset.class_names[label]]
            seen = preparation.evaluation(tf.constant(picture.seen), 32, 1.0)
            assert np.abs(pixels - seen).max() <= picture.rounding


def test_a_folder_says_why_it_does_not_read_a_picture(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}.png").write_bytes(PICTURES["png turned"].content)
    (tmp_path / "a" / "huge.png").write_bytes(PICTURES["huge"].content)
    with pytest.raises(InputError, match=r"a/huge\.png cannot be read \(.*The image has 60000 x 6"):
        data.load(f"folder:{tmp_path}", image_size=16)


@pytest.mark.parametrize("kind", ["jpeg turned 6", "png turned", "webp turned", "moving webp"])
@pytest.mark.parametrize("at", [0.1, 0.3, 0.6, 0.9])
def test_damage_never_ends_the_process(kind, at):
    """A damaged file is refused, or read without what was damaged."""
    content = bytearray(PICTURES[kind].content)
    start = int(at * min(len(content), 120))
    for value in (0, 255):
        content[start : start + 4] = bytes([value]) * 4
        with contextlib.suppress(tf.errors.InvalidArgumentError):
            assert DECODE(bytes(content)).dtype == tf.uint8
