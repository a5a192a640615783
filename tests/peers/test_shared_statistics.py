"""Dense blocks whose layers share batch statistics, beside Keras' own layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.peers.test_batch_norm import fit_each
from xkd_keras import peers
from xkd_keras.peers import shared_statistics
from xkd_keras.peers.layers import bn_relu, conv

LAYERS = 3


def dense_block(seed=0):
    """Return a stock network: a dense block of three layers, and a layer that reads it all."""
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((6, 5, 3))
    x = conv(x, 4, 3, "stem")
    for i in range(LAYERS):
        y = conv(bn_relu(x, f"in{i}"), 2, 3, f"conv{i}")
        x = keras.layers.Concatenate(name=f"concat{i}")([x, y])
    outputs = keras.layers.GlobalAveragePooling2D()(bn_relu(x, "final"))
    model = keras.Model(inputs, outputs)
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([random.uniform(0.5, 2, w.shape) for w in layer.weights])
    return model


def images(seed=0, batch=4):
    return np.random.default_rng(seed).normal(1, 2, (batch, 6, 5, 3)).astype("float32")


def step(model):
    """Return the function images -> outputs and gradients, those of the images first."""

    @tf.function
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=True)
            weights = tf.reshape(tf.sin(tf.range(tf.size(y), dtype="float32")), tf.shape(y))
            loss = tf.reduce_sum(tf.cast(y, "float32") ** 2 * weights)
        return y, tape.gradient(loss, [x, *[v.value for v in model.trainable_variables]])

    return run


def kernels(run, training):
    """Return how many channels each kernel of batch normalisation in a function reads."""
    graph = run.get_concrete_function(tf.constant(images())).graph
    found = [op for op in graph.get_operations() if op.type == "FusedBatchNormV3"]
    return sorted(
        int(op.inputs[0].shape[-1]) for op in found if op.get_attr("is_training") == training
    )


def test_a_dense_block_trains_as_keras_own_layers():
    stock = dense_block()
    shared = peers.fused(stock)
    ours, theirs = step(shared), step(stock)
    for seed in range(3):
        x = tf.constant(images(seed))
        (y, gradients), (z, expected) = ours(x), theirs(x)
        np.testing.assert_allclose(y, z, rtol=1e-4, atol=1e-4)
        for a, b in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
        for v, w in zip(shared.variables, stock.variables, strict=True):
            np.testing.assert_allclose(v, w, rtol=1e-5, atol=1e-6, err_msg=v.path)


def test_each_piece_of_a_dense_block_is_read_once_for_its_statistics():
    run = step(peers.fused(dense_block()))
    # The first layer normalises the stem's 4 channels itself; then these and each layer's 2.
    assert kernels(run, training=True) == [2, 2, 2, 4, 4]
    assert kernels(run, training=False) == [6, 8, 10]


def test_a_concatenation_that_is_normalised_once_keeps_the_one_kernel():
    x = inputs = keras.Input((6, 5, 3))
    branches = [conv(x, 2, 3, "left"), conv(x, 3, 1, "right")]
    x = bn_relu(keras.layers.Concatenate()(branches), "both")
    run = step(peers.fused(keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))))
    assert kernels(run, training=True) == [5]
    assert kernels(run, training=False) == []


def test_with_an_accelerator_every_layer_keeps_the_one_kernel(monkeypatch):
    monkeypatch.setattr(shared_statistics, "_accelerated", lambda: True)
    run = step(peers.fused(dense_block()))
    assert kernels(run, training=True) == [4, 6, 8, 10]


def test_statistics_and_their_gradients_are_numpys():
    x = images(batch=3).astype("float64")
    mean_weights, variance_weights = np.float32([1, -2, 3]), np.float32([0.5, 2, -1])

    @tf.function
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            mean, variance = shared_statistics._moments(x)
            loss = tf.reduce_sum(mean * mean_weights) + tf.reduce_sum(variance * variance_weights)
        return mean, variance, tape.gradient(loss, x)

    mean, variance, gradient = run(tf.constant(x, "float32"))
    axes, n = (0, 1, 2), x.size / 3
    np.testing.assert_allclose(mean, x.mean(axes), rtol=1e-5)
    np.testing.assert_allclose(variance, x.var(axes), rtol=1e-5)
    expected = mean_weights / n + variance_weights * 2 * (x - x.mean(axes)) / n
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_two_replicas_that_share_train_as_two_of_keras_own(two_cpus):
    with two_cpus.scope():
        stock = dense_block()
        shared = peers.fused(stock)
    x, labels = images(batch=12), np.random.default_rng(1).integers(0, 4, 12)
    fit_each(two_cpus, (stock, shared), x, labels)
    for a, b in zip(stock.weights, shared.weights, strict=True):
        mean = np.mean([part.numpy() for part in a.value.values], axis=0)
        np.testing.assert_allclose(mean, b, rtol=1e-3, atol=1e-5, err_msg=a.path)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_is_as_near_to_float32_as_keras_own(policy):
    exact = step(dense_block())(tf.constant(images()))
    keras.config.set_dtype_policy(policy)
    try:
        stock = dense_block()
        found = step(peers.fused(stock))(tf.constant(images()))
        theirs = step(stock)(tf.constant(images()))
    finally:
        keras.config.set_dtype_policy("float32")

    def distance(result):
        flat = [np.float32(tf.cast(a, "float32")).ravel() for a in [result[0], *result[1]]]
        right = [np.ravel(a) for a in [exact[0], *exact[1]]]
        scale = [np.abs(b).max() + 1e-3 for b in right]
        return max(np.abs(a - b).max() / s for a, b, s in zip(flat, right, scale, strict=True))

    assert distance(found) < 1.5 * distance(theirs) + 0.01
