"""The terms against NumPy twins written from the papers' equations, and steps worked by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

from tests.small_cohorts import IMAGES, LABELS, compiled, fit, linear
from xkd_keras import Cohort
from xkd_keras.distillation import terms
from xkd_keras.errors import InputError
from xkd_keras.flags import fields

RNG = np.random.default_rng(3)
TEACHER = RNG.normal(0, 3, (2, 6, 5)).astype("float32")  # [peers, batch, classes]
LOGITS = RNG.normal(0, 3, (2, 6, 5)).astype("float32")
CLASSES = RNG.integers(0, 5, 6)


def kl(q, p):
    return np.sum(q * np.log(q / p), axis=-1)


def kl_twin(teacher, z, labels, t):
    return t * t * kl(softmax(teacher / t, -1), softmax(z / t, -1))


def reverse_twin(teacher, z, labels, t):
    return t * t * kl(softmax(z / t, -1), softmax(teacher / t, -1))


def standardized_twin(teacher, z, labels, t):
    def score(x):
        return (x - x.mean(-1, keepdims=True)) / x.std(-1, ddof=1, keepdims=True)

    return kl_twin(score(teacher), score(z), labels, t)


def pearson_twin(teacher, z, labels, t):
    q, p = softmax(teacher / t, -1), softmax(z / t, -1)
    result = np.zeros(z.shape[:2])
    for i in range(z.shape[0]):
        across = np.mean([np.corrcoef(q[i, :, c], p[i, :, c])[0, 1] for c in range(z.shape[2])])
        for b in range(z.shape[1]):
            result[i, b] = 2 - np.corrcoef(q[i, b], p[i, b])[0, 1] - across
    return t * t * result


def refined_twin(teacher, z, labels, t):
    """Loop over the images, as the paper's sections 3.2 and 3.3 describe them."""
    result = np.zeros(z.shape[:2])
    for i in range(z.shape[0]):
        for b, label in enumerate(labels):
            confident = softmax(teacher[i, b]).max()
            own = softmax(z[i, b])[label]
            binary = kl(np.array([confident, 1 - confident]), np.array([own, 1 - own]))
            below = teacher[i, b] < teacher[i, b, label]
            masked = 0.0
            if below.any():
                q, p = softmax(teacher[i, b][below] / t), softmax(z[i, b][below] / t)
                masked = t * t * kl(q, p)
            result[i, b] = binary + 8 * masked
    return result


TWINS = {
    "kl": kl_twin,
    "standardized": standardized_twin,
    "pearson": pearson_twin,
    "refined": refined_twin,
    "reverse": reverse_twin,
}


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("name", terms.TERMS)
def test_a_term_is_its_equation(name, temperature):
    got = terms.TERMS[name](TEACHER, LOGITS, CLASSES, temperature)
    double = TEACHER.astype("float64"), LOGITS.astype("float64")
    np.testing.assert_allclose(got, TWINS[name](*double, CLASSES, temperature), rtol=3e-4)


@pytest.mark.parametrize("name", terms.TERMS)
def test_several_teachers_have_a_term_each(name):
    stacked = np.stack([TEACHER, TEACHER[::-1]])
    got = terms.TERMS[name](stacked, LOGITS, CLASSES, 2.0)
    assert got.shape == (2, 2, 6)
    np.testing.assert_allclose(
        got[1], terms.TERMS[name](TEACHER[::-1], LOGITS, CLASSES, 2.0), rtol=1e-4
    )


@pytest.mark.parametrize("name", ["kl", "reverse", "standardized", "pearson"])
def test_a_peer_that_agrees_with_its_teacher_has_nothing_to_learn(name):
    np.testing.assert_allclose(terms.TERMS[name](LOGITS, LOGITS, CLASSES, 3.0), 0, atol=2e-5)


