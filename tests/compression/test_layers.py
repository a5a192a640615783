"""What users' networks are made of, from Keras through each recipe to a file that is run back."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests import statistics
from tests.compression.untuned import Watched
from xkd_keras import peers
from xkd_keras.compression import passes, quantizing, twin
from xkd_keras.errors import InputError
from xkd_keras.ship import lite

L = keras.layers
SIDE, CLASSES = 8, 5
QUICK = "arithmetic", "resizing"  # two kinds of which the usual tests make files


def images(n=64, side=SIDE, seed=3):
    """Return stripes of five widths with noise: pixels whose classes differ."""
    rng = np.random.default_rng(seed)
    angles = np.arange(side) * (np.arange(n) % CLASSES + 1)[:, None]
    stripes = 128 + 70 * np.sin(angles)[:, :, None, None]
    return np.float32(np.clip(stripes + rng.normal(0, 30, (n, side, side, 3)), 0, 255))


def network(*layers, head=()):
    """Return pixels -> layers -> flattened -> head -> logits, of random weights."""
    inputs = keras.Input((SIDE, SIDE, 3))
    x = L.Conv2D(8, 3, padding="same", name="first")(L.Rescaling(1 / 64, -2.0)(inputs))
    for layer in layers:
        x = layer(x)
    x = L.Flatten()(x)
    for layer in head:
        x = layer(x)
    model = keras.Model(inputs, L.Dense(CLASSES, name="logits", kernel_initializer=_wide())(x))
    _disturb(model)
    return model


def _wide():
    return keras.initializers.RandomNormal(stddev=0.3, seed=7)


def _disturb(model):
    """Give normalisations statistics, scales and offsets that are not those they begin with."""
    rng = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, (L.BatchNormalization, L.LayerNormalization)):
            signs = [
                -1 if w.name == "beta" else 1 for w in layer.weights
            ]  # relu(x) never is below 0
            layer.set_weights(
                [
                    sign * rng.uniform(0.5, 1.5, w.shape)
                    for sign, w in zip(signs, layer.weights, strict=True)
                ]
            )


def squeezed(x):
    """Return squeeze and excitation as MobileNetV3 writes it, with operations for hard_sigmoid."""
    gate = L.Conv2D(8, 1)(L.GlobalAveragePooling2D(keepdims=True)(x))
    return L.Multiply()([x, L.ReLU(6.0)(gate + 3.0) * (1.0 / 6.0)])


def conv_bn(activation):
    return [L.Conv2D(8, 3, use_bias=False), L.BatchNormalization(), activation]


KINDS = {
    "hard_silu": lambda: network(
        *conv_bn(L.Activation("hard_swish")),
        L.Conv2D(6, 1, activation="hard_silu"),
        head=[L.Dense(12, "hard_silu")],
    ),
    "hard_sigmoid": lambda: network(
        squeezed,
        L.Conv2D(6, 3, activation="hard_sigmoid"),
        L.Activation("hard_sigmoid"),
    ),
    "leaky": lambda: network(
        L.LeakyReLU(0.1), L.Conv2D(6, 3, activation="leaky_relu"), L.ReLU(negative_slope=0.3)
    ),
    "clipped": lambda: network(L.ReLU(1.5), L.Conv2D(6, 3), L.ReLU(6.0), L.MaxPooling2D()),
    "layer_norm": lambda: network(
        L.LayerNormalization(), head=[L.Dense(12), L.LayerNormalization(scale=False)]
    ),
    "resizing": lambda: network(
        L.Resizing(5, 9, crop_to_aspect_ratio=True),
        L.Resizing(12, 12, pad_to_aspect_ratio=True),
        L.Resizing(6, 6, interpolation="nearest"),
    ),
    "activation_before_bn": lambda: network(
        L.Conv2D(8, 3, activation="relu"),
        L.BatchNormalization(),
        L.SeparableConv2D(6, 3, activation="tanh"),
        L.BatchNormalization(),
        head=[L.Dense(12, "relu"), L.BatchNormalization()],
    ),
    "arithmetic": lambda: network(
        lambda x: L.Average()([x, keras.ops.relu6(1.0 - x / 2.0)]),
        lambda x: x * L.Conv2D(8, 1, activation=L.LeakyReLU(0.1))(x) - x,
        L.RandomFlip(),
        L.Activation("silu"),
    ),
}


def everything():
    """Return a network with one of each kind."""
    return network(
        *conv_bn(L.Activation("hard_silu")),
        squeezed,
        L.Resizing(8, 8),
        L.Conv2D(6, 3, activation="relu"),
        L.BatchNormalization(),
        L.LeakyReLU(0.1),
        L.LayerNormalization(),
        head=[L.Dense(12, "hard_sigmoid")],
    )


class Still(Watched):
    """Learns nothing: what a file answers differently is then the fault of how it was made."""

    def images(self, batches):
        return [tf.constant(images())] * batches


def shipped(model, aware):
    pixels = images(64).astype(np.uint8)
    with lite.converters(model) as convert:
        return convert("int8", None if aware else pixels)


@pytest.mark.parametrize("kind", KINDS)
def test_the_twin_of_each_kind_has_the_numbers_of_keras(kind):
    model = KINDS[kind]()
    expected = model.predict(images(), verbose=0)
    got = twin.twin(model).predict(images(), verbose=0)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "kind",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in KINDS],
)
def test_each_kind_ends_all_int8_and_answers_as_keras_does(kind):
    model = KINDS[kind]()
    content = shipped(passes.run("qat", twin.twin(model), Still(), 0.5, 16), aware=True)
    assert lite.floats(content) == []
    agree = _same(lite.Lite(content)(images(seed=4)), model.predict(images(seed=4), verbose=0))
    assert agree >= 0.9, f"{agree:.2f}"


def _same(one, two):
    return np.mean(one.argmax(-1) == two.argmax(-1))


@pytest.mark.parametrize(
    "recipe",
    [
        "prune",
        pytest.param("cluster", marks=pytest.mark.slow),
        pytest.param("pcqat", marks=pytest.mark.slow),  # which makes what pqat and cqat make, too
        pytest.param("pqat", marks=pytest.mark.exhaustive),
        pytest.param("cqat", marks=pytest.mark.exhaustive),
    ],
)
def test_every_recipe_takes_all_kinds_in_one_network(recipe):
    tune = Learning(1e-5)  # and so little that files must answer as the network did
    model = everything()
    made = passes.run(recipe, twin.twin(model), tune, 0.05, 64)
    content = shipped(made, aware=recipe.endswith("qat"))
    assert lite.floats(content) == []
    pixels = images(seed=4)
    answers = lite.Lite(content)(pixels)
    assert _same(answers, made.predict(pixels, verbose=0)) >= 0.9
    assert _same(answers, model.predict(pixels, verbose=0)) >= 0.75


class Learning(Still):
    """Fine-tunes for four steps."""

    steps = 4

    def __init__(self, rate, side=SIDE):
        self.rate, self.pixels = rate, images(64, side)

    def __call__(self, model, callbacks, pace=1.0):
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(tf_keras.optimizers.SGD(pace * self.rate), loss)
        labels = np.arange(64) % CLASSES
        model.fit(self.pixels, labels, batch_size=16, callbacks=callbacks, verbose=0)

    def images(self, batches):
        return [tf.constant(self.pixels)] * batches


def test_a_batch_norm_after_an_activation_has_an_identity_to_be_folded_into():
    copied = twin.twin(KINDS["activation_before_bn"]())
    assert len([each for each in copied.layers if each.name.endswith("_identity")]) == 3


@pytest.mark.exhaustive
def test_mobilenet_v3_goes_through():
    model = peers.build("applications:MobileNetV3Small", (64, 64, 3), CLASSES, seed=0)
    for layer in model.layers:
        # As drawn, variances are below the epsilon of batch norm: all images would look alike.
        if isinstance(layer, (L.Conv2D, L.DepthwiseConv2D)) and not layer.use_bias:
            layer.set_weights([10 * each for each in layer.get_weights()])
    statistics.settle(model, images(64, 64))
    made = passes.run("qat", twin.twin(model), Learning(1e-5, 64), 0.05, 200)
    with lite.converters(made) as convert:
        content = convert("int8", None)
    assert lite.floats(content) == []
    pixels = images(64, 64, seed=4)
    answers, logits = np.log(lite.Lite(content)(pixels) + 1e-9), made.predict(pixels, verbose=0)
    assert _alike(answers, logits) > 0.8
    assert _alike(answers, model.predict(pixels, verbose=0)) > 0.75


def _alike(one, two):
    """Return the correlation of two sets of logits, of what differs between images and classes."""
    one, two = (each - each.mean(-1, keepdims=True) for each in (one, two))
    return np.corrcoef((one - one.mean(0)).ravel(), (two - two.mean(0)).ravel())[0, 1]


def own(x):
    return x


@keras.saving.register_keras_serializable("tests_compression")
class Resizing(L.Layer):
    """A user's layer that has the name of one of Keras."""

    def call(self, x):
        return 2 * x


