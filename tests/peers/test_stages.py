"""Where stages end and graphs are cut: the papers' tables, and networks drawn for the purpose."""

import functools

import keras
import numpy as np
import pytest

from xkd_keras import peers
from xkd_keras.distillation import inside, recompute, similar
from xkd_keras.peers import stages


@pytest.fixture(scope="module")
def built():
    """Builds a network by its name, once for all tests: they only look at it."""
    return functools.cache(lambda name, side=32: peers.build(name, (side, side, 3), 5))


@pytest.fixture(scope="module")
def trained(built):
    """Returns such a network as it is trained."""
    return functools.cache(lambda name, side=32: peers.fused(built(name, side)))


@pytest.mark.parametrize(
    ("name", "side", "resolutions"),
    [
        ("alexnet", 32, [8, 4]),
        ("vgg11", 32, [32, 16, 8, 4]),
        ("resnet20", 32, [32, 16]),
        ("densenet-bc-40-12", 32, [32, 16]),
        ("wrn-16-2", 32, [32, 16]),
        ("mobilenet_v2", 32, [32, 16, 8]),
        ("imagenet_resnet18", 64, [32, 16, 8, 4]),
        ("imagenet_mobilenet_v3", 64, [32, 16, 8, 4]),
    ],
)
def test_every_family_has_the_stages_of_its_table(built, trained, name, side, resolutions):
    model = built(name, side)
    found = [model.get_layer(layer).output.shape[1] for layer in stages.ends(model)]
    assert found == resolutions
    assert stages.ends(trained(name, side)) == stages.ends(model)


@pytest.mark.parametrize(
    "name", ["alexnet", "vgg11", "resnet20", "densenet-bc-40-12", "mobilenet_v2"]
)
def test_every_family_has_features_also_as_it_is_trained(trained, name):
    peer = trained(name)
    found = similar.features(peer)
    assert found is not None
    inner = keras.Model(peer.inputs[0], found)
    values = inner(np.zeros((2, 32, 32, 3), "float32"))
    head = next(each for each in reversed(peer.layers) if each.weights)
    want = peer(np.zeros((2, 32, 32, 3), "float32"))
    np.testing.assert_allclose(np.asarray(head(values)).reshape(2, -1), want, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet20", "densenet-bc-40-12", "vgg11", "mobilenet_v2"])
def test_networks_of_every_kind_are_cut_where_everything_goes_through(built, name):
    found = stages.cuts(built(name))
    assert len(found) >= 2
    assert set(found) <= set(inside.calls(built(name)))
    recompute.forward(built(name), (), found)


def branched():
    """Two branches, one a layer longer, between two resolutions; then two stages in one branch."""
    image = keras.Input((16, 16, 3))
    conv = keras.layers.Conv2D
    x = conv(4, 3, padding="same", name="stem")(image)
    long = conv(4, 3, padding="same", name="long2")(conv(4, 3, padding="same", name="long1")(x))
    x = keras.layers.Add(name="joined")([x, long])
    x = keras.layers.ZeroPadding2D(1, name="pad")(x)
    x = conv(8, 3, strides=2, name="down")(x)
    low = conv(8, 3, strides=2, padding="same", name="low")(x)
    high = keras.layers.UpSampling2D(2, name="up")(low)
    x = keras.layers.Concatenate(name="both")([x, high])
    x = conv(8, 3, strides=2, padding="same", name="last")(x)
    return keras.Model(image, keras.layers.Dense(5)(keras.layers.Flatten()(x)))


def test_a_stage_ends_where_its_branches_have_joined_and_before_padding():
    assert stages.ends(branched()) == ["joined", "both"]


def test_an_operator_may_end_a_stage_but_no_layer_that_is_called_several_times():
    image = keras.Input((16, 16, 3))
    conv = functools.partial(keras.layers.Conv2D, 4, 3, padding="same")
    relu = keras.layers.ReLU(name="relu")
    x = relu(conv(name="one")(image))
    x = relu(conv(strides=2, name="two")(x))
    x = x + conv(name="branch")(x)
    model = keras.Model(image, conv(strides=2, name="three")(x))
    first, second = stages.ends(model)
    assert first == "one"
    assert second.startswith("add")


def test_a_sequential_model_has_stages_and_one_without_a_graph_has_none():
    layers = [keras.layers.Conv2D(4, 3, strides=2, name=name) for name in ("one", "two")]
    model = keras.Sequential([keras.Input((16, 16, 3)), *layers, keras.layers.Flatten()])
    assert stages.ends(model) == ["one"]

    class Own(keras.Model):
        def call(self, x):
            return x

    assert stages.ends(Own()) == []
