"""Optimizers against the recipes they stand for, by hand and in PyTorch's arithmetic."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from xkd_keras.distillation import optimizers, schedules, updates
from xkd_keras.errors import InputError

RNG = np.random.default_rng(1)
START = RNG.normal(size=(4, 3)).astype("float32")
GRADIENTS = RNG.normal(size=(20, 4, 3)).astype("float32")


def run(optimizer, steps=20):
    """Return the variable after applying the first gradients."""
    variable = keras.Variable(START)
    optimizer.build([variable])
    for gradient in GRADIENTS[:steps]:
        optimizer.apply([tf.constant(gradient)], [variable])
    return np.asarray(variable)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_that_of_pytorch_with_l2_and_momentum(nesterov):
    rate, momentum, decay = 0.1, 0.9, 0.01
    weights, velocity = START.astype("float64"), np.zeros((4, 3))
    for gradient in GRADIENTS:  # torch.optim.SGD: v = m v + g + d w; w -= lr (g + m v or v)
        full = gradient + decay * weights
        velocity = momentum * velocity + full
        weights = weights - rate * (full + momentum * velocity if nesterov else velocity)
    got = run(optimizers.build("sgd", rate, momentum, nesterov, decay))
    np.testing.assert_allclose(got, weights, rtol=2e-5, atol=1e-6)


def test_adamw_decays_apart_from_the_gradient():
    rate, decay, b1, b2 = 0.01, 0.1, 0.9, 0.999
    weights, m, v = START.astype("float64"), np.zeros((4, 3)), np.zeros((4, 3))
    for t, gradient in enumerate(GRADIENTS.astype("float64"), 1):
        weights = weights * (1 - rate * decay)
        m, v = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
        weights = weights - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-7)
    got = run(optimizers.build("adamw", rate, weight_decay=decay))
    np.testing.assert_allclose(got, weights, rtol=1e-4, atol=1e-5)


def test_clipping_limits_the_gradients_norm_before_weight_decay():
    gradient = GRADIENTS[0]
    clipped = gradient * 0.5 / np.linalg.norm(gradient)
    want = START - 0.1 * (clipped + 0.01 * START)
    got = run(optimizers.build("sgd", 0.1, 0.0, weight_decay=0.01, clip_norm=0.5), steps=1)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_clipping_over_two_replicas_limits_the_norm_of_their_sum(two_cpus):
    with two_cpus.scope():
        variable = keras.Variable(START)
        cohort = optimizers.CohortOptimizer({"a": optimizers.build("sgd", 0.1, 0.0, clip_norm=0.5)})
        cohort.build_peers({"a": [variable]})

    def step():
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        gradient = tf.gather(tf.constant(GRADIENTS), replica)
        cohort.apply_peers({"a": [gradient]}, {"a": [variable]})

    two_cpus.run(tf.function(step))
    total = GRADIENTS[0] + GRADIENTS[1]
    want = START - 0.1 * 0.5 * total / np.linalg.norm(total)
    np.testing.assert_allclose(np.asarray(variable), want, rtol=1e-5, atol=1e-6)


def test_setting_the_learning_rate_keeps_the_peers_ratios():
    cohort = optimizers.CohortOptimizer(
        {"a": keras.optimizers.SGD(0.1), "b": keras.optimizers.SGD(0.02)}
    )
    cohort.build_peers({"a": [keras.Variable(START)], "b": [keras.Variable(START)]})
    cohort.learning_rate = 0.05
    assert float(cohort.by_peer["a"].learning_rate) == pytest.approx(0.05)
    assert float(cohort.by_peer["b"].learning_rate) == pytest.approx(0.01)


def test_a_learning_rate_may_start_from_zero():
    cohort = optimizers.CohortOptimizer(
        {"a": keras.optimizers.SGD(0.1), "b": keras.optimizers.SGD(0.02)}
    )
    cohort.build_peers({"a": [keras.Variable(START)], "b": [keras.Variable(START)]})
    for rate in (0.0, 0.2):
        cohort.learning_rate = rate
    assert float(cohort.by_peer["b"].learning_rate) == pytest.approx(0.04)


def test_the_learning_rate_is_that_of_a_peer_that_learns():
    rates = {"frozen": 0.0, "b": 0.1, "c": 0.02}
    cohort = optimizers.CohortOptimizer({n: keras.optimizers.SGD(r) for n, r in rates.items()})
    cohort.build_peers({name: [keras.Variable(START)] for name in rates})
    assert float(cohort.learning_rate) == pytest.approx(0.1)
    cohort.learning_rate = 0.05
    got = [float(each.learning_rate) for each in cohort.by_peer.values()]
    assert got == pytest.approx([0.0, 0.05, 0.01])


def test_the_rate_of_the_last_step_is_that_of_the_step_before():
    optimizer, variable, rates = (
        keras.optimizers.SGD(schedules.Step(0.1, [2])),
        keras.Variable(START),
        [],
    )
    for gradient in GRADIENTS[:4]:
        optimizer.apply([tf.constant(gradient)], [variable])
        rates.append(optimizers.last_rate(optimizer))
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01])
    assert optimizers.last_rate(keras.optimizers.SGD(0.3)) == pytest.approx(0.3)


def test_unknown_optimizer_is_named_with_the_nearest():
    with pytest.raises(InputError, match=r"unknown value 'adamww'\. Did you mean 'adamw'"):
        optimizers.build("adamww")


def apply_late(optimizer, from_step, steps=20):
    """Return two variables, the first of which gets its gradients from a step on."""
    old, new = keras.Variable(START), keras.Variable(START)
    optimizer.build([old, new])
    for step, gradient in enumerate(GRADIENTS[:steps]):
        both = [tf.constant(gradient)] * 2
        late = step < from_step
        optimizer.apply(both[late:], [old, new][late:])
    return np.asarray(old), np.asarray(new)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_what_is_trained_already_learns_at_its_part_of_the_rate(kind):
    options = {"weight_decay": 0.01}
    old, new = apply_late(
        optimizers.build(kind, 0.1, old=updates.Old(1, rate=0.25), **options), from_step=0
    )
    np.testing.assert_allclose(old, run(optimizers.build(kind, 0.025, **options)), rtol=1e-5)
    np.testing.assert_allclose(new, run(optimizers.build(kind, 0.1, **options)), rtol=1e-5)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_what_begins_to_learn_later_learns_as_if_it_began_then(kind):
    options = {"weight_decay": 0.01}
    old, new = apply_late(
        optimizers.build(kind, 0.1, old=updates.Old(1, from_step=12), **options), from_step=12
    )
    fresh, variable = optimizers.build(kind, 0.1, **options), keras.Variable(START)
    fresh.build([variable])
    for gradient in GRADIENTS[12:]:
        fresh.apply([tf.constant(gradient)], [variable])
    np.testing.assert_allclose(old, np.asarray(variable), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(new, run(optimizers.build(kind, 0.1, **options)), rtol=1e-5)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_what_is_known_of_old_variables_is_saved(kind):
    optimizer = optimizers.build(kind, 0.1, old=updates.Old(3, 0.5, 7))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert (type(again), again.old) == (type(optimizer), updates.Old(3, 0.5, 7))
    assert optimizers.build("sgd", 0.1).old is None
