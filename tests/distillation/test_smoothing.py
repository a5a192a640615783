"""Smoothed labels against NumPy, in the loss of training and nowhere else."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

from tests.small_cohorts import IMAGES, LABELS, compiled, linear
from xkd_keras import Cohort
from xkd_keras.distillation import losses, mixing
from xkd_keras.errors import InputError


def smooth(labels, amount):
    """Return labels as they are defined: one-hot (or mixed) times 1 - e, plus e / C."""
    whole = np.eye(4)[labels] if labels.ndim == 1 else labels
    return (1 - amount) * whole + amount / 4


def numpys(logits, labels, amount):
    return -(smooth(labels, amount) * log_softmax(logits, -1)).sum(-1)


@pytest.mark.parametrize("amount", [0.0, 0.1, 0.6])
def test_a_smoothed_cross_entropy_is_that_of_the_smoothed_label(amount):
    logits = np.random.default_rng(0).normal(size=(2, 48, 4)).astype("float32")
    plain = losses.cross_entropy(tf.constant(LABELS), logits)
    found = losses.smoothed(plain, logits, amount)
    np.testing.assert_allclose(found, numpys(logits, LABELS, amount), rtol=1e-5)
    keras_own = keras.losses.CategoricalCrossentropy(True, label_smoothing=amount, reduction=None)
    np.testing.assert_allclose(found[1], keras_own(np.eye(4)[LABELS], logits[1]), rtol=1e-5)


def test_the_loss_and_the_gradient_are_of_smoothed_labels_and_the_metrics_of_plain_ones():
    cohort = Cohort([linear("a")], 0.0, label_smoothing=0.2)
    cohort.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    kernel, bias = (np.asarray(v) for v in cohort.peers["a"].trainable_variables)
    flat = IMAGES.reshape(48, -1)
    logits = flat @ kernel + bias
    shown = cohort.train_on_batch(IMAGES, LABELS, return_dict=True)
    assert shown["loss"] == pytest.approx(numpys(logits, LABELS, 0.2).mean(), rel=1e-5)
    assert shown["a_cross_entropy"] == pytest.approx(numpys(logits, LABELS, 0).mean(), rel=1e-5)
    step = (softmax(logits, -1) - smooth(LABELS, 0.2)) / 48  # the gradient to the logits
    after = [np.asarray(v) for v in cohort.peers["a"].trainable_variables]
    np.testing.assert_allclose(after[0], kernel - flat.T @ step, atol=2e-6)
    np.testing.assert_allclose(after[1], bias - step.sum(0), atol=2e-6)


def test_weights_of_examples_and_mixed_labels_are_smoothed_too(monkeypatch):
    monkeypatch.setattr(mixing, "SHARE", 1.1)  # every batch
    weights = np.linspace(0, 2, 48).astype("float32")
    cohort = Cohort([linear("a")], 0.0, mix="mixup", seed=3, label_smoothing=0.3)
    cohort.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    mixed = mixing.mix("mixup", IMAGES, LABELS, 4, [3, 0], weights)
    images, labels, mixed_weights = (np.asarray(each) for each in mixed)
    logits = np.asarray(cohort.peers["a"](images))
    shown = cohort.train_on_batch(IMAGES, LABELS, weights, return_dict=True)
    expected = np.average(numpys(logits, labels, 0.3), weights=mixed_weights)  # as a Keras metric
    assert shown["loss"] == pytest.approx(expected, rel=1e-4)


def test_evaluation_is_of_plain_labels():
    cohort = compiled([linear("a")], label_smoothing=0.5)
    plain = compiled([cohort.peers["a"]])
    results = [
        each.evaluate(IMAGES, LABELS, verbose=0, return_dict=True) for each in (cohort, plain)
    ]
    assert results[0] == results[1]


def test_a_saved_cohort_keeps_it(tmp_path):
    cohort = compiled([linear("a"), linear("b")], label_smoothing=0.2, seed=5, temperature=2.0)
    cohort.save(tmp_path / "cohort.keras")
    loaded = keras.models.load_model(tmp_path / "cohort.keras")
    assert (loaded.label_smoothing, loaded.seed, loaded.temperature) == (0.2, 5, 2.0)
    assert set(loaded.get_config()) == set(cohort.get_config())
    before = {k: v for k, v in cohort.get_config().items() if k != "label_smoothing"}
    assert Cohort.from_config(before).label_smoothing == 0.0  # a file of an earlier version


@pytest.mark.parametrize("amount", [-0.1, 1.0, float("nan")])
def test_a_part_that_is_none_is_refused(amount):
    with pytest.raises(InputError, match=r"^label_smoothing: received .*; valid: 0 to 1, 1 excl"):
        Cohort([linear("a")], label_smoothing=amount)