TOLD = {
    "attention (MultiHeadAttention)": lambda: network(
        L.Reshape((64, 8)), lambda x: L.MultiHeadAttention(2, 4, name="attention")(x, x)
    ),
    "twice (Lambda)": lambda: network(L.Lambda(lambda x: 2 * x, name="twice")),
    "mine (Resizing)": lambda: network(Resizing(name="mine")),
    "conv (Conv2D) has the activation 'own'": lambda: network(
        L.Conv2D(4, 3, activation=own, name="conv")
    ),
    "big (Resizing) resizes by 'bicubic'": lambda: network(
        L.Resizing(9, 9, interpolation="bicubic", name="big")
    ),
    "wide (LayerNormalization) normalises": lambda: network(
        L.LayerNormalization(axis=(1, 2, 3), name="wide")
    ),
    "odd (BatchNormalization) normalises axis 1": lambda: network(
        L.BatchNormalization(axis=1, name="odd")
    ),
    "(TrueDivide)": lambda: network(lambda x: 1.0 / (x + 100.0)),
    "(Exp)": lambda: network(keras.ops.exp),
    "line (Conv1D) has no int8 in tfmot": lambda: network(
        L.Reshape((64, 8)), L.Conv1D(4, 3, name="line")
    ),
    "late (ReLU) has a threshold": lambda: network(L.ReLU(threshold=0.5, name="late")),
    "elu (ELU) has no int8 in TFLite": lambda: network(L.ELU(name="elu")),
    "recurrent (LSTM) has no int8 in TFLite": lambda: network(
        L.Reshape((64, 8)), L.LSTM(4, name="recurrent")
    ),
    "mish (Activation) of 'mish' has no int8 in tfmot": lambda: network(
        L.Activation("mish", name="mish")
    ),
}


