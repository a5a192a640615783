"""What an encoded image is and how large it will be, from its first bytes: before memory is taken.

Runs inside a graph, as an exported model has to refuse such images wherever it is served.
"""

import tensorflow as tf

from xkd_keras.data.blocks import joined

SIDE = 65_500  # pixels; also the largest that libjpeg knows
PIXELS = 100_000_000  # 300 MB of uint8 RGB
KINDS = {  # the formats that are read, and what such a file begins with
    "jpeg": b"\xff\xd8\xff",
    "png": b"\x89PNG",
    "gif": b"GIF8",
    "bmp": b"BM",
    "webp": b"RIFF",
}


def kind(head: tf.Tensor) -> tf.Tensor:
    """Return the place of a file's format in `KINDS`, int32; their number for no such file.

    Args:
        head: int64 [HEAD], its first bytes.
    """
    padded = [list(magic.ljust(4, b"\0")) for magic in KINDS.values()]
    free = [[place >= len(magic) for place in range(4)] for magic in KINDS.values()]
    fits = tf.reduce_all((head[:4] == tf.constant(padded, tf.int64)) | tf.constant(free), 1)
    return tf.argmax(tf.concat([fits, [True]], 0), output_type=tf.int32)


def refuse(height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Return an operation that fails where an image, int64 sides, would be too large.

    Raises:
        tf.errors.InvalidArgumentError: A side has more than 65,500 pixels, or the image more than
            100 million.
    """

    def fail():
        size = [tf.strings.as_string(side) for side in (width, height)]
        valid = f" pixels; valid: sides up to {SIDE}, {PIXELS} in all"
        text = tf.strings.join(["The image has ", size[0], " x ", size[1], valid])
        with tf.control_dependencies([tf.debugging.Assert(False, [text])]):
            return tf.constant(False)

    fits = (height <= SIDE) & (width <= SIDE) & (height * width <= PIXELS)
    return tf.cond(fits, lambda: tf.constant(True), fail)


def _jpeg(encoded: tf.Tensor, head: tf.Tensor):
    shape = tf.cast(tf.image.extract_jpeg_shape(encoded), tf.int64)
    return shape[0], shape[1]


def _png(encoded: tf.Tensor, head: tf.Tensor):
    return joined(head[20:24], "big"), joined(head[16:20], "big")


def _gif(encoded: tf.Tensor, head: tf.Tensor):
    return joined(head[8:10]), joined(head[6:8])  # of the canvas: `stills` looks at the frame


def _bmp(encoded: tf.Tensor, head: tf.Tensor):
    """A BMP's rows may go upwards: then its height is negative."""
    sides = joined(head[22:26]), joined(head[18:22])
    return tuple(tf.where(side >= 1 << 31, (1 << 32) - side, side) for side in sides)


def _webp(encoded: tf.Tensor, head: tf.Tensor):
    """A WebP is simple, lossless, or extended (then its header has the canvas)."""
    form = head[15]  # of "VP8 ", "VP8L" and "VP8X"
    lossy = joined(head[26:28]) % (1 << 14), joined(head[28:30]) % (1 << 14)
    bits = joined(head[21:25])
    lossless = bits % (1 << 14) + 1, bits // (1 << 14) % (1 << 14) + 1
    canvas = joined(head[24:27]) + 1, joined(head[27:30]) + 1
    width, height = (
        tf.where(form == ord(" "), a, tf.where(form == ord("L"), b, c))
        for a, b, c in zip(lossy, lossless, canvas, strict=True)
    )
    return height, width


# By format, functions of (file, head) -> height and width, int64. A JPEG whose header is damaged
# raises tf.errors.InvalidArgumentError.
SIZES = {"jpeg": _jpeg, "png": _png, "gif": _gif, "bmp": _bmp, "webp": _webp}