@pytest.mark.parametrize("name", ["standardized", "pearson"])
def test_scale_and_shift_of_the_teacher_do_not_matter_where_the_paper_says_so(name):
    """Of logits for `standardized`; of probabilities, so of shifts alone, for `pearson`."""
    moved = 2.5 * TEACHER + 7 if name == "standardized" else TEACHER + 7
    got, same = (terms.TERMS[name](t, LOGITS, CLASSES, 2.0) for t in (moved, TEACHER))
    np.testing.assert_allclose(got, same, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", terms.TERMS)
def test_no_gradient_reaches_the_teacher_and_the_peers_is_finite(name):
    teacher, z = tf.Variable(TEACHER), tf.Variable(LOGITS)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(terms.TERMS[name](teacher, z, CLASSES, 2.0))
    slopes = tape.gradient(total, [teacher, z])
    assert slopes[0] is None
    assert np.isfinite(slopes[1]).all()


@pytest.mark.parametrize("kind", [tf.float32, tf.float16, tf.bfloat16])
@pytest.mark.parametrize("name", terms.TERMS)
def test_a_temperature_at_which_probabilities_vanish_gives_finite_gradients(name, kind):
    teacher, z = tf.cast(TEACHER, kind), tf.Variable(tf.cast(100 * LOGITS, kind))
    with tf.GradientTape() as tape:
        term = terms.TERMS[name](teacher, z, CLASSES, 0.05)
        total = tf.reduce_sum(term)
    assert np.isfinite(term).all()
    assert np.isfinite(tf.cast(tape.gradient(total, z), tf.float32)).all()


@pytest.mark.parametrize("name", terms.TERMS)
def test_logits_that_are_all_equal_give_finite_terms_and_gradients(name):
    z = tf.Variable(np.zeros((1, 3, 4), "float32"))
    with tf.GradientTape() as tape:
        term = terms.TERMS[name](np.zeros((1, 3, 4)), z, np.array([0, 1, 2]), 2.0)
        total = tf.reduce_sum(term)
    assert np.isfinite(term).all()
    assert np.isfinite(tape.gradient(total, z)).all()


def test_several_teachers_of_a_cohort_count_as_much_as_each_other():
    """The gradient of the mean over teachers is the mean of the gradients, worked by hand."""
    options = {"teacher": "pairwise", "temperature": 1.0, "eager": True}
    cohort = compiled([linear(n) for n in "abc"], **options)
    before = [peer.get_weights() for peer in cohort.peers.values()]
    z = np.stack([IMAGES.reshape(48, -1) @ kernel + bias for kernel, bias in before])
    p = softmax(z, -1)
    cohort.fit(IMAGES, LABELS, batch_size=48, verbose=0)
    others = (p.sum(0) - p[0]) / 2
    slope = np.mean(p[0] - np.eye(4)[LABELS] + p[0] - others, axis=0)
    got = cohort.peers["a"].get_weights()[1]
    np.testing.assert_allclose(got, before[0][1] - 0.1 * slope, rtol=1e-4, atol=1e-6)


def test_flags_know_every_term():
    assert tuple(terms.TERMS) == fields.TERMS


def test_an_unknown_term_is_named_with_the_nearest():
    with pytest.raises(InputError, match=r"^term: unknown value 'standard'.*'standardized'\?"):
        Cohort([linear("a")], term="standard")


def test_a_function_of_other_arguments_is_no_term():
    with pytest.raises(InputError, match=r"^term: .*teacher_logits, logits, labels, temperature"):
        Cohort([linear("a")], term=lambda z: z)


class TestFactors:
    """lambda of one peer is its own factor times lambda of the step."""

    def test_a_peer_with_factor_0_learns_as_if_alone(self):
        taught = Cohort([linear("a"), linear("b")], distill={"a": 0.0}, temperature=1.0)
        alone = Cohort([linear("a"), linear("b")], schedule=0.0)
        alone.set_weights(taught.get_weights())
        for cohort in (taught, alone):
            cohort.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
            fit(cohort)
        weights = [[p.get_weights() for p in c.peers.values()] for c in (taught, alone)]
        np.testing.assert_allclose(weights[0][0][0], weights[1][0][0], rtol=1e-6)
        assert np.abs(weights[0][1][0] - weights[1][1][0]).max() > 1e-4

    def test_a_step_is_worked_by_hand(self):
        """d/db of CE + f T^2 KL at T = 1 is (p - y) + f (p - q), averaged over the batch."""
        options = {"distill": {"a": 0.5, "b": 2.0}, "temperature": 1.0, "eager": True}
        cohort = compiled([linear("a"), linear("b")], **options)
        before = [peer.get_weights() for peer in cohort.peers.values()]
        z = np.stack([IMAGES.reshape(48, -1) @ kernel + bias for kernel, bias in before])
        p, q = softmax(z, -1), softmax(z.mean(0), -1)
        cohort.fit(IMAGES, LABELS, batch_size=48, verbose=0)
        for i, (peer, factor) in enumerate(zip(cohort.peers.values(), (0.5, 2.0), strict=True)):
            slope = np.mean(p[i] - np.eye(4)[LABELS] + factor * (p[i] - q), axis=0)
            expected = before[i][1] - 0.1 * slope
            np.testing.assert_allclose(peer.get_weights()[1], expected, rtol=1e-4, atol=1e-6)

    def test_factors_and_term_survive_saving(self, tmp_path):
        cohort = Cohort([linear("a"), linear("b")], term="pearson", distill={"b": 0.25})
        cohort.save(tmp_path / "cohort.keras")
        loaded = keras.models.load_model(tmp_path / "cohort.keras")
        assert loaded.term == "pearson"
        assert dict(loaded.distill) == {"a": 1.0, "b": 0.25}

    @pytest.mark.parametrize(
        ("given", "told"), [({"c": 1.0}, "unknown peer 'c'"), ({"a": -1.0}, "'a': received -1.0")]
    )
    def test_a_bad_factor_is_named(self, given, told):
        with pytest.raises(InputError, match=f"^distill: {told}"):
            Cohort([linear("a"), linear("b")], distill=given)


def test_cross_entropy_of_the_twin_is_scipys():
    """The twins' own arithmetic: KL(q || p) = CE(q, p) - H(q)."""
    q, p = softmax(TEACHER[0].astype("float64"), -1), softmax(LOGITS[0].astype("float64"), -1)
    entropy = -np.sum(q * np.log(q), -1)
    np.testing.assert_allclose(
        kl(q, p), -np.sum(q * log_softmax(LOGITS[0], -1), -1) - entropy, rtol=1e-5
    )
