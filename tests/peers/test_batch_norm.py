"""Fused batch normalisation beside Keras' own and NumPy; the exchange of one for the other."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from xkd_keras import peers
from xkd_keras.peers.batch_norm import FusedBatchNormalization, Stock

CHANNELS = 5


def pair(**options):
    """Return a stock and a fused layer with the same, not trivial, weights."""
    rng = np.random.default_rng(0)
    values = [rng.uniform(0.5, 2, CHANNELS) for _ in range(4)]
    layers = []
    for kind in (Stock, FusedBatchNormalization):
        layer = kind(momentum=0.9, epsilon=1e-5, **options)
        layer.build((None, None, None, CHANNELS))
        layer.set_weights(values[-len(layer.weights) :])
        layers.append(layer)
    return layers


def images(batch=7, seed=1, loc=1.5):
    return np.random.default_rng(seed).normal(loc, 2.0, (batch, 3, 5, CHANNELS)).astype("float32")


def assert_same_weights(a, b, tolerance=1e-5):
    for v, w in zip(a.weights, b.weights, strict=True):
        np.testing.assert_allclose(v, w, rtol=tolerance, atol=tolerance, err_msg=v.path)


def output_and_gradients(layer, x, **options):
    x = tf.constant(x)
    target = tf.sin(tf.range(tf.size(x), dtype="float32"))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, **options)
        loss = tf.reduce_sum(tf.reshape(tf.cast(y, "float32"), [-1]) * target)
    return y, tape.gradient(loss, [x, *[v.value for v in layer.trainable_variables]])


def test_training_is_numpys():
    _, layer = pair()
    gamma, beta, mean, variance = (np.array(w) for w in layer.get_weights())
    x = images()
    y = layer(x, training=True)
    axes = (0, 1, 2)
    expected = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5) * gamma + beta
    np.testing.assert_allclose(y, expected, atol=2e-5)
    np.testing.assert_allclose(layer.moving_mean, 0.9 * mean + 0.1 * x.mean(axes), rtol=1e-5)
    # Biased: with 105 values a channel, Bessel's correction would be off by 1 %.
    np.testing.assert_allclose(layer.moving_variance, 0.9 * variance + 0.1 * x.var(axes), rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"scale": False}, {"center": False}])
@pytest.mark.parametrize("batch", [1, 7])
def test_several_steps_beside_stock(options, batch):
    stock, fused = pair(**options)
    for step in range(4):
        x = images(batch, seed=step, loc=step)
        y, gradients = output_and_gradients(stock, x, training=True)
        z, fused_gradients = output_and_gradients(fused, x, training=True)
        np.testing.assert_allclose(y, z, atol=5e-5)
        for a, b in zip(gradients, fused_gradients, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
        assert_same_weights(stock, fused)
        np.testing.assert_allclose(stock(x), fused(x), atol=1e-5)  # inference, between the steps
        assert_same_weights(stock, fused)


def test_frozen_runs_in_inference_mode_and_passes_gradients():
    stock, fused = pair(trainable=False)
    before = fused.get_weights()
    y, gradients = output_and_gradients(stock, images(), training=True)
    z, fused_gradients = output_and_gradients(fused, images(), training=True)
    np.testing.assert_allclose(y, z, atol=1e-5)
    np.testing.assert_allclose(gradients[0], fused_gradients[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(before, fused.get_weights())


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_half_precision(policy):
    stock, fused = pair(dtype=policy)
    for step in range(3):
        x = images(seed=step)
        y, z = stock(x, training=True), fused(x, training=True)
        assert y.dtype == z.dtype
        # Two roundings of values up to about 10: bfloat16 keeps 8 bits, float16 11.
        tolerance = 0.07 if "bfloat16" in policy else 0.01
        np.testing.assert_allclose(tf.cast(y, "float32"), tf.cast(z, "float32"), atol=tolerance)
    assert_same_weights(stock, fused, 5e-3 if policy == "float16" else 1e-4)


@pytest.mark.parametrize(
    ("shape", "options", "mask"),
    [
        ((7, CHANNELS), {}, None),
        ((7, 4, CHANNELS), {}, None),
        ((2, 3, 2, 3, CHANNELS), {}, None),
        ((7, 3, 5, CHANNELS), {"axis": 1}, None),
        ((7, 3, 5, CHANNELS), {"dtype": "float64"}, None),
        ((7, 3, 5, CHANNELS), {}, np.arange(105).reshape(7, 3, 5) % 2 == 0),
    ],
)
def test_what_the_kernel_cannot_do_is_left_to_stock(shape, options, mask):
    x = np.random.default_rng(0).normal(1, 2, shape)
    stock, fused = Stock(**options), FusedBatchNormalization(**options)
    y, z = (layer(x, training=True, mask=mask) for layer in (stock, fused))
    assert y.dtype == z.dtype
    np.testing.assert_array_equal(y, z)
    assert_same_weights(stock, fused, 0)


def nested_model(share=True):
    """A graph around a Sequential, a frozen graph and, with `share`, one layer called twice."""
    image = keras.Input((8, 8, 3), name="image")
    shared = keras.layers.BatchNormalization(name="shared")
    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Conv2D(3, 3, padding="same"), shared], name="inner"
    )
    middle = keras.Input((8, 8, 3))
    frozen = keras.Model(
        middle, keras.layers.BatchNormalization(momentum=0.8)(middle), name="frozen"
    )
    frozen.trainable = False
    x = frozen(inner(image))
    x = shared(x) if share else x
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(x))
    return keras.Model(image, keras.layers.Dense(4, name="logits")(x), name="nested")


def kinds(model):
    """Return the classes of all layers, nested ones included."""
    found = []
    for layer in model.layers:
        found += kinds(layer) if isinstance(layer, keras.Model) else [type(layer)]
    return found


def test_exchange_keeps_everything_but_the_class():
    model = nested_model()
    for weight in model.weights:
        weight.assign(np.random.default_rng(weight.shape[-1]).uniform(0.5, 1.5, weight.shape))
    twin = peers.fused(model)
    back = peers.stock(twin)
    assert kinds(model).count(Stock) == kinds(twin).count(FusedBatchNormalization) == 3
    assert Stock not in kinds(twin)
    assert kinds(back) == kinds(model)
    frozen = twin.get_layer("frozen")
    assert not frozen.trainable
    assert frozen.layers[-1].momentum == 0.8
    assert twin.get_layer("shared") is twin.get_layer("inner").layers[-1]
    for other in (twin, back):
        assert other.name == model.name
        assert [v.path for v in other.weights] == [v.path for v in model.weights]
        assert [v.path for v in other.trainable_weights] == [
            v.path for v in model.trainable_weights
        ]
        assert_same_weights(model, other, 0)
    x = np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype("float32")
    for training in (True, True, False):  # dropout's state moves alike
        logits = [m(x, training=training) for m in (model, twin, back)]
        np.testing.assert_allclose(logits[0], logits[1], atol=1e-4)
        np.testing.assert_array_equal(logits[0], logits[2])
    assert_same_weights(model, twin)


def test_a_normalisation_that_was_adapted_stays_adapted():
    adapted = keras.layers.Normalization()
    adapted.adapt(np.random.default_rng(1).normal(90, 30, (64, 8, 8, 3)))
    inner = keras.Sequential([keras.Input((8, 8, 3)), adapted, keras.layers.Conv2D(4, 3)])
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.BatchNormalization()(inner(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    x = np.random.default_rng(0).uniform(0, 255, (6, 8, 8, 3)).astype("float32")
    twin = peers.fused(model)
    for other in (twin, peers.stock(twin)):
        np.testing.assert_allclose(model(x), other(x), rtol=1e-4, atol=1e-4)


def test_a_model_without_batch_norm_is_returned_as_it_is():
    model = peers.build("alexnet", (32, 32, 3), 2)
    assert peers.fused(model) is model
    model = peers.build("resnet20", (8, 8, 3), 2)
    assert peers.stock(model) is model


def test_a_users_subclass_of_batch_norm_stays():
    class Own(Stock):
        pass

    image = keras.Input((4, 4, 3))
    model = keras.Model(image, Own()(keras.layers.BatchNormalization()(image)))
    assert kinds(peers.fused(model))[1:] == [FusedBatchNormalization, Own]


def run(code, *arguments):
    """Run `code` in a fresh process; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


