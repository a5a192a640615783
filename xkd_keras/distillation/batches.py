"""What a cohort is fed: images, labels and weights of one step, checked."""

import contextlib
import re
from collections.abc import Iterator, Mapping

import keras
import tensorflow as tf

from xkd_keras.errors import InputError

_BAD_LABEL = "labels: received "  # begins what a graph says of a label that is out of range


def unpacked(data, classes: int, check_range: bool = True):
    """Return images, labels int64 [B], sample_weight [B] or None of what `fit` hands a step.

    Labels and weights may come as [B, 1] too. A label that is no class fails the step, if
    `check_range`: XLA has no strings to say it in.

    Raises:
        InputError: Labels are no whole numbers, or of another shape.
    """
    images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    images = single(images)
    if labels is None:
        raise InputError("received none; valid: fit(images, labels).", argument="labels")
    labels = tf.convert_to_tensor(labels)
    shape = labels.shape
    if shape.rank is not None and not (shape.rank == 1 or (shape.rank == 2 and shape[1] == 1)):
        raise InputError(
            f"received shape {shape}; valid: class numbers [batch] (for one-hot labels:"
            " labels.argmax(-1)).",
            argument="labels",
        )
    if not labels.dtype.is_integer:
        raise InputError(
            f"received {labels.dtype.name}; valid: class numbers, 0 to {classes - 1}, of an"
            " integer dtype (labels.astype('int32')).",
            argument="labels",
        )
    labels = tf.reshape(tf.cast(labels, tf.int64), [-1])
    labels = _in_range(labels, classes) if check_range else labels
    if sample_weight is not None:
        sample_weight = tf.reshape(sample_weight, [-1])
    return images, labels, sample_weight


def single(images) -> tf.Tensor:
    """Return the images, which Keras also takes as a list of one or by the name of the input.

    Raises:
        InputError: There are others beside them.
    """
    given = keras.tree.flatten(images)
    if len(given) != 1:
        raise InputError(
            f"received {len(given)} inputs; valid: one, [batch, height, width, channels].",
            argument="images",
        )
    return given[0]


def _in_range(labels: tf.Tensor, classes: int) -> tf.Tensor:
    """Return the labels; the graph fails where one is no class."""
    low, high = tf.reduce_min(labels), tf.reduce_max(labels)
    bad = tf.strings.as_string(tf.where(low < 0, low, high))
    message = tf.strings.join([_BAD_LABEL, bad, f"; valid: 0 to {classes - 1}."])
    fine = (tf.size(labels) == 0) | ((low >= 0) & (high < classes))
    with tf.control_dependencies([tf.debugging.Assert(fine, [message])]):
        return tf.identity(labels)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn the failure that a label out of range put into a graph into InputError."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        message = re.search(_BAD_LABEL + r"(-?\d+; valid: 0 to \d+\.)", str(error))
        if not message:
            raise
        raise InputError(f"received {message[1]}", argument="labels") from None


def filled(images, labels, sample_weight):
    """Return a batch that no replica has empty: of none, one image with weight 0.

    Of a last batch that is smaller than the number of replicas, Keras gives some of them nothing,
    which convolutions and batch normalisation do not take. They get the first replica's first
    image, whose weight is 0; moving statistics are then of real images.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1 or images.shape[0] is not None:
        return images, labels, sample_weight
    blank = tf.zeros(tf.concat([[1], tf.shape(images)[1:]], 0), images.dtype)
    first = tf.equal(context.replica_id_in_sync_group, 0)
    own = tf.cond(first, lambda: images[:1], lambda: blank)
    spare = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(own, tf.float32))
    empty = tf.equal(tf.shape(images)[0], 0)
    if sample_weight is None:
        sample_weight = tf.ones(tf.shape(labels))
    images, labels, sample_weight = tf.cond(
        empty,
        lambda: (tf.cast(spare, images.dtype), tf.zeros([1], labels.dtype), tf.zeros([1])),
        lambda: (images, labels, tf.cast(sample_weight, tf.float32)),
    )
    return images, labels, sample_weight


def spared(call, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """Return what `call` makes of a replica's images, by name, of no image too."""
    count = tf.shape(images)[0]
    missing = tf.cast(tf.equal(count, 0), tf.int32)
    blank = tf.zeros(tf.concat([[missing], tf.shape(images)[1:]], 0), images.dtype)
    return {name: z[:count] for name, z in call(tf.concat([images, blank], 0)).items()}


def warn_of_small_pixels(peers: Mapping[str, keras.Model], images, step) -> None:
    """Warn on stderr, in the first step, where peers that take 0..255 receive 0..1."""
    first = [layer for peer in peers.values() for layer in peer.layers[:2]]
    ours = keras.layers.DepthwiseConv2D  # as `peers.layers.affine` makes it
    scales = [x.kernel for x in first if x.name == "normalize" and isinstance(x, ours)]
    if not scales:
        return
    warning = (
        "warning: the images of the first batch lie in 0..1; peers of xkd_keras normalise inside"
        " and take pixels 0..255"
    )

    def warn_if_small():
        largest = tf.reduce_max(tf.cast(images, tf.float32))
        small = (largest <= 1.0) & (largest > 0.0)
        # Statistics of pixels 0..1 have standard deviations below 1, which it divides by.
        bytes_ = [tf.reduce_max(tf.convert_to_tensor(scale)) <= 1.0 for scale in scales]
        return tf.cond(small & tf.reduce_any(bytes_), warn, lambda: 0)

    def warn():
        with tf.control_dependencies([tf.print(warning)]):
            return tf.constant(0)

    tf.cond(tf.equal(tf.cast(step, tf.int64), 0), warn_if_small, lambda: 0)
