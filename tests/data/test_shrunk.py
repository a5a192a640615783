"""Smaller copies of large photographs: what training reads, and what stays as it is."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from xkd_keras import data
from xkd_keras.data import preparation, shrunk, sources

SIDE = 16  # of what networks take: copies have a shorter side of 66


def photographs(root, side, count=10):
    """Write smooth pictures of two classes, turned as phones store them."""
    rng, turned = np.random.default_rng(0), Image.Exif()
    turned[0x0112] = 6
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8))
            whole = coarse.resize((side, side * 3 // 2), Image.Resampling.BICUBIC)
            whole.save(root / name / f"{i}.jpg", quality=95, exif=turned)
    return root


def load(root, **options):
    return data.load(f"folder:{root}", **{"image_size": SIDE, "augment": "inception"} | options)


def seen(split, dataset):
    return data.images(split, range(len(split)), dataset).astype(int)


@pytest.mark.parametrize("size", [(16, 16), (224, 224), (96, 128)])
def test_the_smallest_random_crop_of_a_copy_has_as_many_pixels_as_the_network_takes(size):
    side = shrunk.least(size)
    picture = tf.zeros([side, side, 3], tf.uint8)
    wide = size[1] / size[0]
    for seed in range(300):
        _, (height, width, _), _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.shape(picture),
            tf.zeros([1, 0, 4]),
            (seed, 1),
            min_object_covered=0.0,
            area_range=preparation.AREA,
            aspect_ratio_range=[aspect * wide for aspect in preparation.ASPECT],
            use_image_if_no_bounding_boxes=True,
        )
        assert height >= size[0] - 1
        assert width >= size[1] - 1


def test_training_reads_copies_and_evaluation_reads_the_files(tmp_path):
    large = load(photographs(tmp_path / "large", 160))
    assert isinstance(large.train.source, sources.Encoded)
    assert isinstance(large.test.source, sources.Files)
    copy = large.train.source.image(large.train.positions[0])
    assert copy.shape == (shrunk.least((SIDE, SIDE)), round(1.5 * 66), 3)  # upright: a landscape
    names = [*data.places(large.train), *data.places(large.validation), *data.places(large.test)]
    assert sorted(names) == sorted(f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(10))


@pytest.mark.slow
def test_a_copy_differs_from_its_file_by_a_level_or_two(tmp_path):
    photographs(tmp_path, 160)
    large, files = load(tmp_path), load(tmp_path, cache_gib=0)
    assert isinstance(files.train.source, sources.Files)
    difference = np.abs(seen(large.train, large) - seen(files.train, files))
    assert difference.mean() < 1
    assert difference.max() <= 6
    for split in ("validation", "test"):
        np.testing.assert_array_equal(
            seen(getattr(large, split), large), seen(getattr(files, split), files)
        )


@pytest.mark.parametrize(("side", "gib"), [(90, 2.0), (160, 1e-5)])
def test_there_are_no_copies_of_what_is_not_large_or_does_not_fit(tmp_path, side, gib):
    dataset = load(photographs(tmp_path, side), cache_gib=gib)
    assert dataset.train.source is dataset.test.source


@pytest.mark.slow
def test_resumed_or_not_the_views_of_copies_are_the_same(tmp_path):
    photographs(tmp_path, 160)
    once, again = (load(tmp_path) for _ in range(2))
    pairs = (data.train_batches(d, batch_size=7, epochs=2, seed=3) for d in (once, again))
    for (images, labels), (same, also) in zip(*pairs, strict=True):
        np.testing.assert_array_equal(images, same)
        np.testing.assert_array_equal(labels, also)
