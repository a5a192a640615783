"""From an encoded image to its pixels: the first frame, on white, upright. Runs inside a graph.

TensorFlow's decoder does the work. Here is what it leaves out: the way up, transparency, colours of
a BMP's table, and the first frame of a picture that moves.
"""

import tensorflow as tf

from xkd_keras.data import blocks, exif, headers, stills

BACKGROUND = 255  # white, as paper and pages are: transparent pixels are laid on it
_AT_A_TIME = 1 << 20  # pixels that are laid on it: a large picture must not need much memory


def pixels(encoded: tf.Tensor) -> tf.Tensor:
    """Decode an image, unless it would be too large.

    Args:
        encoded: Scalar string: JPEG, PNG, GIF, BMP or WebP.

    Returns:
        uint8 [h, w, 3].

    Raises:
        tf.errors.InvalidArgumentError: No image, a damaged one, one that is larger than
            `headers.refuse` allows, or a kind of BMP that TensorFlow would misread.
    """
    head = blocks.head(encoded)
    branches = [lambda read=_READERS[kind]: read(encoded, head) for kind in headers.KINDS]
    branches.append(_unknown)
    return _rgb(tf.switch_case(headers.kind(head), branches))


def on_background(image: tf.Tensor) -> tf.Tensor:
    """Return an image laid on `BACKGROUND`: uint8 [h, w, 4] -> uint8 [h, w, 3]."""
    flat = tf.reshape(image, [-1, 4])
    count = (tf.shape(flat)[0] + _AT_A_TIME - 1) // _AT_A_TIME
    parts = tf.TensorArray(tf.uint8, count, element_shape=[None, 3], infer_shape=False)

    def lay(i, parts):
        some = tf.cast(flat[i * _AT_A_TIME : (i + 1) * _AT_A_TIME], tf.uint16)
        colour, alpha = some[:, :3], some[:, 3:]
        mixed = (colour * alpha + BACKGROUND * (255 - alpha) + 127) // 255  # at most 65152
        return i + 1, parts.write(i, tf.cast(mixed, tf.uint8))

    _, parts = tf.while_loop(lambda i, _: i < count, lay, (0, parts), parallel_iterations=1)
    return _rgb(tf.reshape(parts.concat(), tf.concat([tf.shape(image)[:2], [3]], 0)))


def _unknown() -> tf.Tensor:
    """Refuse: TensorFlow may know more formats, and no size of theirs was looked at."""
    text = "Unknown image file format; valid: JPEG, PNG, GIF, BMP, WebP"
    with tf.control_dependencies([tf.debugging.Assert(False, [text])]):
        return tf.zeros([1, 1, 3], tf.uint8)


def decoded(encoded: tf.Tensor, channels: int) -> tf.Tensor:
    """Return what TensorFlow's decoder makes of an image: uint8 [h, w, channels]; 0: its own."""
    image = tf.io.decode_image(encoded, channels=channels, expand_animations=False)
    return tf.ensure_shape(image, [None, None, channels or None])


def _rgb(image: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(image, [None, None, 3])


def _jpeg(encoded: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    return exif.upright(decoded(encoded, 3), encoded, blocks.jpeg_exif(encoded))


def _png(encoded: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    image = tf.cond(
        (head[25] == 4) | (head[25] == 6) | (blocks.png_chunk(encoded, b"tRNS") > 0),
        lambda: on_background(decoded(encoded, 4)),
        lambda: decoded(encoded, 3),
    )
    return exif.upright(image, encoded, blocks.png_chunk(encoded, b"eXIf"))


def _gif(encoded: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    still, place = stills.gif(encoded, head, BACKGROUND)
    return stills.on_canvas(decoded(still, 3), place, BACKGROUND)


def _webp(encoded: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    still, place = stills.webp(encoded, head)
    image = decoded(still, 0)  # its decoder takes the channels that it finds, or fails
    image = tf.cond(
        tf.shape(image)[2] == 4, lambda: on_background(image), lambda: tf.identity(image)
    )
    image = stills.on_canvas(image, place, BACKGROUND)
    return exif.upright(image, encoded, blocks.riff_chunk(encoded, b"EXIF"))


def _bmp(encoded: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    places = (14, 18), (28, 30), (30, 34), (66, 70)
    header, bits, packed, mask = (blocks.joined(head[a:b]) for a, b in places)
    known = (header >= 40) & ((packed == 0) | (packed == 3) & (bits == 32))
    text = "a BMP that is compressed, or in an old variant; save it as PNG"
    with tf.control_dependencies([tf.debugging.Assert(known, [text])]):
        encoded = tf.identity(encoded)

    def of_table():
        table = tf.reshape(blocks.numbers(encoded, 14 + header, 1024), [256, 4])
        colours = tf.cast(table[:, 2::-1], tf.uint8)  # stored as blue, green, red, 0
        return tf.gather(colours, tf.cast(decoded(encoded, 3)[:, :, 0], tf.int32))

    # A fourth byte is transparency only where the masks of a newer header say so.
    transparent = (packed == 3) & (header >= 56) & (mask > 0)
    cases = [
        (bits == 8, of_table),
        (transparent, lambda: on_background(decoded(encoded, 4))),
    ]
    return tf.case(cases, default=lambda: decoded(encoded, 3))


def _reader(size, read):
    """Return the function of a format that refuses what is too large, and decodes the rest."""

    def checked(encoded, head):
        with tf.control_dependencies([headers.refuse(*size(encoded, head))]):
            return _rgb(read(tf.identity(encoded), head))

    return blocks.as_one_operation(checked)


_READERS = {
    kind: _reader(headers.SIZES[kind], read)
    for kind, read in {"jpeg": _jpeg, "png": _png, "gif": _gif, "bmp": _bmp, "webp": _webp}.items()
}
