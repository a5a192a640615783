"""What training images go through, against Pillow, SciPy and numbers worked by hand."""

import colorsys
import hashlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from xkd_keras.data import augmentation, names, preparation
from xkd_keras.errors import FlagError

RNG = np.random.default_rng(3)
# A smooth picture with some detail, not square, and none of its channels like another.
PHOTO = np.asarray(
    Image.fromarray(RNG.integers(20, 230, (6, 9, 3), np.uint8)).resize((36, 24), 2)
) + RNG.integers(0, 20, (24, 36, 3), np.uint8)
FLOATS = PHOTO.astype(np.float32)
ROWS, COLUMNS = np.meshgrid(np.arange(24.0), np.arange(36.0), indexing="ij")


def drawn(vary, image, count, *numbers):
    """Return `count` views of an image, as one array."""
    seeds = tf.stack([tf.constant([7, i]) for i in range(count)])
    image = tf.constant(image, tf.float32)
    views = tf.function(lambda: tf.map_fn(lambda s: vary(image, s, *numbers), seeds, tf.float32))
    return views().numpy()


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
@pytest.mark.parametrize(
    ("ours", "pillows"),
    [
        (augmentation.brightness, ImageEnhance.Brightness),
        (augmentation.contrast, ImageEnhance.Contrast),
        (augmentation.saturation, ImageEnhance.Color),
        (augmentation.sharpness, ImageEnhance.Sharpness),
    ],
)
def test_an_enhancement_is_that_of_pillow(ours, pillows, factor):
    expected = np.asarray(pillows(Image.fromarray(PHOTO)).enhance(factor), np.float32)
    # Pillow rounds greys and smoothed pixels before it blends, and cuts decimals off after it.
    np.testing.assert_allclose(ours(FLOATS, factor), expected, atol=1.6)


@pytest.mark.parametrize(
    ("ours", "pillows", "tolerance"),
    [
        (augmentation.autocontrast, ImageOps.autocontrast, 1.0),
        (augmentation.equalize, ImageOps.equalize, 0.0),
    ],
)
def test_a_stretched_histogram_is_that_of_pillow(ours, pillows, tolerance):
    flat = PHOTO.copy()
    flat[..., 1] = 77  # a channel with nothing to stretch
    for image in (PHOTO, flat, np.full_like(PHOTO, 9)):
        expected = np.asarray(pillows(Image.fromarray(image)), np.float32)
        found = ours(tf.constant(image, tf.float32)).numpy()
        np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("turn", [-0.05, 0.3])
def test_hues_turn_as_those_of_the_standard_library(turn):
    found = augmentation.hue(tf.constant(FLOATS), turn).numpy()
    for row, column in [(0, 0), (5, 30), (23, 35), (12, 12)]:
        h, s, v = colorsys.rgb_to_hsv(*FLOATS[row, column] / 255)
        expected = 255 * np.array(colorsys.hsv_to_rgb((h + turn) % 1, s, v))
        np.testing.assert_allclose(found[row, column], expected, atol=1e-2)


@pytest.mark.parametrize(
    ("matrix", "shift"),
    [((0.9, -0.3, 0.2, 1.1), (2.5, -1.25)), ((1.0, 0.3, 0.0, 1.0), (0.0, 0.0))],
)
def test_a_moved_image_is_that_of_scipy(matrix, shift):
    a, b, c, d = matrix
    x, y = COLUMNS - 17.5, ROWS - 11.5
    at = (c * x + d * y + 11.5 + shift[1], a * x + b * y + 17.5 + shift[0])
    expected = [
        ndimage.map_coordinates(FLOATS[..., i], at, order=1, mode="reflect") for i in (0, 2)
    ]
    found = augmentation.moved(tf.constant(FLOATS), matrix, shift).numpy()
    np.testing.assert_allclose(found[..., [0, 2]], np.stack(expected, -1), atol=0.02)


def test_a_quarter_turn_is_anticlockwise():
    square = tf.constant(FLOATS[:, :24])
    np.testing.assert_allclose(augmentation.turned(square, 90.0), np.rot90(square), atol=0.02)


def test_images_turn_by_up_to_fifteen_degrees_either_way():
    ramp = np.repeat(5 * COLUMNS[:, :, None], 3, 2)
    views = drawn(augmentation.rotate, ramp, 200)[:, :, :, 0]
    right, down = views[:, 12, 27] - views[:, 12, 9], views[:, 18, 18] - views[:, 6, 18]
    degrees = np.degrees(np.arctan2(-down / 12, right / 18))
    assert -15.5 < degrees.min() < -13
    assert 13 < degrees.max() < 15.5
    assert abs(degrees.mean()) < 2