@pytest.mark.parametrize("told", TOLD)
def test_what_cannot_be_taken_is_told_by_name_before_anything_is_learned(told):
    def never(*_, **__):
        raise AssertionError("it learned")

    with pytest.raises(InputError) as caught:
        passes.run("pcqat", twin.twin(TOLD[told]()), never, 0.5, 16)
    text = str(caught.value)
    name = told.split(" (")[0] if not told.startswith("(") else ""
    assert text.startswith(f"recipe: the layer '{name}")
    assert told.split(" ", 1)[-1].replace("', '", "") in text
    assert "; valid: " in text
    assert "\n" not in text
    assert len(text) < 300


def test_a_layer_that_keras_2_computes_otherwise_is_named(monkeypatch):
    monkeypatch.setattr("xkd_keras.compression.blocks.HardSilu.call", lambda self, x: tf.nn.relu(x))
    with pytest.raises(InputError, match=r"the layer 'swish' \(Activation\) gives other numbers"):
        twin.twin(network(L.Activation("hard_silu", name="swish"), L.Conv2D(4, 3)))


def test_the_layer_that_a_library_complains_of_is_named():
    model = twin.twin(KINDS["leaky"]())
    text = "int8: 4 tensors stay float, the first 'functional_2/quant_first/BiasAdd'; it cannot."
    error = passes.blamed(model.layers, f"fails: {text}", text)
    assert str(error).startswith("recipe: the layer 'first' (Conv2D) fails: int8: 4 tensors")
    assert "this network fails" in str(passes.blamed(model.layers, "fails", "tfl.dequantize"))


def test_only_what_is_told_has_no_int8():
    quantizing.check(twin.twin(everything()), "qat", aware=True)
    with pytest.raises(InputError, match="--recipe=prune or cluster"):
        quantizing.check(twin.twin(network(L.Activation("mish"))), "qat", aware=True)
    quantizing.check(twin.twin(network(L.Activation("mish"))), "prune", aware=False)
