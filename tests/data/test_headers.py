"""Sizes from headers against Pillow's; what would be too large is refused before it is decoded."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from xkd_keras.data import blocks, headers, preparation

FORMATS = [
    *(("JPEG", "RGB", {}), ("JPEG", "L", {"progressive": True}), ("JPEG", "CMYK", {})),
    *(("PNG", "RGB", {}), ("PNG", "P", {}), ("BMP", "RGB", {}), ("BMP", "L", {})),
    *(("GIF", "P", {}), ("GIF", "L", {}), ("WEBP", "RGB", {}), ("WEBP", "RGB", {"lossless": True})),
    *(("WEBP", "RGBA", {}), ("WEBP", "RGBA", {"exif": b"Exif\0\0" + bytes(20)})),
]
DECODE = tf.function(preparation.decode, input_signature=[tf.TensorSpec([], tf.string)])


def chunk(name, content):
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def png(width, height):
    """Return a PNG whose header is right, and whose rows end early."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(10))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def jpeg(width, height):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    content = bytearray(buffer.getvalue())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def gif(*frames, canvas=(1, 1), extra=b""):
    """Return a GIF whose frames claim a width and height each."""
    content = b"GIF89a" + struct.pack("<HHBBB", *canvas, 0x80, 0, 0) + bytes(6) + extra
    for width, height in frames:
        content += b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00"
    return content + b"\x3b"


def bmp(width, height):
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head


def webp(width, height):
    canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + canvas


@pytest.mark.parametrize(("file_format", "mode", "options"), FORMATS)
@pytest.mark.parametrize(("width", "height"), [(1, 1), (300, 7), (5, 1000)])
def test_the_header_tells_what_pillow_tells(file_format, mode, options, width, height):
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, file_format, **options)
    content = buffer.getvalue()
    sides = headers.SIZES[file_format.lower()](content, blocks.head(content))
    assert tuple(side.numpy() for side in sides) == (height, width)


def test_a_gif_costs_no_more_than_its_first_frame():
    comment = b"\x21\xfe\x03abc\x01\x2c\x00"  # with the byte that begins a frame
    content = gif((1, 1), (60_000, 60_000), (9000, 9000), canvas=(5, 7), extra=comment)
    assert DECODE(content).shape == (7, 5, 3)


TOO_LARGE = [
    *(png(100_000, 1), png(1, 100_000), png(60_000, 60_000), png(2**31 - 1, 1)),
    *(jpeg(60_000, 60_000), jpeg(65_500, 2000)),
    *(gif((60_000, 60_000)), gif((60_000, 60_000), canvas=(9, 9))),
    gif((1, 1), canvas=(65_535, 65_535)),
    *(bmp(60_000, -60_000), bmp(100_000, 1), webp(60_000, 60_000), webp(1 << 24, 1)),
]


@pytest.mark.parametrize("content", TOO_LARGE, ids=range(len(TOO_LARGE)))
def test_what_would_be_too_large_is_refused_in_one_line(content):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        DECODE(content)
    found = re.search(r"The image has \d+ x \d+ pixels; valid: .*", caught.value.message)
    assert found
    assert str(headers.SIDE) in found[0]


@pytest.mark.parametrize(
    "content", [b"", b"GIF8", b"BM", b"\x89PNG", b"RIFF", b"\xff\xd8\xff", b"x"]
)
def test_what_is_no_image_is_still_told(content):
    with pytest.raises(tf.errors.InvalidArgumentError):
        DECODE(content)


def whole(image, image_size, crop_ratio):
    """The order that was: the whole image is resized, then its centre is cut out."""
    side = round(image_size / crop_ratio)
    size = np.float32(image.shape[:2])
    new = np.maximum(np.round(size * (np.float32(side) / size.min())), side).astype(int)
    resized = np.clip(np.round(tf.image.resize(image, new, antialias=True)), 0, 255)
    top, left = (new - image_size) // 2
    return resized[top : top + image_size, left : left + image_size]


@pytest.mark.parametrize("crop_ratio", [1.0, 0.875, 0.6])
@pytest.mark.parametrize(
    "size",
    [
        (500, 375),
        (375, 500),
        (333, 500),
        (31, 33),
        (32, 32),
        (20, 41),
        (97, 1200),
        (1024, 768),
        (3, 2),
    ],
)
def test_cutting_first_changes_no_pixel_by_more_than_rounding(size, crop_ratio):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
    for image_size in (32, 56):
        found = preparation.evaluation(image, image_size, crop_ratio).numpy()
        difference = np.abs(found - whole(image, image_size, crop_ratio))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.002


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
def test_a_long_strip_costs_no_more_than_its_centre(size):
    image = np.zeros([*size, 3], np.uint8)
    middle = tuple(slice(max(0, n // 2 - 1), n // 2 + 1) for n in size)
    image[middle] = 200
    evaluated = tf.function(lambda x: preparation.evaluation(x, 224, 0.875))
    graph = evaluated.get_concrete_function(tf.TensorSpec([None, None, 3], tf.uint8))
    assert (graph(tf.constant(image)).numpy() == 200).all()
