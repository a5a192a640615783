"""Preprocessing against PIL and against NumPy twins."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from xkd_keras.data import preparation

RNG = np.random.default_rng(0)
SMOOTH = np.kron(RNG.integers(0, 256, (3, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def encoded(mode, file_format, **options):
    buffer = io.BytesIO()
    image = Image.fromarray(SMOOTH).convert(mode)
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [
        *(("RGB", f) for f in ("JPEG", "PNG", "BMP", "WEBP")),
        *(("L", f) for f in ("JPEG", "PNG", "BMP", "GIF")),
        *(("RGBA", f) for f in ("PNG", "BMP", "WEBP")),
        *(("P", f) for f in ("PNG", "GIF")),
        ("LA", "PNG"),
        ("CMYK", "JPEG"),
    ],
)
def test_decode_agrees_with_pil(mode, file_format):
    options = {"lossless": True} if file_format == "WEBP" else {}
    content = encoded(mode, file_format, **options)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    decoded = preparation.decode(content).numpy()
    assert decoded.dtype == np.uint8
    # TensorFlow's JPEG decoder takes the fast inverse DCT, PIL's the exact one.
    tolerance = 3 if file_format == "JPEG" else 0
    np.testing.assert_allclose(decoded.astype(int), expected, atol=tolerance)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_image_without_exif_and_transparency_is_decoded_alike_both_ways(mode, file_format):
    content = encoded(mode, file_format)
    plain, any_image = preparation.decode_plain(content), preparation.decode(content)
    np.testing.assert_array_equal(plain, any_image)


def test_decode_takes_the_first_frame_of_a_gif():
    frames = [Image.fromarray(SMOOTH).convert("P"), Image.fromarray(255 - SMOOTH).convert("P")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=100)
    np.testing.assert_array_equal(
        preparation.decode(buffer.getvalue()), np.asarray(frames[0].convert("RGB"))
    )


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "GIF", "WEBP"])
def test_decode_refuses_what_was_cut_off(file_format):
    content = encoded("RGB", file_format)
    for length in (0, 3, len(content) // 2):
        with pytest.raises(tf.errors.InvalidArgumentError):
            preparation.decode(content[:length])


def test_evaluation_of_the_right_size_changes_nothing():
    image = RNG.integers(0, 256, (32, 32, 3), np.uint8)
    in_graph = tf.function(lambda x: preparation.evaluation(x, 32, 1.0))  # size known
    unknown = tf.function(  # size not known: goes through the resizing
        in_graph.python_function, input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)]
    )
    for result in (in_graph(image), unknown(image)):
        assert result.dtype == tf.float32
        np.testing.assert_array_equal(result, image)


@pytest.mark.parametrize(("height", "width"), [(40, 90), (75, 31), (20, 20), (16, 300)])
@pytest.mark.parametrize("ratio", [1.0, 0.875])
def test_evaluation_agrees_with_pil(height, width, ratio):
    image = np.asarray(Image.fromarray(SMOOTH).resize((width, height), Image.Resampling.BICUBIC))
    side = round(28 / ratio)
    scale = side / min(height, width)
    new_h, new_w = round(height * scale), round(width * scale)
    resized = np.asarray(Image.fromarray(image).resize((new_w, new_h), Image.Resampling.BILINEAR))
    top, left = (new_h - 28) // 2, (new_w - 28) // 2
    expected = resized[top : top + 28, left : left + 28]
    result = preparation.evaluation(image, 28, ratio).numpy()
    assert (result == np.round(result)).all()
    np.testing.assert_allclose(result, expected, atol=1.01)  # PIL rounds between its two passes


@pytest.mark.parametrize("kind", ["crop", "crop_flip"])
def test_crops_are_those_of_numpy_and_reach_every_offset(kind):
    image = RNG.integers(1, 256, (8, 8, 3), np.uint8)  # no black: padding can be told apart
    padded = np.pad(image, [(4, 4), (4, 4), (0, 0)])
    twins = {
        padded[y : y + 8, x : x + 8][:, :: -flip or None].tobytes(): (y, x, flip)
        for y in range(9)
        for x in range(9)
        for flip in ((0, 1) if kind == "crop_flip" else (0,))
    }
    seeds = tf.stack([tf.zeros(1500, tf.int32), tf.range(1500)], 1)

    @tf.function
    def views():
        return tf.map_fn(lambda seed: preparation.augment(image, kind, 8, seed), seeds, tf.float32)

    seen = [twins[view.tobytes()] for view in views().numpy().astype(np.uint8)]
    assert {y for y, _, _ in seen} == {x for _, x, _ in seen} == set(range(9))
    assert len({(y, x) for y, x, _ in seen}) == 81  # rows and columns are independent
    flipped = np.mean([flip for *_, flip in seen])
    assert flipped == pytest.approx(0.5 if kind == "crop_flip" else 0.0, abs=0.05)


def test_inception_crops_keep_to_area_and_aspect():
    # The picture is its own coordinates, so the corners of a crop tell where it came from.
    rows, columns = np.meshgrid(np.arange(200), np.arange(200), indexing="ij")
    image = np.stack([rows, columns, 0 * rows], 2).astype(np.uint8)
    augment = tf.function(lambda seed: preparation.augment(image, "inception", 100, seed))
    areas, aspects, mirrored = [], [], []
    for i in range(300):
        view = augment(tf.constant([1, i])).numpy()
        height = (view[-2, 50, 0] - view[1, 50, 0]) * 100 / 97
        width = (view[50, -2, 1] - view[50, 1, 1]) * 100 / 97
        mirrored.append(width < 0)
        areas.append(height * abs(width) / 200**2)
        aspects.append(abs(width) / height)
    assert 0.07 < min(areas) < 0.12
    assert 0.8 < max(areas) < 1.01
    assert 0.72 < min(aspects) < 0.8
    assert 1.25 < max(aspects) < 1.37
    assert np.mean(mirrored) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("size", [24, (24, 40)])
@pytest.mark.parametrize("kind", ["none", "crop", "crop_flip", "inception"])
def test_the_same_seed_gives_the_same_view(kind, size):
    image = RNG.integers(0, 256, (41, 67, 3), np.uint8)
    views = [preparation.augment(image, kind, size, tf.constant([5, s])).numpy() for s in (1, 1, 2)]
    assert views[0].shape == (24, 24 if size == 24 else 40, 3)
    np.testing.assert_array_equal(views[0], views[1])
    assert np.array_equal(views[0], views[2]) == (kind == "none")


@pytest.mark.parametrize(("height", "width"), [(40, 90), (75, 31), (24, 36), (16, 300)])
@pytest.mark.parametrize("ratio", [1.0, 0.875])
def test_evaluation_of_a_size_that_is_not_square_covers_it_and_agrees_with_pil(
    height, width, ratio
):
    image = np.asarray(Image.fromarray(SMOOTH).resize((width, height), Image.Resampling.BICUBIC))
    least = round(24 / ratio), round(36 / ratio)
    scale = max(least[0] / height, least[1] / width)
    new_h, new_w = round(height * scale), round(width * scale)
    resized = np.asarray(Image.fromarray(image).resize((new_w, new_h), Image.Resampling.BILINEAR))
    top, left = (new_h - 24) // 2, (new_w - 36) // 2
    expected = resized[top : top + 24, left : left + 36]
    result = preparation.evaluation(image, (24, 36), ratio).numpy()
    np.testing.assert_allclose(result, expected, atol=1.01)  # PIL rounds between its two passes


def test_inception_crops_have_the_aspect_of_what_they_become():
    rows, columns = np.meshgrid(np.arange(240), np.arange(240), indexing="ij")
    image = np.stack([rows, columns, 0 * rows], 2).astype(np.uint8)
    augment = tf.function(lambda seed: preparation.augment(image, "inception", (50, 100), seed))
    views = np.stack([augment(tf.constant([1, i])) for i in range(200)])
    assert views.shape == (200, 50, 100, 3)
    height = (views[:, -2, 50, 0] - views[:, 1, 50, 0]) / 47
    width = np.abs(views[:, 25, -2, 1] - views[:, 25, 1, 1]) / 97
    stretched = width / height  # 1 where the picture is not distorted
    assert 0.7 < stretched.min() < 0.82
    assert 1.22 < stretched.max() < 1.42
