"""Pictures that move, GIF and WebP, as their first frame alone. Runs inside a graph.

TensorFlow decodes all frames of a GIF to give the first, leaves its transparent pixels black, and
refuses a WebP that moves (asked for any number of channels, 2.21 writes beyond its memory instead).
So the file is cut after its first frame, before it is decoded.
"""

import tensorflow as tf

from xkd_keras.data import blocks, headers

_DESCRIPTOR, _EXTENSION, _CONTROL = 0x2C, 0x21, 0xF9  # of GIF
_MOVES, _ALPHA = 0x02, 0x10  # of WebP: flags of its first chunk


def gif(encoded: tf.Tensor, head: tf.Tensor, background: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return a GIF's first frame, its transparent colour replaced, and its place.

    Args:
        encoded: Scalar string.
        head: int64 [HEAD], its first bytes.
        background: Grey 0..255 that the transparent colour becomes.

    Returns:
        Scalar string, a GIF of one frame; the file itself where no frame is found. And int64 [4]:
        top, left, height and width of the canvas, as `on_canvas` takes it.

    Raises:
        tf.errors.InvalidArgumentError: The frame or the canvas is too large.
    """
    frame, end, control = _gif_blocks(encoded)
    wide = tf.reshape(blocks.numbers(encoded, frame + 1, 8), [4, 2])
    left, top, width, height = tf.unstack(blocks.joined(wide))
    canvas = blocks.joined(head[8:10]), blocks.joined(head[6:8])
    place = _checked(top, left, height, width, canvas)

    def still():
        text = tf.strings.join([blocks.cut(encoded, 0, end), b"\x3b"])
        text = blocks.replaced(text, frame + 1, b"\0\0\0\0")  # it is all that is decoded
        flags, index = blocks.number(text, control, 1), blocks.number(text, control + 3, 1)
        own = blocks.number(text, frame + 9, 1) >= 128  # else the colours are those of the file
        colour = 3 * index + tf.where(own, frame + 10, tf.constant(13, tf.int64))
        opaque = blocks.replaced(text, control, blocks.as_bytes(flags - flags % 2, 1))
        opaque = blocks.replaced(opaque, colour, bytes([background]) * 3)
        return tf.where((control > 0) & (flags % 2 == 1), opaque, text)

    with tf.control_dependencies([place]):  # too large a frame is not decoded
        return tf.cond(frame > 0, still, lambda: tf.identity(encoded)), place


def webp(encoded: tf.Tensor, head: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return a WebP that does not move, and the place of its pixels; arguments as of `gif`."""
    extended = blocks.joined(head[12:16]) == int.from_bytes(b"VP8X", "little")
    moves = extended & (head[20] // _MOVES % 2 == 1)

    def first():
        at = blocks.riff_chunk(encoded, b"ANMF")  # place and size of the frame, time, its chunks
        size = blocks.number(encoded, at - 4, 4) - 16
        three = tf.reshape(blocks.numbers(encoded, at, 12), [4, 3])
        left, top, width, height = tf.unstack(blocks.joined(three) * [2, 2, 1, 1] + [0, 0, 1, 1])
        canvas = blocks.joined(head[27:30]) + 1, blocks.joined(head[24:27]) + 1
        chunks = blocks.cut(encoded, at + 16, size)
        length = 22 + tf.strings.length(chunks)
        kind = [b"WEBPVP8X", blocks.as_bytes(10, 4), blocks.as_bytes(_ALPHA, 4)]
        measures = blocks.cut(encoded, at + 6, 6)
        still = tf.strings.join([b"RIFF", blocks.as_bytes(length, 4), *kind, measures, chunks])
        place = _checked(top, left, height, width, canvas)
        with tf.control_dependencies([place]):
            return tf.identity(still), place

    return tf.cond(moves, first, lambda: (encoded, tf.zeros([4], tf.int64)))


def on_canvas(image: tf.Tensor, place: tf.Tensor, background: int) -> tf.Tensor:
    """Return a frame, uint8 [h, w, 3], at its place on a canvas of a grey; zeros: as it is."""

    def pad():
        before = place[:2]
        after = place[2:] - before - tf.shape(image, out_type=tf.int64)[:2]
        margins = tf.stack([before, tf.maximum(after, 0)], 1)
        margins = tf.concat([margins, tf.zeros([1, 2], tf.int64)], 0)
        return tf.pad(image, margins, constant_values=tf.constant(background, tf.uint8))

    return tf.cond(tf.reduce_any(place > 0), pad, lambda: tf.identity(image))


def _checked(top, left, height, width, canvas) -> tf.Tensor:
    """Return a frame's place on a canvas that holds it; raises where that is too large."""
    height = tf.maximum(canvas[0], top + height)
    width = tf.maximum(canvas[1], left + width)
    with tf.control_dependencies([headers.refuse(height, width)]):
        return tf.stack([top, left, height, width])


def _gif_blocks(encoded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return where the first frame begins and ends, and where the flags of its control are.

    int64; zeros for what is not there. Blocks are a few bytes, then pieces of up to 255.
    """
    content = tf.cast(tf.io.decode_raw(encoded, tf.uint8), tf.int32)
    end = tf.size(content)
    content = tf.concat([content, tf.zeros([16], tf.int32)], 0)

    def table(flags):
        return tf.where(flags >= 128, 3 * tf.bitwise.left_shift(tf.constant(2), flags % 8), 0)

    def step(at, pieces, frame, control):
        kind = content[at]
        is_frame = ~pieces & (kind == _DESCRIPTOR)
        extension = ~pieces & (kind == _EXTENSION)
        # Within pieces: a length, 0 after the last. A frame: 10 bytes, its colours, 1 byte.
        ahead = tf.where(is_frame, 11 + table(content[at + 9]), tf.where(extension, 2, end))
        ahead = tf.where(pieces, 1 + kind, ahead)
        controls = extension & (content[at + 1] == _CONTROL)
        return (
            tf.minimum(at + ahead, end),
            tf.where(pieces, kind > 0, is_frame | extension),
            tf.where(is_frame, at, frame),
            tf.where(controls, at + 3, control),
        )

    first = tf.minimum(13 + table(content[10]), end)
    at, _, frame, control = tf.while_loop(
        lambda at, pieces, frame, control: (at < end) & (pieces | (frame == 0)),
        step,
        (first, tf.constant(False), tf.constant(0), tf.constant(0)),
        parallel_iterations=1,
    )
    return tuple(tf.cast(each, tf.int64) for each in (frame, at, control))
