"""How large an encoded image will be, from its first bytes: before memory is taken for it.

Runs inside a graph, as an exported model has to refuse such images wherever it is served.
"""

import tensorflow as tf

SIDE = 65_500  # pixels; also the largest that libjpeg knows
PIXELS = 100_000_000  # 300 MB of uint8 RGB
_ZEROS = b"\0" * 64  # after the image, so that no header is too short
_DESCRIPTOR, _EXTENSION = 0x2C, 0x21  # of GIF


def check(encoded: tf.Tensor) -> tf.Tensor:
    """Return an encoded image, unless it is too large when decoded.

    Args:
        encoded: Scalar string.

    Raises:
        tf.errors.InvalidArgumentError: A side has more than 65,500 pixels, or the image more than
            100 million (all frames of a GIF together).
    """
    height, width, pixels = sizes(encoded)
    fits = (height <= SIDE) & (width <= SIDE) & (pixels <= PIXELS)
    size = [tf.strings.as_string(side) for side in (width, height)]
    text = tf.strings.join(
        [
            *("The image has ", size[0], " x ", size[1], " pixels, in all frames "),
            *(tf.strings.as_string(pixels), f"; valid: sides up to {SIDE}, {PIXELS} in all"),
        ]
    )
    with tf.control_dependencies([tf.debugging.Assert(fits, [text])]):
        return tf.identity(encoded)


def sizes(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return height, width and pixels of all frames, int64; zeros for no image that is known.

    Raises:
        tf.errors.InvalidArgumentError: A JPEG whose header is damaged.
    """
    head = tf.strings.join([tf.strings.substr(encoded, 0, 64), _ZEROS])

    def starts(magic: bytes) -> tf.Tensor:
        return tf.strings.substr(head, 0, len(magic)) == magic

    def jpeg():
        shape = tf.cast(tf.image.extract_jpeg_shape(encoded), tf.int64)
        return _frame(shape[0], shape[1])

    cases = [
        (starts(b"\xff\xd8\xff"), jpeg),
        (starts(b"\x89PNG"), lambda: _frame(*(_number(head, at, 4, "big") for at in (20, 16)))),
        (starts(b"GIF8"), lambda: _gif(encoded)),
        (starts(b"BM"), lambda: _frame(_signed(head, 22), _signed(head, 18))),
        (starts(b"RIFF"), lambda: _webp(head)),
    ]
    return tf.case(cases, default=lambda: _frame(0, 0), exclusive=True)


def _frame(height, width):
    """Return the size of an image of one frame."""
    height, width = tf.cast(height, tf.int64), tf.cast(width, tf.int64)
    return height, width, height * width


def _number(text: tf.Tensor, at: int, count: int, order: str = "little") -> tf.Tensor:
    """Return an unsigned number of up to four bytes."""
    some = tf.cast(tf.io.decode_raw(tf.strings.substr(text, at, count), tf.uint8), tf.int64)
    places = range(count) if order == "little" else range(count - 1, -1, -1)
    return tf.reduce_sum(some * tf.constant([256**place for place in places], tf.int64))


def _signed(text: tf.Tensor, at: int) -> tf.Tensor:
    """Return the absolute value of a number of four bytes: a BMP's rows may go upwards."""
    number = _number(text, at, 4)
    return tf.where(number >= 1 << 31, (1 << 32) - number, number)


def _webp(head: tf.Tensor):
    """Return the size of a WebP: simple, lossless, or extended (the canvas)."""
    kind = tf.strings.substr(head, 12, 4)
    lossy = _number(head, 26, 2) % (1 << 14), _number(head, 28, 2) % (1 << 14)
    bits = _number(head, 21, 4)
    lossless = bits % (1 << 14) + 1, bits // (1 << 14) % (1 << 14) + 1
    canvas = _number(head, 24, 3) + 1, _number(head, 27, 3) + 1
    width, height = (
        tf.where(kind == b"VP8 ", a, tf.where(kind == b"VP8L", b, c))
        for a, b, c in zip(lossy, lossless, canvas, strict=True)
    )
    return _frame(height, width)


def _gif(encoded: tf.Tensor):
    """Return the largest height and width of a GIF's frames, and the pixels of all of them.

    Its decoder takes memory for every frame, of the size that the frame itself claims. So all
    blocks are walked through; each is a few bytes, then pieces of up to 255.
    """
    content = tf.cast(tf.io.decode_raw(encoded, tf.uint8), tf.int32)
    end = tf.size(content)
    content = tf.concat([content, tf.zeros([16], tf.int32)], 0)

    def table(flags):
        return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(tf.constant(2), flags % 8), 0)

    def wide(at):
        return tf.cast(content[at] + 256 * content[at + 1], tf.int64)

    def step(at, pieces, height, width, pixels):
        kind = content[at]
        frame = ~pieces & (kind == _DESCRIPTOR)
        extension = ~pieces & (kind == _EXTENSION)
        # Within pieces: a length, 0 after the last. A frame: 10 bytes, its colours, 1 byte.
        ahead = tf.where(frame, 11 + table(content[at + 9]), tf.where(extension, 2, end))
        ahead = tf.where(pieces, 1 + kind, ahead)
        rows = tf.where(frame, wide(at + 7), 0)
        columns = tf.where(frame, wide(at + 5), 0)
        return (
            tf.minimum(at + ahead, end),
            tf.where(pieces, kind > 0, frame | extension),
            tf.maximum(height, rows),
            tf.maximum(width, columns),
            pixels + rows * columns,
        )

    zero = tf.zeros([], tf.int64)
    first = tf.minimum(13 + table(content[10]), end)
    _, _, height, width, pixels = tf.while_loop(
        lambda at, pieces, height, width, pixels: (at < end) & (pixels <= PIXELS),
        step,
        (first, tf.constant(False), zero, zero, zero),
        parallel_iterations=1,
    )
    return tf.maximum(height, wide(8)), tf.maximum(width, wide(6)), pixels
