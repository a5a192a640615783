"""What a SavedModel sees of pictures as people have them: the same as evaluation."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.pictures import PICTURES, READABLE, REFUSED
from xkd_keras.data import preparation
from xkd_keras.ship import savedmodel

SIDE = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A SavedModel whose logits are the pixels that reach its network."""
    path = tmp_path_factory.mktemp("pixels") / "seen" / "1"
    inputs = keras.Input((SIDE, SIDE, 3))
    network = keras.Model(inputs, keras.layers.Flatten()(inputs))
    names = [f"pixel {i}" for i in range(SIDE * SIDE * 3)]
    example = np.zeros((SIDE, SIDE, 3), np.uint8)
    savedmodel.write(path, {"a": network}, {"a": 1.0}, names, 1.0, example, "seen")
    return savedmodel.Caller(path)


def test_the_network_sees_what_a_person_sees(model):
    answers = model.of_bytes([picture.content for picture in READABLE.values()])
    for picture, found in zip(READABLE.values(), answers["logits"], strict=True):
        seen = preparation.evaluation(tf.constant(picture.seen), SIDE, 1.0)
        found = found.reshape(SIDE, SIDE, 3)
        assert np.abs(found - seen).max() <= picture.rounding


@pytest.mark.parametrize("name", REFUSED)
def test_a_picture_that_is_too_large_is_an_error_of_the_request(model, name):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"The image has .*; valid: sides"):
        model.of_bytes([PICTURES[name].content])


def test_only_operations_of_tensorflow_are_in_the_file(model):
    graph = model._loaded.signatures["serving_bytes"].graph.as_graph_def()
    nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
    assert {"PyFunc", "EagerPyFunc", "PyFuncStateless"}.isdisjoint(node.op for node in nodes)
