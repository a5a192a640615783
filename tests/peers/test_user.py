"""A user's own network as a peer: joined to ours, seeded, and every mistake named in one line."""

import importlib
import re
import sys

import keras
import numpy as np
import pytest

from xkd_keras import Cohort, peers
from xkd_keras.errors import InputError
from xkd_keras.peers import graphs, user
from xkd_keras.peers import layers as of_peers

OWN = """
import keras
from keras import layers

def functional(shape, classes):
    image = keras.Input(shape)
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(image))
    x = layers.Lambda(lambda t: t * 2.0)(x) + image[..., :1]
    x = layers.Dropout(0.3)(x)
    return keras.Model(image, layers.Dense(classes, name="logits")(layers.Flatten()(x)))

def sequential(shape, classes):
    return keras.Sequential([layers.Flatten(), layers.Dense(classes)])

def clash(shape, classes):
    image = keras.Input(shape)
    x = layers.Conv2D(4, 3, name="normalize")(image)
    return keras.Model(image, layers.Dense(classes)(layers.GlobalMaxPooling2D()(x)))

class Subclassed(keras.Model):
    def __init__(self, classes, **options):
        super().__init__(**options)
        self.classes, self.dense = classes, layers.Dense(classes)
    def call(self, x):
        return self.dense(keras.ops.mean(x, axis=(1, 2)))
    def get_config(self):
        return {**super().get_config(), "classes": self.classes}

class Scaled(keras.Model):
    def call(self, x, training=None):
        return super().call(x / 9.0, training=training)

def scaled(shape, classes):
    image = keras.Input(shape)
    return Scaled(image, layers.Dense(classes)(layers.Flatten()(image)))

def subclassed(shape, classes):
    return Subclassed(classes)

class Unsavable(Subclassed):
    def get_config(self):
        raise NotImplementedError("no config")

def unsavable(shape, classes):
    return Unsavable(classes)

def fails(shape, classes):
    return {}["missing"]

def wrong_input(shape, classes):
    image = keras.Input((8, 8, 7))
    return keras.Sequential([image, layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(classes)])

def not_a_model(shape, classes):
    return layers.Dense(classes)

def too_many(shape, classes):
    return sequential(shape, classes + 1)

def a_map(shape, classes):
    return keras.Sequential([layers.Conv2D(classes, 3)])

def two_heads(shape, classes):
    image = keras.Input(shape)
    x = layers.Flatten()(image)
    return keras.Model(image, [layers.Dense(classes)(x), layers.Dense(classes)(x)])

def softmax(shape, classes):
    return keras.Sequential([layers.Flatten(), layers.Dense(classes, "softmax")])

nothing = None
"""
SHAPE = (8, 8, 3)


@pytest.fixture(autouse=True)
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_peers.py").write_text(OWN)
    (tmp_path / "broken_peers.py").write_text("import keras\nraise OSError('disk on fire')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        sys, "path", [p for p in sys.path if p]
    )  # what is added is put back afterwards
    yield
    for name in ("own_peers", "broken_peers"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("function", ["functional", "sequential", "clash", "scaled", "subclassed"])
def test_the_users_model_sees_normalised_images(function):
    model = peers.build(f"own_peers:{function}", SHAPE, 5, mean=100.0, std=50.0, seed=1)
    assert model.name == f"own_peers.{function}"
    assert (model.layers[1].name, model.layers[-1].name) == ("normalize", "logits")
    nested = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    assert len(nested) == (function in ("clash", "scaled", "subclassed"))
    own = importlib.import_module("own_peers")
    theirs = getattr(own, function)(SHAPE, 5)
    x = np.random.default_rng(0).uniform(0, 255, (3, *SHAPE)).astype("float32")
    normalised = (x - 100.0) / 50.0
    theirs(normalised)
    theirs.set_weights(model.get_weights()[2:])  # after the two of `normalize`
    np.testing.assert_allclose(model(x), theirs(normalised), atol=1e-5)
    assert Cohort([model], similarity=1.5).similar  # whether its graph can be opened or not


def test_the_users_weights_are_seeded_by_label_too():
    def kernel(**options):
        model = peers.build("own_peers:functional", SHAPE, 5, **options)
        return keras.ops.convert_to_numpy(model.layers[-1].kernel)

    np.testing.assert_array_equal(kernel(seed=1, label="a"), kernel(seed=1, label="a"))
    assert not np.allclose(kernel(seed=1, label="a"), kernel(seed=1, label="b"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "own_pears:functional",
            "peer: cannot import module 'own_pears' of 'own_pears:functional' (ModuleNotFound",
        ),
        ("own_pears:functional", "Did you mean 'own_peers'?"),
        (
            "broken_peers:f",
            "peer: cannot import module 'broken_peers' of 'broken_peers:f' (OSError: disk on fire)",
        ),
        (
            "own_peers:functionl",
            "function in 'own_peers': unknown value 'functionl'. Did you mean 'functional'?",
        ),
        ("own_peers:nothing", "function in 'own_peers': unknown value 'nothing';"),
        (
            "own_peers:",
            "peer: received 'own_peers:'; valid for a network of your own: 'your_module",
        ),
    ],
)
def test_check_names_what_cannot_be_found(name, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        peers.check(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fails", "own_peers:fails((8, 8, 3), 5) raised KeyError: 'missing'"),
        (
            "wrong_input",
            "the model of own_peers:wrong_input cannot be called on images (8, 8, 3): ValueError",
        ),
        (
            "not_a_model",
            "own_peers:not_a_model returned Dense; valid: a Keras model that returns logits",
        ),
        ("too_many", "own_peers:too_many returned a model of 6 logits; there are 5 classes"),
        ("a_map", "own_peers:a_map returned a model of output shape (None, 6, 6, 5)"),
        ("two_heads", "own_peers:two_heads returned a model with 2 outputs"),
        (
            "softmax",
            "the outputs of own_peers:softmax are probabilities; valid: logits, so remove",
        ),
        (
            "unsavable",
            "the model of own_peers:unsavable cannot be saved (NotImplementedError: no config)",
        ),
    ],
)
def test_build_names_what_is_wrong(function, message):
    peers.check(f"own_peers:{function}")  # cheap: builds nothing, so cannot know
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        peers.build(f"own_peers:{function}", SHAPE, 5)
    assert "\n" not in str(caught.value)


