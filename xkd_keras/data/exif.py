"""Which way up a picture is: phones store it as the sensor saw it and write beside it how to turn.

Source: CIPA DC-008 (Exif 2.32), sections 4.5.2 and 4.6.4 A; where EXIF is kept: APP1 of JPEG, eXIf
of PNG, EXIF of WebP.
"""

import tensorflow as tf

from xkd_keras.data import blocks

_ORIENTATION, _SHORT = 0x0112, 3
_PREFIX = b"Exif\0\0"  # some writers of PNG and WebP copy it from JPEG
_MOST = 64  # entries of the directory; about ten are usual


def orientation(text: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    """Return the orientation 1..8 that EXIF names; 1 (as stored) where it names none.

    Args:
        text: Scalar string, an image file.
        at: Scalar int64: where its EXIF, a TIFF structure, begins.
    """
    at = tf.where(blocks.cut(text, at, len(_PREFIX)) == _PREFIX, at + len(_PREFIX), at)
    head = blocks.numbers(text, at, 8)
    little = head[0] == ord("I")

    def values(some):
        return tf.where(little, blocks.joined(some), blocks.joined(some, "big"))

    directory = at + values(head[4:])
    count = tf.minimum(values(blocks.numbers(text, directory, 2)), _MOST)
    entries = tf.reshape(blocks.numbers(text, directory + 2, 12 * _MOST), [_MOST, 12])[:count]
    tag, kind, value = (values(entries[:, i : i + 2]) for i in (0, 2, 8))
    named = tf.boolean_mask(value, (tag == _ORIENTATION) & (kind == _SHORT))
    first = tf.concat([named, [1]], 0)[0]
    return tf.where((first >= 1) & (first <= 8), first, tf.ones_like(first))


def upright(image: tf.Tensor, text: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    """Return a picture as its photographer saw it.

    Args:
        image: uint8 [h, w, 3], as it is stored.
        text: Scalar string, the file that it was decoded from.
        at: Scalar int64: where its EXIF begins; 0 if it has none.

    Returns:
        uint8 [h, w, 3], or [w, h, 3] where it has to be turned by a quarter.
    """
    turned = tf.cond(at > 0, lambda: _turned(image, text, at), lambda: tf.identity(image))
    return tf.ensure_shape(turned, [None, None, 3])


@blocks.as_one_operation
def _turned(image: tf.Tensor, text: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    way = orientation(text, at)

    def turn():
        # Not tf.transpose: of uint8, oneDNN tells every user on stderr that it is slow.
        height, width = tf.unstack(tf.shape(image)[:2])
        rows, columns = tf.cond(way >= 5, lambda: (width, height), lambda: (height, width))
        down, across = tf.range(rows), tf.range(columns)
        down = tf.where(tf.reduce_any(way == [3, 4, 7, 8]), rows - 1 - down, down)[:, None]
        across = tf.where(tf.reduce_any(way == [2, 3, 6, 7]), columns - 1 - across, across)
        source = tf.where(way >= 5, across * width + down, down * width + across)
        return tf.gather(tf.reshape(image, [-1, 3]), source)

    return tf.cond(way == 1, lambda: tf.identity(image), turn)
