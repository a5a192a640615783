"""Teachers against NumPy twins written from the equations, and SciPy where one is an optimum."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from tests.small_cohorts import IMAGES, compiled, fit, linear
from tests.small_cohorts import LABELS as FOUR
from xkd_keras.distillation import losses, teachers
from xkd_keras.distillation.cohort import Cohort
from xkd_keras.errors import InputError

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 3, (3, 5, 7)).astype("float32")  # [peers, batch, classes]
LABELS = RNG.integers(0, 7, 5)
WEIGHTS = [0.5, 0.3, 0.2]
ROWS = np.arange(5)


def call(name, logits=LOGITS, labels=LABELS):
    """Call a teacher as a Cohort does."""
    return teachers.get(name)(
        tf.constant(logits), weights=tf.constant(WEIGHTS), labels=tf.constant(labels), images=None
    ).numpy()


def cross_entropy(logits, labels=LABELS):
    """The NumPy twin: [..., B]."""
    return -log_softmax(logits.astype("f8"), -1)[..., np.arange(len(labels)), labels]


def test_mean_teacher_is_the_weighted_sum_for_every_peer():
    want = np.einsum("p,pbc->bc", WEIGHTS, LOGITS)
    got = teachers.mean(tf.constant(LOGITS), WEIGHTS)
    np.testing.assert_allclose(got, np.stack([want] * 3), rtol=1e-5, atol=1e-6)


def test_leave_one_out_teacher_is_the_weighted_mean_of_the_others():
    want = [
        (0.3 * LOGITS[1] + 0.2 * LOGITS[2]) / 0.5,
        (0.5 * LOGITS[0] + 0.2 * LOGITS[2]) / 0.7,
        (0.5 * LOGITS[0] + 0.3 * LOGITS[1]) / 0.8,
    ]
    got = teachers.leave_one_out(tf.constant(LOGITS), WEIGHTS)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_the_others_teach_exactly_also_where_one_peer_has_nearly_all_the_weight():
    z = np.random.default_rng(5).normal(size=(2, 6, 4)).astype("float32") * 10
    taught = teachers.leave_one_out(z, tf.constant([1.0 - 1e-6, 1e-6]))
    np.testing.assert_array_equal(taught, z[::-1])


def test_leave_one_out_of_a_single_peer_is_itself():
    got = teachers.leave_one_out(tf.constant(LOGITS[:1]), [1.0])
    np.testing.assert_array_equal(got, LOGITS[:1])


def test_leave_one_out_where_one_peer_has_all_the_weight_is_that_peer():
    got = teachers.leave_one_out(tf.constant(LOGITS), [1.0, 0.0, 0.0])
    np.testing.assert_allclose(got, np.stack([LOGITS[0]] * 3), atol=1e-6)


def test_pairwise_gives_each_peer_all_the_others():
    got = call("pairwise")
    assert got.shape == (2, 3, 5, 7)
    for i in range(3):
        others = {j for j in range(3) for k in range(2) if np.array_equal(got[k, i], LOGITS[j])}
        assert others == {0, 1, 2} - {i}


def test_pairwise_terms_are_those_of_deep_mutual_learning():
    p = softmax(LOGITS.astype("f8"), -1)
    want = [
        np.mean([np.sum(p[j] * np.log(p[j] / p[i]), -1) for j in range(3) if j != i], axis=0)
        for i in range(3)
    ]
    got = tf.reduce_mean(losses.distillation(call("pairwise"), LOGITS, 1.0), axis=0)
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_best_is_the_peer_that_does_best_on_each_image():
    got = call("best")
    first = cross_entropy(LOGITS).argmin(0)
    assert len(set(first)) > 1
    for i in range(3):
        np.testing.assert_array_equal(got[i], LOGITS[first, ROWS])


@pytest.mark.parametrize(("scale", "within"), [(0.3, 1e-3), (1.0, 5e-3), (3.0, 2e-2)])
@pytest.mark.parametrize("seed", range(4))
def test_linear_is_for_each_image_the_convex_combination_with_least_cross_entropy(
    seed, scale, within
):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (3, 16, 7)).astype("float32")
    labels = np.where(rng.random(16) < 0.6, logits[seed % 3].argmax(-1), rng.integers(0, 7, 16))

    one = {"type": "eq", "fun": lambda a: a.sum() - 1}
    want = []
    for z, label in zip(logits.transpose(1, 0, 2).astype("f8"), labels, strict=True):
        start, box = np.ones(3) / 3, [(0, 1)] * 3
        loss = lambda a, z=z, label=label: -log_softmax(a @ z)[label]  # noqa: E731
        want.append(minimize(loss, start, bounds=box, constraints=one).fun)
    got = cross_entropy(call("linear", logits, labels), labels)
    np.testing.assert_allclose(got, [want] * 3, atol=within)


def test_min_logit_has_the_smallest_difference_of_any_peer():
    above = LOGITS - LOGITS[:, ROWS, LABELS][..., None]
    got = call("min_logit")
    np.testing.assert_allclose(got, np.stack([above.min(0)] * 3), rtol=1e-5, atol=1e-6)


def test_no_peer_has_a_smaller_cross_entropy_than_min_logit():
    assert np.all(cross_entropy(call("min_logit"))[0] <= cross_entropy(LOGITS).min(0) + 1e-6)


def test_a_gate_starts_as_the_plain_mean():
    gate = teachers.Gate()
    gate.build((3, None, 7))
    got = gate(tf.constant(LOGITS), weights=None, labels=tf.constant(LABELS), images=None)
    np.testing.assert_allclose(got, np.stack([LOGITS.mean(0)] * 3), rtol=1e-4, atol=1e-5)


def test_a_gate_weighs_by_image_and_learns_from_the_labels_alone():
    gate = teachers.Gate()
    gate.build((3, None, 7))
    kernel, bias = RNG.normal(size=(21, 3)), RNG.normal(size=3)
    gate.set_weights([kernel, bias])
    z = tf.Variable(LOGITS)
    with tf.GradientTape() as tape:
        got = gate(z, weights=None, labels=tf.constant(LABELS), images=None)
        (loss,) = gate.losses
    p = softmax(LOGITS.astype("f8"), -1).transpose(1, 0, 2).reshape(5, 21)
    shares = softmax(p @ kernel + bias, -1)
    want = np.einsum("bp,pbc->bc", shares, LOGITS)
    np.testing.assert_allclose(got[1], want, rtol=1e-4, atol=1e-5)
    assert float(loss) == pytest.approx(cross_entropy(want).mean(), rel=1e-5)
    to_peers, to_gate = tape.gradient(loss, [z, gate.kernel])
    assert to_peers is None
    assert np.abs(to_gate).max() > 0


@pytest.mark.slow
def test_a_cohort_with_a_gate_learns_it_and_lowers_its_loss():
    cohort = compiled([linear("a"), linear("b")], teacher="gate", schedule=0.0, rate=0.05)
    gate = cohort._teacher
    frozen_peers = np.stack([p(IMAGES) for p in cohort.peers.values()])

    def loss():
        gate(tf.constant(frozen_peers), weights=None, labels=tf.constant(FOUR), images=None)
        return float(gate.losses[0])

    before = loss()
    for peer in cohort.peers.values():
        peer.trainable = False
    cohort = Cohort(cohort.peers, teacher=gate, schedule=0.0)
    cohort.compile(keras.optimizers.SGD(0.5))
    fit(cohort, 20)
    assert loss() < before - 0.01
    assert set(cohort.optimizer.by_peer) == {"a", "b", "ensemble"}


def test_a_teacher_that_is_a_class_is_made_and_learns(monkeypatch):
    monkeypatch.setitem(teachers.TEACHERS, "other", type("Other", (teachers.Gate,), {}))
    cohort = compiled([linear("a"), linear("b")], teacher="other")
    assert set(cohort.optimizer.by_peer) == {"a", "b", "ensemble"}


@pytest.mark.parametrize("kind", ["gate", "frozen"])
def test_a_cohort_whose_teacher_is_a_layer_is_saved_and_loaded_whole(tmp_path, kind):
    teacher = teachers.Frozen({"t": linear("t")}, {"t": 1.0}) if kind == "frozen" else "gate"
    cohort = compiled([linear("a"), linear("b")], teacher=teacher)
    fit(cohort, 2)
    cohort.save(tmp_path / "cohort.keras")
    loaded = keras.models.load_model(tmp_path / "cohort.keras")
    want, got = (c.evaluate(IMAGES, FOUR, verbose=0, return_dict=True) for c in (cohort, loaded))
    assert got == pytest.approx(want, rel=1e-5)


def test_a_frozen_teacher_is_the_weighted_mean_of_its_models_and_never_changes():
    models = {"s": linear("s"), "t": linear("t")}
    kept = [model.get_weights() for model in models.values()]
    cohort = compiled([linear("a")], teacher=teachers.Frozen(models, {"s": 3.0, "t": 1.0}))
    got = cohort.evaluate(IMAGES, FOUR, verbose=0, return_dict=True)
    networks = [cohort.peers["a"], *models.values()]
    z, s, t = (np.asarray(network(IMAGES), "f8") for network in networks)
    q = softmax((0.75 * s + 0.25 * t) / 3, -1)
    want = 9 * np.mean(np.sum(q * (np.log(q) - log_softmax(z / 3, -1)), -1))
    assert got["a_distillation"] == pytest.approx(want, rel=1e-4)
    fit(cohort, 3)
    for model, weights in zip(models.values(), kept, strict=True):
        for now, before in zip(model.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(now, before)


def test_unknown_teacher_is_named_with_the_nearest():
    with pytest.raises(InputError, match=r"teacher: unknown value 'meen'\. Did you mean 'mean'"):
        teachers.get("meen")


class TestGated:
    """The others, weighted by merit, where they know more."""

    def twin(self, z, labels):
        """Loop over peers and images; the others are CA-MKD's teachers, as its equation 3 has them.

        w_k = (1 - exp(CE_k) / sum_j exp(CE_j)) / (K - 1) for K teachers; labels are probabilities.
        """
        peers, batch, _ = z.shape
        target, gate = np.zeros_like(z), np.zeros((peers, batch))
        for b, label in enumerate(labels):
            ce = np.array([-label @ log_softmax(z[p, b]) for p in range(peers)])
            for p in range(peers):
                others = [q for q in range(peers) if q != p]
                whole = sum(np.exp(ce[q]) for q in others)
                w = [(1 - np.exp(ce[q]) / whole) / max(1, peers - 2) for q in others]
                w = w if peers > 2 else [1.0]
                target[p, b] = sum(each * z[q, b] for each, q in zip(w, others, strict=True))
                gate[p, b] = -label @ log_softmax(target[p, b]) < ce[p]
        return target, gate

    @pytest.mark.parametrize("peers", [2, 3, 4])
    @pytest.mark.parametrize("mixed", [False, True])
    def test_target_and_gate_are_their_equations(self, peers, mixed):
        rng = np.random.default_rng(peers)
        z, labels = rng.normal(0, 2, (peers, 9, 5)), rng.integers(0, 5, 9)
        shares = np.eye(5)[labels]
        if mixed:
            labels = shares = 0.6 * shares + 0.4 * shares[::-1]
        given = tf.constant(labels, tf.float32) if mixed else labels
        target, gate = teachers.gated(tf.constant(z, tf.float32), labels=given)
        expected = self.twin(z, shares)
        np.testing.assert_allclose(target, expected[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(gate, expected[1])
        assert 0 < np.mean(gate) < 1

    def test_how_wrong_the_pupil_is_does_not_change_how_its_teachers_are_weighed(self):
        """Two teachers with cross-entropies 1 and 3 weigh 0.881 and 0.119, whoever is taught."""

        def ce(value):  # logits with this cross-entropy for class 0
            return [0.0, np.log(np.expm1(value))]

        for pupil in (0.1, 2.0, 6.0):
            z = tf.constant([[ce(1.0)], [ce(3.0)], [ce(pupil)]], tf.float32)
            target, _ = teachers.gated(z, labels=np.array([0]))
            share = (target[2, 0, 1] - z[1, 0, 1]) / (z[0, 0, 1] - z[1, 0, 1])
            assert float(share) == pytest.approx(1 / (1 + np.exp(-2)), rel=1e-5)

    def test_a_single_peer_has_nobody_to_learn_from(self):
        _, gate = teachers.gated(tf.ones((1, 3, 4)), labels=np.array([0, 1, 2]))
        np.testing.assert_array_equal(gate, np.zeros((1, 3)))

    def test_where_the_gate_is_shut_a_peer_learns_from_labels_alone(self):
        """One step of two linear peers: the gradient of the bias, worked by hand."""
        cohort = Cohort([linear("a"), linear("b")], teacher="gated", temperature=1.0)
        cohort.compile(keras.optimizers.SGD(0.1))
        before = [peer.get_weights() for peer in cohort.peers.values()]
        z = np.stack([IMAGES.reshape(48, -1) @ kernel + bias for kernel, bias in before])
        _, gate = self.twin(z.astype("float64"), np.eye(4)[FOUR])
        history = cohort.fit(IMAGES, FOUR, batch_size=48, verbose=0).history
        p = softmax(z, -1)
        for i, (name, peer) in enumerate(cohort.peers.items()):
            slope = p[i] - np.eye(4)[FOUR] + gate[i][:, None] * (p[i] - p[1 - i])
            expected = before[i][1] - 0.1 * slope.mean(0)
            np.testing.assert_allclose(peer.get_weights()[1], expected, rtol=1e-3, atol=1e-5)
            assert history[f"{name}_gate"][0] == pytest.approx(gate[i].mean(), abs=1e-6)


def test_swapped_exchanges_the_label_with_what_the_ensemble_says_wrongly():
    """Peers with 0.75 and 0.25 of the ensemble, (1, 5, 2) and (0, 1, 7)."""
    one, other = [[1.0, 6.0, 2.0], [0.0, 0.0, 6.0]], [[1.0, 2.0, 2.0], [0.0, 4.0, 10.0]]
    z = np.array([one, other], "float32")
    got = teachers.swapped(tf.constant(z), weights=tf.constant([0.75, 0.25]), labels=[0, 2])
    np.testing.assert_allclose(got[0], [[5.0, 1.0, 2.0], [0.0, 1.0, 7.0]])
    np.testing.assert_allclose(got[1], got[0])


def test_of_several_teachers_each_peer_keeps_its_own_gate():
    gates = np.array([[1.0, 0.0], [0.25, 1.0], [0.5, 0.5]], "float32")

    def others(logits, **_):
        return tf.stack([tf.roll(logits, 1, axis=0), tf.roll(logits, 2, axis=0)]), gates

    cohort = Cohort([linear("a"), linear("b"), linear("c")], teacher=others)
    logits, taught, gate = cohort.teaching(IMAGES[:2], LABELS[:2])
    np.testing.assert_array_equal(gate, gates)
    for p in range(3):
        np.testing.assert_allclose(taught[p], (logits[p - 1] + logits[p - 2]) / 2, rtol=1e-5)