def test_colours_vary_within_their_limits():
    greys = drawn(augmentation.colour, np.full((4, 4, 3), 100), 300)  # here only brightness shows
    assert np.ptp(greys, axis=(1, 2, 3)).max() == 0
    assert (greys.min(), greys.max()) == (pytest.approx(60, abs=2), pytest.approx(140, abs=2))
    red, half = np.zeros((4, 4, 3)), np.zeros((4, 4, 3))
    red[..., 0], half[:2] = 100, 100
    hues = [colorsys.rgb_to_hsv(*v[0, 0])[0] for v in drawn(augmentation.colour, red, 300) / 255]
    hues = (np.array(hues) + 0.5) % 1 - 0.5
    assert (hues.min(), hues.max()) == (
        pytest.approx(-0.05, abs=7e-3),
        pytest.approx(0.05, abs=7e-3),
    )
    bright, dark = (drawn(augmentation.colour, half, 300)[:, row, 0, 0] for row in (0, 3))
    contrasts = ((bright - dark) / (bright + dark))[dark > 0]
    assert contrasts.min() == pytest.approx(0.6, abs=0.03)


def test_the_colours_of_a_view_are_the_four_operations_one_after_the_other():
    seed = tf.constant([1, 5])
    factors = tf.random.stateless_uniform([3], seed, 0.6, 1.4).numpy()
    turn = tf.random.stateless_uniform([], tf.random.fold_in(seed, 1), -0.05, 0.05).numpy()
    image = Image.fromarray(PHOTO)
    makers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for make, factor in zip(makers, factors, strict=True):
        image = make(image).enhance(factor)
    pixels = [colorsys.rgb_to_hsv(*p) for p in np.asarray(image).reshape(-1, 3) / 255]
    expected = np.array([colorsys.hsv_to_rgb((h + turn) % 1, s, v) for h, s, v in pixels]) * 255
    found = augmentation.colour(tf.constant(FLOATS), seed).numpy()
    assert np.array_equal(found, np.round(found))
    np.testing.assert_allclose(found.reshape(-1, 3), expected, atol=4)  # Pillow rounds three times


def test_erased_is_a_rectangle_of_the_papers_sizes_in_every_other_image():
    views = drawn(augmentation.erase, np.full((40, 60, 3), 1000), 400)  # noise is below 256
    areas, aspects, tops, noise = [], [], [], []
    for view in views:
        gone = view[..., 0] < 256
        np.testing.assert_array_equal(gone, view.max(-1) < 256)
        if gone.any():
            rows, columns = np.flatnonzero(gone.any(1)), np.flatnonzero(gone.any(0))
            high, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert gone.sum() == high * wide
            areas.append(high * wide / 2400)
            aspects.append(high / wide)
            tops.append(rows[0] / max(40 - high, 1))
            noise.append(view[gone].mean())
    assert len(areas) == pytest.approx(200, abs=40)
    assert 0.015 < min(areas) < 0.05
    assert 0.35 < max(areas) < 0.42
    assert 0.25 < min(aspects) < 0.6
    assert 2.0 < max(aspects) < 3.8
    assert (min(tops), max(tops)) == (0.0, 1.0)
    assert np.mean(noise) == pytest.approx(127.5, abs=2)


def pillows_operations(sign):
    """Return what each operation makes of PHOTO at magnitude 5: Pillow's, SciPy's."""
    image, half = Image.fromarray(PHOTO), 0.5 * sign

    def affine(matrix, x=0.0, y=0.0):
        full = np.eye(3)
        full[:2, :2] = matrix
        centre = np.array([11.5, 17.5, 1.0])
        offset = centre - full @ centre + [y, x, 0]
        return ndimage.affine_transform(FLOATS, full, offset, order=1, mode="reflect")

    angle = np.radians(15 * sign)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    enhance = {
        "saturation": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "brightness": ImageEnhance.Brightness,
        "sharpness": ImageEnhance.Sharpness,
    }
    return {
        "identity": FLOATS,
        "autocontrast": np.asarray(ImageOps.autocontrast(image)),
        "equalize": np.asarray(ImageOps.equalize(image)),
        "rotate": affine(turn),
        **{name: np.asarray(m(image).enhance(1 + 0.9 * half)) for name, m in enhance.items()},
        "shear_x": affine([[1, 0], [0.3 * half, 1]]),
        "shear_y": affine([[1, 0.3 * half], [0, 1]]),
        "translate_x": affine(np.eye(2), x=half * 150 / 331 * 36),
        "translate_y": affine(np.eye(2), y=half * 150 / 331 * 24),
    }


def test_randaugment_draws_all_of_its_operations_both_ways():
    expected = {(n, s): e for s in (-1, 1) for n, e in pillows_operations(s).items()}
    views, seen = drawn(augmentation.randaugment, PHOTO, 150, 1, 5), set()
    for view in views:
        apart = {name: np.abs(view - image).max() for name, image in expected.items()}
        nearest = min(apart, key=apart.get)
        assert apart[nearest] < 2.1, nearest
        seen.add(nearest)
    unsigned = ("identity", "autocontrast", "equalize")
    assert {name for name, _ in seen} == set(augmentation.operations(FLOATS, 0.5))
    assert sum(name not in unsigned for name, _ in seen) >= 16  # of 18


