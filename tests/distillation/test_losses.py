"""Losses, ensemble and agreement against NumPy twins written from the equations."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

from xkd_keras.distillation import losses

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (3, 5, 7)).astype("float32")  # [peers, batch, classes]
LABELS = RNG.integers(0, 7, 5)


def test_cross_entropy_is_minus_log_probability_of_the_label():
    want = -log_softmax(LOGITS.astype("float64"), axis=-1)[:, np.arange(5), LABELS]
    np.testing.assert_allclose(losses.cross_entropy(LABELS, LOGITS), want, rtol=1e-5)


def test_cross_entropy_stays_finite_where_another_class_is_impossible():
    logits = tf.constant([[0.0, -np.inf, 1.0]])
    want = np.log(1 + np.exp(1.0))
    np.testing.assert_allclose(losses.cross_entropy([0], logits), [want], rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0, 10.0])
def test_distillation_is_t_squared_times_kl_summed_over_classes(temperature):
    teacher, z = LOGITS[0].astype("float64"), LOGITS[1].astype("float64")
    q, p = softmax(teacher / temperature, -1), softmax(z / temperature, -1)
    want = temperature**2 * np.sum(q * np.log(q / p), axis=-1)
    got = losses.distillation(LOGITS[0], LOGITS[1], temperature)
    np.testing.assert_allclose(got, want, rtol=2e-5)


def test_distillation_gradient_is_t_times_difference_of_probabilities():
    z = tf.Variable(LOGITS[1])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(losses.distillation(LOGITS[0], z, 3.0))
    want = 3.0 * (softmax(LOGITS[1] / 3.0, -1) - softmax(LOGITS[0] / 3.0, -1))
    np.testing.assert_allclose(tape.gradient(loss, z), want, atol=2e-6)


def test_no_gradient_flows_into_the_teacher():
    teacher = tf.Variable(LOGITS[0])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(losses.distillation(teacher, LOGITS[1], 3.0))
    assert tape.gradient(loss, teacher) is None


def test_distillation_from_itself_is_zero():
    np.testing.assert_allclose(losses.distillation(LOGITS, LOGITS, 3.0), 0, atol=1e-6)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_losses_are_computed_in_float32_whatever_the_networks_precision(precision):
    z = tf.cast(LOGITS, precision)
    assert losses.cross_entropy(LABELS, z).dtype == tf.float32
    assert losses.distillation(z[0], z[1], 3.0).dtype == tf.float32


def test_top1_counts_the_largest_logit():
    want = LOGITS.argmax(-1) == LABELS
    np.testing.assert_array_equal(losses.top1(LABELS, LOGITS), want.astype("float32"))


def test_agreement_is_the_fraction_of_pairs_that_agree():
    guesses = np.array([[0, 0, 1], [0, 1, 2], [0, 1, 1], [0, 0, 0]])  # [4 peers, 3 images]
    logits = np.eye(3, dtype="float32")[guesses]
    # Image 0: all 6 pairs. Image 1: {0,3} and {1,2}: 2 of 6. Image 2: {0,2}: 1 of 6.
    np.testing.assert_allclose(losses.agreement(tf.constant(logits)), [1, 2 / 6, 1 / 6], rtol=1e-6)


def test_a_single_peer_agrees_with_itself():
    np.testing.assert_array_equal(losses.agreement(tf.constant(LOGITS[:1])), np.ones(5))


def test_pairwise_kl_is_the_mean_over_ordered_pairs():
    p = softmax(LOGITS.astype("f8"), -1)
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    want = np.mean([np.sum(p[i] * np.log(p[i] / p[j]), -1) for i, j in pairs], axis=0)
    np.testing.assert_allclose(losses.pairwise_kl(tf.constant(LOGITS)), want, rtol=1e-4)


def test_pairwise_kl_of_a_single_peer_is_zero():
    got = losses.pairwise_kl(tf.constant(LOGITS[:1]))
    np.testing.assert_allclose(got, np.zeros(5), atol=1e-5)
