"""A teacher is heard as far as it has learned: against hand-worked numbers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax
from scipy.stats import entropy as scipy_entropy

from tests.small_cohorts import IMAGES, LABELS, compiled, convolutional, fit, linear
from xkd_keras import Cohort
from xkd_keras.distillation import losses, mastery, mixing, teachers
from xkd_keras.errors import InputError
from xkd_keras.runs import checkpoint


def test_a_teacher_is_heard_by_the_probability_that_it_gives_to_the_labels():
    made = mastery.Mastery(3, 10, adapt=1.0)
    shares = tf.constant([0.5, 0.25, 0.25])
    weights, factors = made.heard(shares)
    np.testing.assert_allclose(weights, shares, rtol=1e-6)  # all guess alike, with p = 0.1
    np.testing.assert_allclose(factors, [0.1, 0.1, 0.1], rtol=1e-5)
    made.cross_entropy.assign(-np.log([0.2, 0.8, 0.4]))
    weights, factors = made.heard(shares)
    np.testing.assert_allclose(weights, np.array([0.1, 0.2, 0.1]) / 0.4, rtol=1e-5)
    np.testing.assert_allclose(factors, [0.3 / 0.5, 0.2 / 0.75, 0.3 / 0.75], rtol=1e-5)


def test_weights_that_numpy_computed_are_weights_outside_of_a_graph_too():
    weights = {"a": np.float64(1.0), "b": np.int64(3)}
    cohort = Cohort([linear("a"), linear("b")], weights=weights, adapt=1.0)
    assert cohort.shares == {"a": 0.25, "b": 0.75}
    assert cohort.heard() == pytest.approx({"a": 0.25, "b": 0.25})


def test_a_rate_sharpens_and_a_peer_without_others_hears_nobody():
    made = mastery.Mastery(2, 4, adapt=2.0)
    made.cross_entropy.assign(-np.log([0.5, 0.1]))
    np.testing.assert_allclose(made.heard(tf.constant([0.5, 0.5]))[1], [0.01, 0.25], rtol=1e-5)
    alone = mastery.Mastery(1, 4, adapt=2.0)
    np.testing.assert_array_equal(alone.heard(tf.constant([1.0]))[1], [0.0])


def test_peers_that_have_learned_next_to_nothing_still_have_weights_that_add_up_to_one():
    """In float32 exp(-100 * 5) is 0."""
    losses, shares = np.array([5.0, 5.01, 5.02]), np.array([0.5, 0.5, 0.0])
    made = mastery.Mastery(3, 10, adapt=100.0)
    made.cross_entropy.assign(losses)
    weights, factors = made.heard(tf.constant(shares, tf.float32))
    mastered = shares * np.exp(-100.0 * losses)  # in float64
    np.testing.assert_allclose(weights, mastered / mastered.sum(), rtol=1e-4)
    np.testing.assert_array_equal(factors, [0.0, 0.0, 0.0])
    cohort = compiled([linear("a"), linear("b")], adapt=100.0)
    assert np.isfinite(fit(cohort).history["loss"]).all()


def test_the_mean_remembers_a_fiftieth_of_each_step_and_no_step_that_is_not_finite():
    made = mastery.Mastery(3, 4, adapt=1.0)
    made.update(tf.constant([0.0, np.nan, np.inf]))
    start = np.log(4.0)
    np.testing.assert_allclose(made.cross_entropy, [0.98 * start, start, start], rtol=1e-6)


def test_the_ensemble_is_weighted_by_mastery_and_lambda_is_that_of_the_others():
    peers = [linear("a"), linear("b")]
    logits = np.stack([peer(IMAGES) for peer in peers])
    cohort = Cohort(peers, 0.7, temperature=2.0, distill={"b": 0.5}, adapt=1.5)
    cohort.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    cohort.mastery.cross_entropy.assign([0.2, 1.0])
    shown = cohort.train_on_batch(IMAGES, LABELS, return_dict=True)
    mastered = np.exp(-1.5 * np.array([0.2, 1.0]))
    target = np.average(logits, axis=0, weights=mastered)
    q, p = softmax(target / 2.0, -1), softmax(logits / 2.0, -1)
    kl = 4.0 * np.sum(q * np.log(q / p), -1).mean(-1)
    labelled = -log_softmax(logits, -1)[:, np.arange(48), LABELS].mean(-1)
    taught = 0.7 * (mastered[1] * kl[0] + 0.5 * mastered[0] * kl[1])
    assert shown["loss"] == pytest.approx(labelled.sum() + taught, rel=1e-4)
    after = 0.98 * np.array([0.2, 1.0]) + 0.02 * labelled
    np.testing.assert_allclose(cohort.mastery.cross_entropy, after, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.01, 10.0])
def test_mastery_does_not_depend_on_the_scale_of_sample_weights(scale):
    weights = np.random.default_rng(1).uniform(0.5, 1.5, 48)
    peers = [linear("a"), linear("b")]
    z = np.stack([peer(IMAGES) for peer in peers])
    entropy = -log_softmax(z.astype("float64"), -1)[:, np.arange(48), LABELS]
    cohort = compiled(peers, rate=0.0, adapt=1.0, eager=True)
    fit(cohort, sample_weight=scale * weights)
    want = np.full(2, np.log(4.0))
    for rows in (slice(0, 16), slice(16, 32), slice(32, 48)):
        want = 0.98 * want + 0.02 * np.average(entropy[:, rows], axis=1, weights=weights[rows])
    np.testing.assert_allclose(cohort.mastery.cross_entropy, want, rtol=1e-5)


def test_a_step_whose_images_all_have_weight_0_says_nothing_of_mastery():
    cohort = compiled([linear("a"), linear("b")], adapt=1.0, eager=True)
    fit(cohort, sample_weight=np.zeros(48))
    np.testing.assert_allclose(cohort.mastery.cross_entropy, np.log([4.0, 4.0]), rtol=1e-6)


@pytest.mark.slow
def test_a_replica_without_an_image_says_nothing_of_mastery(two_cpus):
    with two_cpus.scope():
        cohort = compiled([linear("a"), linear("b")], rate=0.0, adapt=1.0)
    z = np.stack([peer(IMAGES) for peer in cohort.peers.values()])
    entropy = -log_softmax(z, -1)[:, np.arange(48), LABELS]
    want = np.full(2, np.log(4.0))
    cohort.fit(IMAGES[:17], LABELS[:17], batch_size=16, shuffle=False, verbose=0)
    for rows in (slice(0, 16), slice(16, 17)):
        want = 0.98 * want + 0.02 * entropy[:, rows].mean(1)
    np.testing.assert_allclose(cohort.mastery.cross_entropy, want, rtol=1e-5)


def test_what_mixed_labels_leave_open_is_no_lack_of_mastery():
    """A peer that gives each class its part of the labels has learned all that there is."""
    parts = np.array([[0.7, 0.3, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    lost = scipy_entropy(parts, axis=1)
    np.testing.assert_allclose(losses.entropy(parts.astype("float32")), lost, rtol=1e-5)
    np.testing.assert_array_equal(losses.entropy(np.array([2, 0])), [0.0, 0.0])
    options = {"rate": 0.0, "adapt": 1.0, "mix": "mixup", "seed": 3, "eager": True}
    cohort = compiled([linear("a"), linear("b")], **options)
    images, labels, _ = mixing.mix("mixup", IMAGES, LABELS, 4, (3, 0))
    z = np.stack([peer(images) for peer in cohort.peers.values()])
    labels = np.asarray(labels, "float64")
    assert (labels.max(1) < 1).any()
    apart = -(labels * log_softmax(z, -1)).sum(-1).mean(1) - scipy_entropy(labels, axis=1).mean()
    cohort.train_on_batch(IMAGES, LABELS)
    want = 0.98 * np.log(4.0) + 0.02 * apart
    np.testing.assert_allclose(cohort.mastery.cross_entropy, want, rtol=1e-5)


def test_a_frozen_teacher_is_heard_in_full_as_it_learns_no_more():
    teacher = teachers.Frozen({"t": linear("t")}, {"t": 1.0})
    cohort = compiled([linear("a"), linear("b")], adapt=1.0, teacher=teacher, distill={"b": 0.5})
    assert cohort.heard() == {"a": 1.0, "b": 0.5}


@keras.saving.register_keras_serializable("tests")
class Stranger(keras.layers.Layer):
    """A teacher of one's own that is none of the peers."""

    of_peers = False

    def call(self, logits, images, **_):
        return tf.zeros_like(logits)