LOAD = """
import pathlib, sys, numpy as np, keras
folder = pathlib.Path(sys.argv[1])
for path in folder.glob("*.keras"):
    model = keras.models.load_model(path)
    np.save(path.with_suffix(".loaded.npy"), model(np.load(path.with_suffix(".npy"))))
assert not [name for name in sys.modules if name.startswith("xkd")]
"""


@pytest.mark.slow
def test_saved_after_stock_loads_without_this_package(tmp_path):
    models = [peers.build("resnet20", (16, 16, 3), 4, seed=1)]
    models += [peers.build("imagenet_mobilenet_v3", (64, 64, 3), 4, seed=1)]
    models += [nested_model(share=False)]  # shared in and out of a nested model: Keras cannot load
    for model in models:
        x = np.random.default_rng(0).uniform(0, 255, (3, *model.input_shape[1:])).astype("float32")
        twin = peers.fused(model)
        twin(x, training=True)  # so that the moving statistics are no longer the initial ones
        peers.stock(twin).save(tmp_path / f"{model.name}.keras")
        np.save(tmp_path / f"{model.name}.npy", x)
        np.save(tmp_path / f"{model.name}.trained.npy", twin(x))
    run(LOAD, tmp_path)
    for model in models:
        loaded = np.load(tmp_path / f"{model.name}.loaded.npy")
        trained = np.load(tmp_path / f"{model.name}.trained.npy")
        np.testing.assert_allclose(loaded, trained, rtol=1e-5, atol=1e-6)
        assert np.ptp(loaded) > 1e-4


