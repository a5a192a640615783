"""From an encoded image to the pixels that a peer sees. Pure functions that run inside a graph.

Training, evaluation, export and serving share them, so nobody ever repeats the preprocessing.
"""

import tensorflow as tf

from xkd_keras.data import augmentation, formats, names

PADDING = 4  # pixels on every side before the random crop: the usual CIFAR preparation
AREA = (0.08, 1.0)  # share of the picture in an inception crop: Szegedy et al. 2015, section 6
ASPECT = (3 / 4, 4 / 3)


# Traced once, not once per pipeline.
@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decode one image as people see it.

    Args:
        encoded: Scalar string: JPEG (CMYK too), PNG, BMP, WebP or GIF (of pictures that move, the
            first frame), whatever the file is called.

    Returns:
        uint8 [h, w, 3], upright as its EXIF says; grey is repeated, 16 bits become 8, transparent
        pixels are laid on `formats.BACKGROUND`.

    Raises:
        tf.errors.InvalidArgumentError: Not an image, a damaged one, or one that would be larger
            than `headers.PIXELS` or `headers.SIDE`.
    """
    return formats.pixels(encoded)


def decode_plain(encoded: tf.Tensor) -> tf.Tensor:
    """Decode an image of a prepared data set, which has no EXIF and nothing transparent.

    Its graph is made in a hundredth of the time that `decode` takes.

    Args:
        encoded: Scalar string: PNG, JPEG, BMP or GIF.

    Returns:
        uint8 [h, w, 3]; grey is repeated.

    Raises:
        tf.errors.InvalidArgumentError: Not an image, or a damaged one.
    """
    return formats.decoded(encoded, 3)


def evaluation(image: tf.Tensor, image_size: int | tuple[int, int], crop_ratio: float) -> tf.Tensor:
    """Return the centre of an image that is resized until it covers image_size / crop_ratio.

    No more than that centre is computed: the result is that of resizing, then cropping.

    Pixels stay whole numbers: an image kept in memory as uint8, one read again from its file and
    one sent to a server are the same bits.

    Args:
        image: uint8 or float32 [h, w, 3], pixels 0..255.
        image_size: Height H and width W of the result; a number for both.
        crop_ratio: Share of the resized sides that is kept, in (0, 1].

    Returns:
        float32 [H, W, 3], whole numbers 0..255.
    """
    image_size = names.sides(image_size)
    sides = tuple(round(side / crop_ratio) for side in image_size)
    if tuple(image.shape[:2]) == image_size == sides:
        return tf.cast(image, tf.float32)  # what follows would change nothing, and cost half
    size = tf.shape(image)[:2]
    exact = tf.cast(size, tf.float64)
    new_size = tf.maximum(tf.round(exact * tf.reduce_max(sides / exact)), sides)
    scale = new_size / exact
    offset = (new_size - image_size) // 2  # of the centre, in the resized picture
    # Only the part of the image that its centre is made of is resized: of a strip of 100000 x 1
    # pixels, the whole would be 100000 times as large as the centre. The kernel reaches as far as
    # `reach` pixels of the image.
    reach = tf.maximum(1 / scale, 1.0) + 1
    begin = tf.maximum(tf.math.floor(offset / scale - reach), 0.0)
    end = tf.minimum(tf.math.ceil((offset + image_size) / scale + reach), exact)
    at, part = tf.cast(begin, tf.int32), tf.cast(end - begin, tf.int32)
    image = tf.slice(image, tf.concat([at, [0]], 0), tf.concat([part, [3]], 0))
    image = tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=image_size,
        scale=tf.cast(scale, tf.float32),
        translation=tf.cast(begin * scale - offset, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )[0]
    image = tf.clip_by_value(tf.round(image), 0.0, 255.0)
    return tf.ensure_shape(image, [*image_size, 3])


def augment(
    image: tf.Tensor, kind: str, image_size: int | tuple[int, int], seed: tf.Tensor
) -> tf.Tensor:
    """Make the training view of an image; the same seed gives the same view.

    Args:
        image: uint8 [h, w, 3].
        kind: "none", or parts joined by +, applied in the order of `names.PARTS`. "crop": pad 4
            black pixels, random crop; "flip": mirror every other one; "inception": random area (8
            to 100 %) and aspect (3/4 to 4/3 of that of the result), resized, mirrored; others: see
            `augmentation`.
        image_size: Height H and width W of the result; a number for both.
        seed: int [2], for stateless random operations.

    Returns:
        float32 [H, W, 3], whole numbers 0..255.
    """
    parts, image_size = names.parts(kind), names.sides(image_size)
    if "inception" in parts:
        image = _inception_crop(image, image_size, seed)
    else:
        image = evaluation(image, image_size, crop_ratio=1.0)
    if "crop" in parts:
        image = _pad_and_crop(image, image_size, seed)
    if "flip" in parts:
        image = _maybe_flip(image, seed)
    for stream, (name, vary) in enumerate(augmentation.PARTS.items(), start=2):
        if name in parts:
            image = vary(image, tf.random.fold_in(seed, stream), *parts[name])
    return image


def _resize(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    image = tf.image.resize(image, size, antialias=True)  # bilinear
    return tf.clip_by_value(tf.round(image), 0.0, 255.0)


def _pad_and_crop(image: tf.Tensor, image_size: tuple[int, int], seed: tf.Tensor) -> tf.Tensor:
    margin = [PADDING, PADDING]
    image = tf.pad(image, [margin, margin, [0, 0]])
    begin = tf.random.stateless_uniform([2], seed, 0, 2 * PADDING + 1, tf.int32)
    return tf.slice(image, tf.concat([begin, [0]], 0), [*image_size, 3])


def _inception_crop(image: tf.Tensor, image_size: tuple[int, int], seed: tf.Tensor) -> tf.Tensor:
    wide = image_size[1] / image_size[0]
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros([1, 0, 4]),
        seed,
        min_object_covered=0.0,  # the default of 0.1 would cut the smallest areas away
        area_range=AREA,
        aspect_ratio_range=[aspect * wide for aspect in ASPECT],
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    size = tf.concat([size[:2], [3]], 0)
    image = _resize(tf.slice(image, begin, size), image_size)
    return tf.ensure_shape(image, [*image_size, 3])


def _maybe_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    # Another stream than the crop's: else the mirror image would depend on the offset.
    coin = tf.random.stateless_uniform([], tf.random.fold_in(seed, 1))
    return tf.where(coin < 0.5, tf.reverse(image, [1]), image)
