"""tfmot's recipes on a twin of a trained peer, taught by the run's ensemble."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from scipy.special import log_softmax, softmax

from tests import statistics
from tests.compression.untuned import Watched, pixels
from xkd_keras import data as datasets
from xkd_keras import peers
from xkd_keras.compression import passes, tuning, twin
from xkd_keras.peers import densenet, mobilenet
from xkd_keras.runs import directory as rundir
from xkd_keras.ship import lite, quality


@pytest.fixture(scope="module")
def run(finished_run):
    """A finished run of a convolutional network with batch norm, and another to teach it."""
    return rundir.load_run(Path(finished_run.run_dir))


def tuner(run, **options):
    options = {
        "epochs": 2,
        "learning_rate": 0.01,
        "distill_weight": 1.0,
        "temperature": 3.0,
        **options,
    }
    return tuning.Tuner(run, **options, batch_size=64, seed=0)


def test_the_loss_is_that_of_training():
    rng = np.random.default_rng(6)
    logits, teacher = rng.normal(size=(2, 5, 4)).astype(np.float32) * 3
    labels = np.array([0, 3, 1, 1, 2])
    taught = object.__new__(tuning.Tuner)
    taught.distill_weight, taught.temperature = 0.7, 2.0
    taught.class_weights = [1.0, 0.5, 1.5, 2.0]
    given = np.concatenate([labels[:, None], teacher], axis=1).astype(np.float32)
    q = softmax(teacher / 2.0, axis=-1)
    kl = (q * (np.log(q) - log_softmax(logits / 2.0, axis=-1))).sum(-1)
    own = -log_softmax(logits, axis=-1)[np.arange(5), labels]
    loss = taught._loss(tf.constant(given), tf.constant(logits))
    weights = np.array(taught.class_weights)[labels]
    np.testing.assert_allclose(loss, weights * (own + 0.7 * 4.0 * kl), rtol=1e-4)
    taught.distill_weight = 0.0
    alone = taught._loss(tf.constant(labels), tf.constant(logits))
    np.testing.assert_allclose(alone, weights * own, rtol=1e-4)


def test_the_teacher_is_the_weighted_ensemble_of_the_run(run):
    images, given = next(iter(tuner(run)._batches()))
    normalised, plain = (run.models[name](images).numpy() for name in ("normalised", "plain"))
    np.testing.assert_allclose(given[:, 1:], normalised * 2 / 3 + plain / 3, rtol=1e-4, atol=1e-4)
    _, labels = next(iter(datasets.train_batches(run.data, batch_size=64, epochs=2, seed=0)))
    np.testing.assert_array_equal(given[:, 0], labels)


def shipped(model):
    with lite.converters(model) as convert:
        return convert("int8", None)


def test_activations_have_the_ranges_of_images_before_anything_is_learned():
    """Tfmot starts from -6..6 and moves very slowly: short fine-tuning would ruin the network."""
    model = peers.build("tests.small_peers:plain", (20, 20, 3), 5, seed=2)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.name != "normalize":
            layer.set_weights([50 * each for each in layer.get_weights()])
    expected = model.predict(pixels(32, 20), verbose=0)
    assert np.abs(expected).max() > 20
    quantized = passes.run("qat", twin.twin(model), Watched(), 0.5, 16)
    given = quantized.predict(pixels(32, 20), verbose=0)
    assert np.abs(given - expected).max() < 0.05 * np.abs(expected).max()


def test_normalisation_is_not_learned(run):
    before = run.models["normalised"].get_layer("normalize").get_weights()[0]
    model = passes.run("qat", twin.twin(run.models["normalised"]), tuner(run), 0.5, 16)
    wrapper = model.get_layer("quant_normalize")
    (kernel,) = [v for v in wrapper.variables if v.name.endswith("depthwise_kernel:0")]
    np.testing.assert_array_equal(kernel.numpy(), before)
    assert not any("normalize" in v.name for v in model.trainable_variables)


@pytest.mark.parametrize(
    ("recipe", "zeros", "values"),
    [
        pytest.param("pcqat", 0.6, 8, marks=pytest.mark.slow),
        pytest.param("pqat", 0.6, 256, marks=pytest.mark.slow),
        pytest.param("cqat", 0, 8, marks=pytest.mark.slow),
    ],
)
def test_a_chain_keeps_what_its_passes_won_in_an_all_int8_file(run, recipe, zeros, values):
    model = passes.run(recipe, twin.twin(run.models["normalised"]), tuner(run), 0.6, 8)
    content = shipped(model)
    assert lite.floats(content) == []
    found = quality.weights(lite.kernels(content))
    assert found["sparsity"] >= zeros - 0.01
    assert found["unique_weights"] <= values


class Briefly:
    """Fine-tunes for two steps: enough to see whether a network can take a recipe."""

    steps = 2

    def __init__(self, data):
        self.batches = datasets.train_batches(data, batch_size=64, epochs=1, seed=0)

    def __call__(self, model, callbacks, pace=1.0):
        model.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(self.batches.take(2), callbacks=callbacks, verbose=0)

    def images(self, batches):
        return (images for images, _ in self.batches.take(batches))


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        pytest.param("alexnet", "qat", marks=pytest.mark.exhaustive),
        pytest.param("vgg11", "qat", marks=pytest.mark.exhaustive),
        pytest.param("resnet20", "qat", marks=pytest.mark.slow),
        pytest.param("densenet-bc-40-12", "qat", marks=pytest.mark.exhaustive),
        pytest.param("densenet-bc-40-12", "pcqat", marks=pytest.mark.slow),
        pytest.param("mobilenet_v2", "qat", marks=pytest.mark.slow),
    ],
)
def test_every_family_ends_all_int8(run, name, recipe, monkeypatch):
    # Of blocks of two layers instead of six: the same kinds, each beside the same neighbours.
    monkeypatch.setitem(densenet.VARIANTS, "densenet-bc-40-12", (16, 12))
    # Of three stages instead of seven, of which two have a block that is added to its input.
    stages = (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 2, 2)
    monkeypatch.setitem(mobilenet.VARIANTS, "mobilenet_v2", stages)
    model = peers.build(name, (32, 32, 3), 10, seed=0, mean=run.data.mean, std=run.data.std)
    briefly = Briefly(run.data)
    statistics.settle(model, next(iter(briefly.images(1))))
    made = passes.run(recipe, twin.twin(model), briefly, 0.5, 16)
    with lite.converters(made) as convert:
        content = convert("int8", None)
    assert lite.floats(content) == []


@pytest.mark.slow
def test_clustering_wide_layers_does_not_end_all_learning():
    """A centroid moves by the mean of its weights' gradients: their sum would be far too far."""
    inputs = tf_keras.Input((2000,))
    outputs = tf_keras.layers.Dense(50)(tf_keras.layers.Dense(500, activation="relu")(inputs))
    model = tf_keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 2000)).astype(np.float32), rng.integers(0, 50, 64)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def fit(model, rate, epochs):
        model.compile(tf_keras.optimizers.SGD(rate, 0.9), loss)
        return model.fit(x, y, epochs=epochs, batch_size=32, verbose=0).history["loss"][-1]

    def tune(model, callbacks, pace=1.0):
        losses.append(fit(model, 0.02, 10))

    losses = [fit(model, 0.002, 3)]
    passes.run("cluster", model, tune, 0.5, 16)
    assert losses[1] < 0.1 * losses[0]
