"""Stratified, seeded choices among labelled examples. NumPy in, NumPy out."""

import numpy as np

from xkd_keras.errors import InputError

# Held-out images stay whatever the seed: no seed's model has seen another's test images.
FIXED_SEED = 20190421
TRAIN_VALIDATION_TEST = (0.7, 0.1, 0.2)


def three(validation: float) -> tuple[float, float, float]:
    """Return the shares of train, validation and test where nothing is cut already.

    Raises:
        InputError: Nothing would be left of train.
    """
    test = TRAIN_VALIDATION_TEST[-1]
    if validation >= 1 - test:
        raise InputError(
            f"received {validation:g}; valid: below {1 - test:g}, because {test:g} is held out"
            " for the test.",
            argument="validation_fraction",
        )
    return round(1 - test - validation, 9), validation, test


def stratified_split(
    labels: np.ndarray, fractions: tuple[float, ...], seed: int
) -> tuple[np.ndarray, ...]:
    """Cut examples into parts that share every class out in the same proportions.

    Args:
        labels: int [n], the class of each example.
        fractions: Share of each part; they add up to 1.
        seed: Decides which examples go where.

    Returns:
        One ascending int64 array of positions per part; together every position once. A class of
        fewer examples than there are parts leaves some parts without one.
    """
    parts = [[] for _ in fractions]
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = members[_generator(seed, int(label)).permutation(len(members))]
        ends = np.cumsum(_shares(len(members), fractions))
        for part, chosen in zip(parts, np.split(members, ends[:-1]), strict=True):
            part.append(chosen)
    return tuple(_ascending(part) for part in parts)


def stratified_subset(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Choose `count` examples, each class in proportion to its size and none left out.

    Args:
        labels: int [n], the class of each example.
        count: How many; from the number of classes present up to n.
        seed: Decides which.

    Returns:
        Ascending int64 array [count] of positions.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    shares = _shares(count, tuple(sizes / sizes.sum()))
    chosen = [
        np.flatnonzero(labels == label)[_generator(seed, int(label)).permutation(size)[:share]]
        for label, size, share in zip(classes, sizes, shares, strict=True)
    ]
    return _ascending(chosen)


def _shares(total: int, fractions: tuple[float, ...]) -> np.ndarray:
    """Whole numbers near total * fractions that add up to total; none is 0 while total allows."""
    wanted = total * np.asarray(fractions)
    shares = np.floor(wanted + 1e-9).astype(np.int64)
    if total >= len(fractions):
        shares = np.maximum(shares, 1)
    while shares.sum() < total:  # at most one turn a part: floor lost less than one each
        shares[np.argmax(wanted - shares)] += 1
    while shares.sum() > total:
        excess = np.where(shares > 1, shares - wanted, -np.inf)
        shares[np.argmax(excess)] -= 1
    return shares


def _generator(seed: int, label: int) -> np.random.RandomState:
    # RandomState's stream is frozen for ever; default_rng's may change between NumPy versions.
    return np.random.RandomState([seed % 2**32, label])


def _ascending(chosen: list[np.ndarray]) -> np.ndarray:
    return np.sort(np.concatenate(chosen)).astype(np.int64) if chosen else np.zeros(0, np.int64)


def uneven(counts) -> bool:
    """Whether the largest class has at least three times the images of the smallest.

    Args:
        counts: int [classes].
    """
    return len(counts) > 0 and max(counts) >= 3 * max(min(counts), 1)
