"""Initial weights as a function of a seed and a name, not of what was built before."""

import contextlib
import random

import numpy as np


@contextlib.contextmanager
def seeded(seed: int | None, label: str):
    """Draw from `random` and `numpy.random` as (seed, label) say, then put both back as they were.

    Keras takes the seed of every initializer and dropout layer that was given none from Python's
    `random`, at the moment the layer is made. (`keras.utils.set_random_seed` would reseed the whole
    process, for good.)

    Args:
        seed: None draws as if this were not here.
        label: Two labels give different numbers.
    """
    if seed is None:
        yield
        return
    before, numpy_before = random.getstate(), np.random.get_state()
    random.seed(f"{seed}/{label}")  # a string is hashed with SHA-512: the same everywhere
    np.random.seed(random.getrandbits(32))
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)