@pytest.mark.slow
def test_more_operations_of_randaugment_follow_one_another():
    one = drawn(augmentation.randaugment, PHOTO, 12, 1, 10)
    two = drawn(augmentation.randaugment, PHOTO, 12, 2, 10)
    assert sum(not np.array_equal(a, b) for a, b in zip(one, two, strict=True)) >= 8
    np.testing.assert_allclose(drawn(augmentation.randaugment, np.full((9, 9, 3), 50), 9, 3, 0), 50)


@pytest.mark.parametrize(
    ("kind", "digest"),
    [("none", "988ad1e2"), ("crop", "ed12e1c4"), ("crop_flip", "72984345")],
)
def test_views_of_earlier_versions_have_the_same_pixels(kind, digest):
    """Of version 87eaa68: a run that was begun before it goes on with the same images."""
    image = np.arange(16 * 16 * 3).reshape(16, 16, 3).astype(np.uint8)
    views = [preparation.augment(image, kind, 16, tf.constant([3, i])) for i in range(8)]
    found = hashlib.sha256(np.stack(views).astype(np.uint8).tobytes()).hexdigest()
    assert found.startswith(digest)


@pytest.mark.parametrize(
    ("whole", "parts"), [("crop_flip", "flip+crop"), ("inception", "inception+flip")]
)
def test_a_whole_name_stands_for_its_parts(whole, parts):
    for i in range(6):
        views = [
            preparation.augment(PHOTO, kind, 20, tf.constant([2, i])) for kind in (whole, parts)
        ]
        np.testing.assert_array_equal(*views)


def test_a_part_changes_nothing_in_what_the_parts_before_it_do():
    """Each draws from a stream of its own, so views differ only by what was added."""
    seeds = [tf.constant([4, i]) for i in range(12)]
    for seed in seeds:
        plain = preparation.augment(PHOTO, "crop_flip", 24, seed).numpy()
        erased = preparation.augment(PHOTO, "crop_flip+erase", 24, seed).numpy()
        own = augmentation.erase(tf.constant(plain), tf.random.fold_in(seed, 5)).numpy()
        np.testing.assert_array_equal(erased, own)


def test_every_part_gives_whole_pixels_of_the_size_and_the_same_for_a_seed():
    kind = "inception+flip+rotate+colour+randaugment:2:9+erase"

    @tf.function
    def view(seed):
        return preparation.augment(PHOTO, kind, 20, seed)

    views = [view(tf.constant([9, i])).numpy() for i in (1, 1, 2, 3, 4)]
    for each in views:
        assert (each.shape, each.dtype) == ((20, 20, 3), np.float32)
        np.testing.assert_array_equal(each, np.clip(np.round(each), 0, 255))
    np.testing.assert_array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])


def test_parts_come_in_their_own_order_with_their_numbers():
    assert names.parts("none") == {}
    found = names.parts("erase+randaugment+flip+crop")
    assert list(found.items()) == [
        ("crop", ()),
        ("flip", ()),
        ("randaugment", (2, 5)),
        ("erase", ()),
    ]
    assert names.parts("randaugment:3:10") == {"randaugment": (3, 10)}
    assert set(names.PARTS) == {"crop", "inception", "flip", *augmentation.PARTS}


@pytest.mark.parametrize(
    ("augment", "line"),
    [
        ("crop+color", "unknown value 'color'. Did you mean 'colour'?"),
        ("cropflip", "unknown value 'cropflip'. Did you mean 'crop_flip'?"),
        ("crop+", "unknown value ''; valid: auto, none, crop, crop_flip, inception, flip, "),
        ("crop+inception", "'crop+inception' crops in two ways; valid: either crop or inception."),
        ("crop_flip+crop", "'crop_flip+crop' has crop twice; valid: once."),
        ("auto+erase", "'auto+erase': auto cannot be combined with other parts."),
        ("rotate:30", "'rotate:30': rotate takes no numbers."),
        ("randaugment:9", "received 'randaugment:9'; valid: randaugment:N:M, with N from 1 to 8"),
        ("randaugment:2:11", "magnitude, from 0 to 10, such as randaugment:2:9."),
        ("randaugment:0:5", "received 'randaugment:0:5'; valid: "),
        ("randaugment:", "received 'randaugment:'; valid: "),
    ],
)
def test_a_combination_that_makes_no_sense_gets_one_line(augment, line):
    with pytest.raises(FlagError) as caught:
        names.check_augment(augment)
    assert str(caught.value).startswith("augment: ")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