def fit_each(strategy, models, x, labels):
    """Train each model in steps of six images, over the replicas of a strategy."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for model in models:
        with strategy.scope():
            model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=False)
        data = tf.data.Dataset.from_tensor_slices((x, labels)).batch(6)
        model.fit(data, epochs=1, shuffle=False, verbose=0)


def test_two_replicas_train_alike(two_cpus):
    with two_cpus.scope():
        stock = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(5, 3, use_bias=False),
                keras.layers.BatchNormalization(name="bn", momentum=0.9, epsilon=1e-5),
                keras.layers.ReLU(),
                keras.layers.Flatten(),
                keras.layers.Dense(4),
            ]
        )
        fused = peers.fused(stock)
    rng = np.random.default_rng(0)
    x, y = rng.normal(1, 1, (12, 8, 8, 3)).astype("float32"), rng.integers(0, 4, 12)
    fit_each(two_cpus, (stock, fused), x, y)
    back = peers.stock(fused)  # outside the scope: plain variables
    for a, b, c in zip(stock.weights, fused.weights, back.weights, strict=True):
        # Stock replicas keep moving statistics of their own; ours keep the mean of both.
        mean = np.mean([part.numpy() for part in a.value.values], axis=0)
        np.testing.assert_allclose(mean, b, rtol=1e-4, atol=1e-5, err_msg=a.path)
        first, second = b.value.values
        np.testing.assert_array_equal(first.numpy(), second.numpy(), err_msg=a.path)
        np.testing.assert_array_equal(b, c)
    assert type(fused.get_layer("bn")) is not type(stock.get_layer("bn"))
    assert np.abs(stock.get_layer("bn").moving_mean).max() > 1e-2
