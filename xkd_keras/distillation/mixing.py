"""CutMix and mixup: a batch whose images are mixed in pairs before all peers see it.

The peers see the same view, so that what one says of an image still teaches the others about it.
Everything is drawn from the seed and the step, so that a resumed run mixes as it would have.
"""

import tensorflow as tf

from xkd_keras.errors import InputError

KINDS = ("none", "cutmix", "mixup", "both")
SHARE = 0.5  # of the batches are mixed, as in Yun et al.'s experiments on CIFAR


def checked(kind: str) -> str:
    """Return the kind; raises InputError where there is no such mixing."""
    if kind not in KINDS:
        raise InputError.unknown("mix", kind, KINDS)
    return kind


def mix(kind: str, images, labels, classes: int, seed, sample_weight=None):
    """Mix half of the batches: each image with another one of the batch, its label likewise.

    With lambda uniform in 0..1 (Beta(1, 1)), one for the batch, and x' another image:

    mixup:  lambda x + (1 - lambda) x'                      (Zhang et al., ICLR 2018)
    cutmix: x, with a rectangle of the share 1 - lambda of its area taken from x', whose centre is
            uniform and which is cut at the border           (Yun et al., ICCV 2019)
    both:   one or the other, each for half of the mixed batches.

    Labels are lambda y + (1 - lambda) y', for cutmix with the lambda of the pixels that stayed.
    Where images have weights w, the mixed one has w'' = lambda w + (1 - lambda) w', and its labels
    are (lambda w y + (1 - lambda) w' y') / w'': a label counts as much as its own image.

    Args:
        kind: Of `KINDS`.
        images: [B, H, W, C].
        labels: int [B].
        classes: How many there are.
        seed: int [2]; the same seed mixes alike, but every replica its own part in another way.
        sample_weight: float [B], or None: all count alike.

    Returns:
        The images, as float32, labels float32 [B, classes], and the weights, None where there were
        none; for `none` all as they were.

    Raises:
        InputError: What is to be mixed is not of four dimensions.
    """
    if kind == "none":
        return images, labels, sample_weight
    if context := tf.distribute.get_replica_context():
        seed = tf.random.fold_in(tf.stack(seed), context.replica_id_in_sync_group)
    images = tf.cast(images, tf.float32)
    if images.shape.rank not in (None, 4):
        raise InputError(
            f"'{kind}' mixes images [batch, height, width, channels], received {images.shape};"
            " valid: 'none'.",
            argument="mix",
        )
    labels = tf.one_hot(labels, classes)
    mixes, share, vertical, horizontal, which = tf.unstack(tf.random.stateless_uniform([5], seed))
    share = tf.where(mixes < SHARE, share, 1.0)
    order = tf.random.experimental.stateless_shuffle(tf.range(tf.shape(images)[0]), seed)
    partners = tf.gather(images, order)
    inside = _rectangle(tf.shape(images)[1:3], 1.0 - share, (vertical, horizontal))
    kept = 1.0 - tf.reduce_mean(tf.cast(inside, tf.float32))
    cut = kind == "cutmix" or (kind == "both" and which < 0.5)
    share = tf.where(cut, kept, share)
    images = tf.where(
        cut,
        tf.where(inside[None, :, :, None], partners, images),
        share * images + (1.0 - share) * partners,
    )
    if sample_weight is None:
        return images, share * labels + (1.0 - share) * tf.gather(labels, order), None
    own = share * tf.cast(sample_weight, tf.float32)
    other = (1.0 - share) * tf.gather(tf.cast(sample_weight, tf.float32), order)
    weight = own + other
    part = tf.where(weight > 0, own / weight, 1.0)[:, None]
    return images, part * labels + (1.0 - part) * tf.gather(labels, order), weight


def _rectangle(size, area, centre):
    """Return where a rectangle of that share of the area is, cut at the border: bool [H, W]."""
    size = tf.cast(size, tf.float32)
    sides = tf.floor(size * tf.sqrt(area))
    begins = tf.floor(size * tf.stack(centre)) - tf.floor(sides / 2.0)
    rows, columns = (
        (tf.range(size[axis]) >= begins[axis]) & (tf.range(size[axis]) < begins[axis] + sides[axis])
        for axis in (0, 1)
    )
    return rows[:, None] & columns[None, :]
