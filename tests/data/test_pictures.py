"""What training and evaluation see of pictures as people have them."""

import numpy as np
import pytest
import tensorflow as tf

from tests.pictures import PICTURES, READABLE, REFUSED
from xkd_keras.data import preparation

DECODE = tf.function(preparation.decode, input_signature=[tf.TensorSpec([], tf.string)])


def close(found, seen, rounding):
    assert found.shape == seen.shape
    assert np.abs(found.astype(int) - seen).max() <= rounding


@pytest.mark.parametrize("name", READABLE)
def test_a_picture_is_decoded_as_a_person_sees_it(name):
    picture = PICTURES[name]
    close(DECODE(picture.content).numpy(), picture.seen, picture.rounding)


@pytest.mark.parametrize("name", REFUSED)
def test_a_picture_that_is_too_large_is_refused(name):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"The image has .*; valid: sides"):
        DECODE(PICTURES[name].content)
