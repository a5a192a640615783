"""The tf_keras twin of a Keras 3 network: the same logits, laid flat, ready for tfmot."""

import keras
import numpy as np
import pytest
import tf_keras

from xkd_keras import peers
from xkd_keras.compression import twin
from xkd_keras.errors import InputError
from xkd_keras.peers import densenet, resnet


def pixels(n, side=32):
    return np.float32(np.random.default_rng(5).integers(0, 256, (n, side, side, 3)))


@pytest.mark.parametrize(
    "name",
    [
        "alexnet",
        "resnet20",
        pytest.param("mobilenet_v2", marks=pytest.mark.slow),
        pytest.param("densenet-bc-40-12", marks=pytest.mark.slow),
    ],
)
def test_a_twin_has_the_logits_the_names_and_what_is_frozen(name):
    model = peers.build(name, (32, 32, 3), 7, seed=1)
    copied = twin.twin(model)
    expected = model.predict(pixels(4), verbose=0)
    np.testing.assert_allclose(copied.predict(pixels(4), verbose=0), expected, rtol=1e-4, atol=1e-4)
    assert {layer.name for layer in model.layers} <= {layer.name for layer in copied.layers}
    assert not copied.get_layer("normalize").trainable
    learned = [tuple(v.shape) for v in copied.trainable_variables]
    assert learned == [tuple(v.shape) for v in model.trainable_variables]


def test_a_batch_norm_that_cannot_be_folded_gets_an_identity_before_it(monkeypatch):
    monkeypatch.setitem(densenet.VARIANTS, "densenet-bc-40-12", (16, 12))  # small: two a block
    monkeypatch.setitem(resnet.VARIANTS, "resnet20", 1)
    model = peers.build("densenet-bc-40-12", (32, 32, 3), 7, seed=1)
    added = [each for each in twin.twin(model).layers if each.name.endswith("_identity")]
    # Six convolutions follow a batch norm of what was concatenated; so do two transitions and the
    # classifier, of which all but the bottlenecks' second batch norms have no convolution to join.
    norms = [each for each in model.layers if isinstance(each, keras.layers.BatchNormalization)]
    inside = [
        each
        for each in norms
        if len(each.input._keras_history.operation._outbound_nodes) > 1
        or not isinstance(each.input._keras_history.operation, keras.layers.Conv2D)
    ]
    assert len(added) == len(inside) > 0
    assert all(not each.trainable for each in added)
    assert not [
        each
        for each in twin.twin(peers.build("resnet20", (32, 32, 3), 7)).layers
        if each.name.endswith("_identity")
    ]


def test_models_within_a_model_are_laid_flat():
    inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv")])
    shared = keras.layers.Dense(4, name="shared")
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(inner(inputs))
    outputs = keras.layers.Add()([shared(x), shared(shared(x))])
    copied = twin.twin(keras.Model(inputs, outputs))
    assert not [each for each in copied.layers if isinstance(each, tf_keras.Model)]
    assert len([each for each in copied.layers if isinstance(each, tf_keras.layers.Dense)]) == 1


def test_a_layer_without_counterpart_is_told():
    inputs = keras.Input((8, 8, 3))
    x = keras.ops.exp(keras.layers.Flatten()(inputs))
    with pytest.raises(InputError, match=r"the layer 'exp\w*' .* has no counterpart in tf_keras"):
        twin.twin(keras.Model(inputs, keras.layers.Dense(2)(x)))
