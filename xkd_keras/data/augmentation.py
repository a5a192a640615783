"""What training images go through beside crops: colours, small turns, RandAugment, erasing.

Pure functions that run inside a graph. Images are float32 [H, W, 3] with pixels 0..255, and so are
results. Those that take a seed (int [2]) are random, and the same for the same seed.
"""

import math

import tensorflow as tf

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow's "L"
JITTER = 0.4  # of brightness, contrast and saturation: factors of 1 - JITTER to 1 + JITTER
HUE = 0.05  # of the circle of hues, either way
ANGLE = 15.0  # degrees either way
# Random erasing as in the paper's experiments: how often, share of the area, aspect.
ERASED, ERASED_AREA, ERASED_ASPECT = 0.5, (0.02, 0.4), (0.3, 1 / 0.3)
_TRIES = 10  # to find a rectangle that fits
# RandAugment at magnitude 10: degrees, shear, share of the side (150 of 331 pixels), of a factor.
_TURN, _SHEAR, _SHIFT, _FACTOR = 30.0, 0.3, 150 / 331, 0.9


def blend(base: tf.Tensor, image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Return base + factor (image - base), within 0..255; a factor above 1 goes beyond the image.

    Haeberli and Voorhies, "Image processing by interpolation and extrapolation", 1994.
    """
    return tf.clip_by_value(base + factor * (image - base), 0.0, 255.0)


def brightness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Return the image between black (factor 0) and itself (1), or brighter."""
    return blend(tf.zeros_like(image), image, factor)


def contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Return the image between its mean grey (factor 0) and itself (1), or with more contrast."""
    return blend(tf.reduce_mean(grey(image)), image, factor)


def saturation(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Return the image between its greys (factor 0) and itself (1), or more colourful."""
    return blend(grey(image), image, factor)


def sharpness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Return the image between a smoothed one (factor 0) and itself (1), or sharper.

    Smoothed is each pixel but those of the border: (its 8 neighbours + 5 times itself) / 13, as in
    Pillow's `ImageEnhance.Sharpness`.
    """
    kernel = tf.constant([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]]) / 13.0
    kernel = tf.tile(kernel[:, :, None, None], [1, 1, 3, 1])
    inner = tf.nn.depthwise_conv2d(image[None], kernel, [1, 1, 1, 1], "VALID")[0]
    inside = tf.pad(tf.ones_like(inner, tf.bool), [[1, 1], [1, 1], [0, 0]])
    smooth = tf.where(inside, tf.pad(inner, [[1, 1], [1, 1], [0, 0]]), image)
    return blend(smooth, image, factor)


def grey(image: tf.Tensor) -> tf.Tensor:
    """Return the luma of an image: float32 [H, W, 1]."""
    return tf.reduce_sum(image * tf.constant(GREY), axis=-1, keepdims=True)


def hue(image: tf.Tensor, turn: tf.Tensor) -> tf.Tensor:
    """Return the image with its hues (of HSV) moved by `turn` of the circle, in -1..1."""
    return 255.0 * tf.raw_ops.AdjustHue(images=image / 255.0, delta=turn)


def autocontrast(image: tf.Tensor) -> tf.Tensor:
    """Return each channel stretched to 0..255; one that is constant stays."""
    low = tf.reduce_min(image, axis=[0, 1])
    width = tf.reduce_max(image, axis=[0, 1]) - low
    return tf.where(width > 0, (image - low) * tf.math.divide_no_nan(255.0, width), image)


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Return each channel with an even histogram, computed as Pillow's `ImageOps.equalize`."""
    pixels = tf.cast(tf.round(image), tf.int32)
    channels = [_equalized(pixels[..., i]) for i in range(3)]
    return tf.cast(tf.stack(channels, axis=-1), tf.float32)


def _equalized(pixels: tf.Tensor) -> tf.Tensor:
    counts = tf.math.bincount(tf.reshape(pixels, [-1]), minlength=256, maxlength=256)
    step = (tf.size(pixels) - counts[tf.reduce_max(pixels)]) // 255
    table = (step // 2 + tf.cumsum(counts, exclusive=True)) // tf.maximum(step, 1)
    table = tf.where(step > 0, tf.minimum(table, 255), tf.range(256))
    return tf.gather(table, pixels)


def moved(image: tf.Tensor, matrix: tuple, shift: tuple = (0.0, 0.0)) -> tf.Tensor:
    """Return an image moved about its centre, bilinear; what comes from outside is its reflection.

    (The papers fill with grey or black; a reflection has no border that a network could learn.)

    Args:
        image: float32 [H, W, 3].
        matrix: (a, b, c, d): the result's (x, y), counted from the centre, shows the image's
            (a x + b y, c x + d y).
        shift: (x, y) in pixels, added to that.
    """
    a, b, c, d = matrix
    x, y = ((tf.cast(tf.shape(image)[axis], tf.float32) - 1.0) / 2.0 for axis in (1, 0))
    right, down = x - a * x - b * y + shift[0], y - c * x - d * y + shift[1]
    transform = tf.stack([tf.cast(v, tf.float32) for v in (a, b, right, c, d, down, 0.0, 0.0)])
    result = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=transform[None],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )[0]
    return tf.ensure_shape(result, image.shape)


def turned(image: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """Return the image turned about its centre, anticlockwise."""
    angle = degrees * math.pi / 180.0
    cosine, sine = tf.cos(angle), tf.sin(angle)
    return moved(image, (cosine, -sine, sine, cosine))


def rotate(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Turn an image by up to `ANGLE` degrees either way; whole numbers."""
    degrees = tf.random.stateless_uniform([], seed, -ANGLE, ANGLE)
    return _whole(turned(image, degrees))


def colour(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Vary brightness, contrast, saturation and hue, in this order; whole numbers.

    Howard, "Some improvements on deep convolutional neural network based image classification",
    2013, section 2.2 (brightness, contrast, colour, each up to 0.5); with hue as in torchvision.
    """
    low, high = 1.0 - JITTER, 1.0 + JITTER
    factors = tf.random.stateless_uniform([3], seed, low, high)
    image = brightness(image, factors[0])
    image = contrast(image, factors[1])
    image = saturation(image, factors[2])
    turn = tf.random.stateless_uniform([], tf.random.fold_in(seed, 1), -HUE, HUE)
    return _whole(hue(image, turn))


def erase(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Fill a rectangle of every other image with noise; whole numbers.

    Zhong et al., "Random erasing data augmentation", AAAI 2020, algorithm 1, with the values of its
    section 4 (p 0.5, area 2 to 40 %, aspect 0.3 to 3.3, random values). Of `_TRIES` rectangles the
    first that fits is taken; where none does, the image stays.
    """
    height, width = (tf.cast(tf.shape(image)[axis], tf.float32) for axis in (0, 1))
    drawn = tf.random.stateless_uniform([_TRIES, 4], seed)
    area = height * width * (ERASED_AREA[0] + drawn[:, 0] * (ERASED_AREA[1] - ERASED_AREA[0]))
    aspect = ERASED_ASPECT[0] + drawn[:, 1] * (ERASED_ASPECT[1] - ERASED_ASPECT[0])
    high, wide = tf.round(tf.sqrt(area * aspect)), tf.round(tf.sqrt(area / aspect))
    fits = (high < height) & (wide < width)
    first = tf.argmax(fits)  # 0 where none fits
    high, wide = high[first], wide[first]
    top = tf.floor(drawn[first, 2] * (height - high + 1.0))
    left = tf.floor(drawn[first, 3] * (width - wide + 1.0))
    rows, columns = tf.range(height), tf.range(width)
    inside = ((rows >= top) & (rows < top + high))[:, None]
    inside &= ((columns >= left) & (columns < left + wide))[None, :]
    coin = tf.random.stateless_uniform([], tf.random.fold_in(seed, 1))
    inside &= tf.reduce_any(fits) & (coin < ERASED)
    noise = tf.random.stateless_uniform(
        tf.shape(image), tf.random.fold_in(seed, 2), 0, 256, tf.int32
    )
    return tf.where(inside[:, :, None], tf.cast(noise, tf.float32), image)


def operations(image: tf.Tensor, strength: tf.Tensor) -> dict:
    """Return the operations of RandAugment on an image, by name, as functions of nothing.

    Args:
        image: float32 [H, W, 3].
        strength: Scalar in -1..1: magnitude / 10, with its sign.

    Returns:
        Twelve of the paper's fourteen, with the ranges of AutoAugment. Solarize and posterize are
        left out: no camera does either. A factor is 1 + 0.9 strength, so that 0 changes nothing.
    """
    shift = strength * _SHIFT
    height, width = (tf.cast(tf.shape(image)[axis], tf.float32) for axis in (0, 1))
    factor, shear = 1.0 + _FACTOR * strength, _SHEAR * strength
    same = (1.0, 0.0, 0.0, 1.0)
    return {
        "identity": lambda: image,
        "autocontrast": lambda: autocontrast(image),
        "equalize": lambda: equalize(image),
        "rotate": lambda: turned(image, _TURN * strength),
        "saturation": lambda: saturation(image, factor),
        "contrast": lambda: contrast(image, factor),
        "brightness": lambda: brightness(image, factor),
        "sharpness": lambda: sharpness(image, factor),
        "shear_x": lambda: moved(image, (1.0, shear, 0.0, 1.0)),
        "shear_y": lambda: moved(image, (1.0, 0.0, shear, 1.0)),
        "translate_x": lambda: moved(image, same, (shift * width, 0.0)),
        "translate_y": lambda: moved(image, same, (0.0, shift * height)),
    }


def randaugment(image: tf.Tensor, seed: tf.Tensor, count: int, magnitude: int) -> tf.Tensor:
    """Apply `count` operations, drawn with replacement, one after the other; whole numbers.

    Cubuk et al., "RandAugment", NeurIPS 2020, figure 2: N operations of one magnitude M on
    AutoAugment's scale of 0 to 10. (ImageNet: 2, 9; CIFAR-10: 3, 4 to 5.)

    Args:
        image: float32 [H, W, 3].
        seed: int [2].
        count: N.
        magnitude: M.
    """
    for i in range(count):
        drawn = tf.random.stateless_uniform([2], tf.random.fold_in(seed, i))
        strength = tf.where(drawn[1] < 0.5, -magnitude / 10, magnitude / 10)
        choices = list(operations(image, strength).values())
        which = tf.minimum(tf.cast(drawn[0] * len(choices), tf.int32), len(choices) - 1)
        image = _whole(tf.switch_case(which, choices))
    return image


def _whole(image: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(tf.round(image), 0.0, 255.0)


# Those that `preparation.augment` applies after crops, in this order. Their place is part of their
# seed: a new one comes last.
PARTS = {"rotate": rotate, "colour": colour, "randaugment": randaugment, "erase": erase}