def test_fused_keeps_the_users_layers_lambdas_and_dropout():
    model = peers.build("own_peers:functional", SHAPE, 5, seed=2)
    x = np.random.default_rng(1).uniform(0, 255, (4, *SHAPE)).astype("float32")
    twin = peers.fused(model)
    assert twin is not model
    assert [layer.name for layer in twin.layers] == [layer.name for layer in model.layers]
    expected = [model(x, training=True), model(x, training=True), model(x)]
    got = [twin(x, training=True), twin(x, training=True), twin(x)]
    for a, b in zip(expected, got, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert np.abs(expected[0] - expected[1]).max() > 0.01  # dropout: the state moves, in both alike


def test_a_subclassed_model_passes_unchanged():
    model = peers.build("own_peers:subclassed", SHAPE, 5)
    assert peers.fused(model) is model
    assert peers.stock(model) is model
    bare = importlib.import_module("own_peers").Subclassed(3)
    assert peers.fused(bare) is bare


def test_a_network_that_normalises_again_is_found_also_within_another():
    rescaling = keras.layers.Rescaling(1 / 255, name="again")
    pixels, x = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    normalised = of_peers.normalize(pixels, [100.0] * 3, [50.0] * 3)
    flat = keras.Sequential([rescaling, keras.layers.Flatten(), keras.layers.Dense(2)])
    inner = keras.Model(x, keras.layers.Flatten()(rescaling(x)))
    for model, expected in (
        (keras.Model(pixels, flat(normalised)), "again"),
        (keras.Model(pixels, keras.layers.Dense(2)(inner(normalised))), "again"),
        (keras.Model(pixels, rescaling(normalised)), "again"),
        (keras.Model(pixels, keras.layers.Flatten()(normalised)), ""),
        (keras.Model(pixels, keras.layers.Flatten()(pixels)), ""),
    ):
        assert graphs.normalises_again(model) == expected


@pytest.mark.parametrize("function", ["functional", "sequential", "clash"])
@pytest.mark.parametrize("classes", [5, 3])
def test_the_users_network_starts_from_weights_that_keras_saved_of_it_alone(function, classes):
    theirs = user.alone(f"own_peers:{function}", SHAPE, 5)
    x = np.random.default_rng(0).uniform(0, 255, (3, *SHAPE)).astype("float32")
    theirs.save_weights("w.weights.h5")
    start = {"start": "w.weights.h5"}
    with pytest.raises(InputError, match=r"^pixels: missing"):
        peers.build(f"own_peers:{function}", SHAPE, classes, **start)
    model = peers.build(f"own_peers:{function}", SHAPE, classes, pixels="0..1", **start)
    assert model.output_shape == (None, classes)
    if classes == 5:
        np.testing.assert_allclose(model(x), theirs(x / 255), rtol=1e-4, atol=1e-4)


def test_weights_of_another_network_do_not_fit_the_users():
    user.alone("own_peers:sequential", SHAPE, 5).save_weights("w.weights.h5")
    with pytest.raises(InputError, match=r"w\.weights\.h5' does not fit own_peers:functional"):
        peers.build("own_peers:functional", SHAPE, 5, start="w.weights.h5", pixels="0..1")
