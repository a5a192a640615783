"""What to do about classes that have few images: let each image count more, or show it more often.

Balanced weights are those of King and Zeng, "Logistic Regression in Rare Events Data", 2001, as
scikit-learn's `compute_class_weight` has them.
"""

import numpy as np
import tensorflow as tf

SAMPLINGS = ("plain", "balanced")


def class_weights(kind: str, labels: np.ndarray, classes: int) -> np.ndarray | None:
    """Return how much an image of each class counts; the mean over the images is 1.

    balanced: n / (C n_c), of n images in C classes that have any, n_c of class c. sqrt: the square
    root of that, divided by its mean over the images.

    Args:
        kind: none, balanced or sqrt.
        labels: int [n], of the training images.
        classes: How many there are.

    Returns:
        float32 [classes], 0 for a class without images; None for "none".
    """
    if kind == "none":
        return None
    counts = np.bincount(labels, minlength=classes)
    rare = np.where(counts > 0, 1.0 / np.maximum(counts, 1), 0.0)
    rare = np.sqrt(rare) if kind == "sqrt" else rare
    return np.float32(rare * counts.sum() / (rare * counts).sum())


def drawn(positions: tf.Tensor, labels: np.ndarray, key: tf.Tensor) -> tf.Tensor:
    """Return positions of as many images of every class: of rare ones, some or all several times.

    A class with m images gives ceil(n / C) of them: all of them as often as it goes, and then some
    drawn at random.

    Args:
        positions: int64 [n].
        labels: int [n], their classes; C of them have images.
        key: int [2]; the same key draws the same.

    Returns:
        int64 [C ceil(n / C)], class by class.
    """
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    firsts = np.cumsum(counts) - counts
    each = -(-len(labels) // len(counts))
    # Sorted by class, and at random within a class.
    places = tf.random.stateless_uniform([len(labels)], key, dtype=tf.float64)
    order = tf.argsort(tf.cast(labels, tf.float64) + places, stable=True)
    chosen = firsts[:, None] + np.arange(each) % counts[:, None]
    return tf.gather(positions, tf.gather(order, chosen.reshape(-1)))
