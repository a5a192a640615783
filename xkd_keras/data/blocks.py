"""The blocks that image files are made of, read inside a graph: numbers, segments, chunks.

Standard operations only, so that an exported model can do the same wherever it is served. Nothing
here fails on a damaged file: what is not there reads as zeros, and the decoder says what is wrong.
"""

import tensorflow as tf

HEAD = 80  # bytes; where formats say what they are and how large
MOST = 200  # blocks that are looked at before the image itself; real files have a few dozen
_BYTES = [bytes([value]) for value in range(256)]


def as_one_operation(function):
    """Return `function` of tensors as one operation of the graph that calls it.

    In the branch of a picture of another format it costs that one operation, not all of its own.
    """
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


def head(text: tf.Tensor) -> tf.Tensor:
    """Return the values of a string's first `HEAD` bytes, int64 [HEAD]; zeros beyond its end."""
    return numbers(text, 0, HEAD)


def cut(text: tf.Tensor, at: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Return up to `count` bytes of a string from `at` on: fewer beyond its end, never an error."""
    at, count = (tf.maximum(tf.cast(number, tf.int64), 0) for number in (at, count))
    return tf.strings.substr(text, tf.minimum(at, length(text)), count)


def length(text: tf.Tensor) -> tf.Tensor:
    """Return the number of bytes of a string, int64."""
    return tf.cast(tf.strings.length(text), tf.int64)


def numbers(text: tf.Tensor, at: tf.Tensor, count: int) -> tf.Tensor:
    """Return the values of bytes at..at + count of a string, int64 [count]; zeros beyond its end.

    Args:
        text: Scalar string.
        at: Scalar int64, 0 or more.
        count: How many.
    """
    at = tf.minimum(tf.cast(at, tf.int64), length(text))
    some = tf.strings.substr(text, at, tf.constant(count, tf.int64))
    raw = tf.io.decode_raw(tf.strings.join([some, b"\0" * count]), tf.uint8)
    return tf.cast(tf.ensure_shape(raw[:count], [count]), tf.int64)


def joined(values: tf.Tensor, order: str = "little") -> tf.Tensor:
    """Return the unsigned number, int64 [...], that the bytes int64 [..., up to 7] are."""
    places = range(values.shape[-1])
    places = places if order == "little" else reversed(places)
    return tf.reduce_sum(values * tf.constant([256**place for place in places], tf.int64), -1)


def number(text: tf.Tensor, at: tf.Tensor, count: int) -> tf.Tensor:
    """Return an unsigned number of up to seven bytes, the lowest first, int64."""
    return joined(numbers(text, at, count))


def as_bytes(value: tf.Tensor, count: int) -> tf.Tensor:
    """Return a number as `count` bytes, the lowest first."""
    places = tf.constant([256**place for place in range(count)], tf.int64)
    return tf.strings.reduce_join(tf.gather(_BYTES, tf.cast(value, tf.int64) // places % 256))


def replaced(text: tf.Tensor, at: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
    """Return a string with the bytes at `at` replaced by `new`."""
    after = at + tf.cast(tf.strings.length(new), tf.int64)
    return tf.strings.join([cut(text, 0, at), new, cut(text, after, tf.strings.length(text))])


def jpeg_exif(text: tf.Tensor) -> tf.Tensor:
    """Return where the EXIF of a JPEG begins, or 0.

    It is in a segment APP1, among the other APP and COM segments that come before the image's own.
    """
    wanted = b"\xff\xe1\0\0Exif\0\0"
    exif = tf.constant(list(wanted), tf.int64)
    any_size = tf.constant([place in (2, 3) for place in range(len(wanted))])

    def look(at):
        head = numbers(text, at, len(wanted))
        goes_on = (head[0] == 0xFF) & ((head[1] // 16 == 0xE) | (head[1] == 0xFE))
        return 2 + joined(head[2:4], "big"), tf.reduce_all((head == exif) | any_size), ~goes_on

    return _walk(look, 2, len(wanted))


def png_chunk(text: tf.Tensor, name: bytes) -> tf.Tensor:
    """Return where the content of the first chunk of a name before the pixels begins, or 0."""

    def look(at):
        head = numbers(text, at, 8)
        kind = joined(head[4:])
        wanted, ended = (kind == int.from_bytes(each, "little") for each in (name, b"IDAT"))
        return 12 + joined(head[:4], "big"), wanted, ended | (kind == 0)

    return _walk(look, 8, 8)


def riff_chunk(text: tf.Tensor, name: bytes) -> tf.Tensor:
    """Return where the content of a WebP's first chunk of a name begins, or 0."""

    def look(at):
        head = numbers(text, at, 8)
        kind, size = joined(head[:4]), joined(head[4:])
        return 8 + size + size % 2, kind == int.from_bytes(name, "little"), kind == 0

    return _walk(look, 12, 8)


def _walk(look, first: int, skip: int) -> tf.Tensor:
    """Return where the content of the wanted block begins, int64; 0 if there is none.

    Args:
        look: Function of a place -> (length of the block there, whether it is wanted, whether
            there is none to come).
        first: Place of the first block.
        skip: What stands before a block's content.
    """

    def step(at, none, left):
        ahead, wanted, ended = look(at)
        found = tf.where(wanted, at + skip, none)
        return at + ahead, found, tf.where(wanted | ended, 0, left - 1)

    start = tf.constant(first, tf.int64), tf.constant(0, tf.int64), tf.constant(MOST)
    return tf.while_loop(lambda at, found, left: left > 0, step, start, parallel_iterations=1)[1]