def test_a_teacher_of_ones_own_that_is_no_peer_is_heard_in_full():
    cohort = compiled([linear("a")], adapt=1.0, teacher=Stranger())
    assert cohort.heard() == {"a": 1.0}


def test_evaluation_does_not_count_as_learning():
    cohort = compiled([linear("a"), linear("b")], adapt=2.0)
    cohort.evaluate(IMAGES, LABELS, verbose=0)
    np.testing.assert_allclose(cohort.mastery.cross_entropy, np.log([4.0, 4.0]), rtol=1e-6)


def test_two_replicas_keep_the_mastery_of_one(two_cpus):
    def trained():
        keras.utils.set_random_seed(0)
        peers = [convolutional("a", 4), convolutional("b", 8)]
        return compiled(peers, adapt=2.0, teacher="swapped", term="refined")

    one = trained()
    with two_cpus.scope():
        two = trained()
    for cohort in (one, two):
        fit(cohort, 2)
    a, b = (np.asarray(cohort.mastery.cross_entropy) for cohort in (one, two))
    assert np.all(a != np.float32(np.log(4.0)))
    np.testing.assert_allclose(a, b, rtol=1e-5)
    for x, y in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_mastery_is_part_of_what_a_run_is_and_of_a_saved_cohort(tmp_path):
    cohort = compiled([linear("a"), linear("b")], adapt=2.0)
    fit(cohort)
    kept = np.asarray(cohort.mastery.cross_entropy)
    assert any(variable is cohort.mastery.cross_entropy for variable in checkpoint.state(cohort))
    cohort.save(tmp_path / "cohort.keras")
    loaded = keras.models.load_model(tmp_path / "cohort.keras")
    assert loaded.adapt == 2.0
    np.testing.assert_array_equal(loaded.mastery.cross_entropy, kept)


def test_a_rate_below_0_is_refused():
    with pytest.raises(InputError, match=r"^adapt: received -1; valid: 0 or more"):
        Cohort([linear("a")], adapt=-1)


def test_how_far_peers_hear_their_teachers_is_known_by_name():
    cohort = compiled([linear("a"), linear("b")], adapt=1.0)
    cohort.mastery.cross_entropy.assign(-np.log([0.25, 0.5]))
    assert cohort.heard() == pytest.approx({"a": 0.5, "b": 0.25}, rel=1e-5)
    cohort = compiled([linear("a"), linear("b")], adapt=1.0, distill={"a": 0.0, "b": 0.5})
    assert cohort.heard() == pytest.approx({"a": 0.0, "b": 0.125}, rel=1e-5)  # all guess
    assert compiled([linear("a"), linear("b")]).heard() == {"a": 1.0, "b": 1.0}
