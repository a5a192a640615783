"""Similarity of features: its term and steps against NumPy; which networks have features."""

import contextlib

import keras
import numpy as np
import pytest
from scipy.special import log_softmax

from tests.small_cohorts import IMAGES, LABELS, Own, compiled, convolutional, fit
from xkd_keras import Cohort
from xkd_keras.distillation import methods, similar
from xkd_keras.errors import InputError

RNG = np.random.default_rng(7)
READ = [RNG.normal(size=(5, width)).astype("float32") for width in (3, 4, 6)]


def rows(features):
    """How alike two images are to a network, every row of length one."""
    alike = features @ features.T
    return alike / np.linalg.norm(alike, axis=1, keepdims=True)


def apart(read):
    """The equation of the module, at gamma 1: a number per peer."""
    found = [rows(each) for each in read]
    return [
        np.mean([np.sum((b - a) ** 2) / len(a) for j, b in enumerate(found) if j != i])
        for i, a in enumerate(found)
    ]


def pair():
    keras.utils.set_random_seed(0)
    return [convolutional("a", 4), convolutional("b", 7)]


def sgd(cohort, rate, eager=True):
    """Compile with plain SGD; a single step is quicker eager than traced."""
    cohort.compile(keras.optimizers.SGD(rate), run_eagerly=eager)


def xkd(members, rate, eager=False, **options):
    """The default method with plain SGD, at lambda 0.8."""
    own = {name: methods.own("xkd", name, None) for name in ("adapt", "similarity")}
    cohort = Cohort(members, 0.8, "leave_one_out", **own, **options)
    sgd(cohort, rate, eager)
    return cohort


def features_of(peer, images):
    return np.asarray(keras.Model(peer.input, peer.layers[-1].input)(images))


def test_the_term_is_that_of_its_equation_for_features_of_any_width():
    got = similar.terms(READ).numpy()
    assert got.shape == (3, 5)
    np.testing.assert_allclose(got.mean(1), apart(READ), rtol=1e-5)


def test_networks_that_find_the_same_images_alike_have_nothing_to_learn_from_each_other():
    rotation, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
    turned = (2.5 * READ[0] @ rotation).astype("float32")
    np.testing.assert_allclose(similar.terms([READ[0], turned]), 0, atol=1e-12)


def test_an_image_that_is_not_finite_for_a_peer_is_not_taught_by_it():
    broken = READ[1].copy()
    broken[2] = np.nan
    got = similar.terms([READ[0], broken]).numpy()
    np.testing.assert_array_equal(got[0], 0)  # all rows hold the image that is broken
    assert similar.terms([READ[0], broken, READ[2]]).numpy()[0] == pytest.approx(
        similar.terms([READ[0], READ[2]]).numpy()[0] / 2, rel=1e-5
    )


def test_the_loss_has_the_term_times_lambda_gamma_and_the_peers_factor():
    members = pair()
    cohort = Cohort(members, 0.5, "pairwise", distill={"b": 0.25}, similarity=0.6)
    sgd(cohort, 0.0)
    plain = Cohort(members, 0.5, "pairwise", distill={"b": 0.25})
    sgd(plain, 0.0)
    shown, without = (
        each.train_on_batch(IMAGES, LABELS, return_dict=True) for each in (cohort, plain)
    )
    a, b = apart([features_of(peer, IMAGES) for peer in members])
    more = 0.5 * 0.6 * (a + 0.25 * b)
    assert shown["loss"] - without["loss"] == pytest.approx(more, rel=1e-3)
    alone = -log_softmax(members[0](IMAGES), -1)[np.arange(48), LABELS].mean()
    assert shown["a_cross_entropy"] == pytest.approx(alone, rel=1e-4)


def test_the_loss_of_xkd_has_labels_what_is_heard_and_features_in_full():
    """The README's equation, for three peers that count, learn and hear unequally."""
    members = [*pair(), convolutional("c", 5)]
    shares, factors, lost = np.array([0.5, 0.25, 0.25]), [1.0, 0.5, 2.0], np.array([0.3, 1.2, 2.0])
    given = {"weights": shares.tolist(), "distill": factors}
    given = {key: dict(zip("abc", values, strict=True)) for key, values in given.items()}
    cohort = xkd(members, 0.0, eager=True, **given)
    cohort.mastery.cross_entropy.assign(lost)
    z = np.stack([peer(IMAGES) for peer in members]).astype("float64")
    entropy = -log_softmax(z, -1)[:, np.arange(48), LABELS].mean(1)
    alike = apart([features_of(peer, IMAGES) for peer in members])
    want = 0.0
    for i, factor in enumerate(factors):
        others = [j for j in range(3) if j != i]
        known = shares[others] * np.exp(-lost[others])
        teacher = np.average(z[others], axis=0, weights=known)
        q, p = log_softmax(teacher / 3.0, -1), log_softmax(z[i] / 3.0, -1)
        taught = 9.0 * np.sum(np.exp(q) * (q - p), -1).mean() * known.sum() / shares[others].sum()
        want += entropy[i] + factor * 0.8 * (taught + 1.5625 * alike[i])
    shown = cohort.train_on_batch(IMAGES, LABELS, return_dict=True)
    assert shown["loss"] == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("term", ["kl", pytest.param("pearson", marks=pytest.mark.slow)])
def test_two_replicas_compare_images_each_within_its_own_half_of_a_batch(two_cpus, term):
    """Their features, and with `pearson` what they say of a class: their step is the mean of the
    steps that one replica takes on either half.
    """
    steps, losses = [], []
    for rows in (slice(0, 8), slice(8, 16), slice(0, 16)):
        with two_cpus.scope() if rows == slice(0, 16) else contextlib.nullcontext():
            cohort = xkd(pair(), 0.5, term=term)
        start = cohort.get_weights()
        data = IMAGES[rows], LABELS[rows]
        kept = cohort.fit(*data, batch_size=16, shuffle=False, verbose=0).history
        steps.append([x - y for x, y in zip(cohort.get_weights(), start, strict=True)])
        losses.append(kept["loss"][0])
    assert losses[2] == pytest.approx(np.mean(losses[:2]), rel=1e-5)
    for one, other, both in zip(*steps, strict=True):
        np.testing.assert_allclose(both, (one + other) / 2, atol=1e-6)


def test_features_move_by_the_difference_of_the_peers_alone():
    """The step of a's convolution, by finite differences of NumPy's term; b is held still."""
    members = pair()
    kernel = members[0].layers[1].get_weights()[0].astype("float64")
    cohort = Cohort(members, 1.0, "pairwise", distill={"b": 0.0}, similarity=60.0, temperature=1.0)
    sgd(cohort, 0.1)
    plain = [convolutional("a", 4), convolutional("b", 7)]
    for one, other in zip(plain, members, strict=True):
        one.set_weights(other.get_weights())
    without = Cohort(plain, 1.0, "pairwise", distill={"b": 0.0}, temperature=1.0)
    sgd(without, 0.1)
    still = features_of(members[1], IMAGES[:8])
    probe = keras.Model(members[0].input, members[0].layers[-1].input)

    def term(change):
        kept = members[0].layers[1].get_weights()
        members[0].layers[1].set_weights([kept[0] + change, kept[1]])
        value = apart([np.asarray(probe(IMAGES[:8]), "float64"), still])[0]
        members[0].layers[1].set_weights(kept)
        return value

    direction = RNG.normal(size=kernel.shape)
    direction /= np.linalg.norm(direction)
    slope = (term(1e-3 * direction) - term(-1e-3 * direction)) / 2e-3
    for each in (cohort, without):
        each.train_on_batch(IMAGES[:8], LABELS[:8])
    moved = members[0].layers[1].get_weights()[0] - plain[0].layers[1].get_weights()[0]
    assert np.sum(moved * direction) == pytest.approx(-0.1 * 60.0 * slope, rel=0.02)


def ending(name, end):
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Dense(5, name="last_but_one")(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, end(x), name=name)


def test_a_network_without_a_graph_or_that_ends_in_such_a_one_has_no_features():
    assert similar.features(Own()) is None
    inputs = keras.Input((6, 6, 2))
    assert similar.features(keras.Model(inputs, Own("a")(inputs))) is None


def test_features_are_read_before_dropout_and_whatever_comes_after_the_last_layer():
    dropped = ending("a", lambda x: keras.layers.Dense(4)(keras.layers.Dropout(0.5)(x)))
    scaled = ending("b", lambda x: keras.layers.Dense(4)(x) / 2.0)
    for peer in (dropped, scaled):
        assert similar.features(peer) is peer.get_layer("last_but_one").output


@pytest.mark.parametrize(
    "between",
    [
        [keras.layers.Dropout(0.2), keras.layers.Flatten(), keras.layers.Activation("relu")],
        [keras.layers.GaussianDropout(0.3), keras.layers.Dropout(0.2)],
        [keras.layers.Reshape((5, 1)), keras.layers.AlphaDropout(0.3), keras.layers.Flatten()],
    ],
    ids=["as MobileNetV3 ends", "another kind", "reshaped"],
)
def test_features_are_before_every_dropout_that_the_last_layer_reads_through(between):
    def end(x):
        for layer in between:
            x = layer(x)
        return keras.layers.Dense(4)(x)

    peer = ending("b", end)
    values = keras.Model(peer.input, similar.features(peer))
    first, second = (np.asarray(values(IMAGES, training=True)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_peer_without_a_share_teaches_no_features_but_learns_them():
    members = pair()
    cohort = Cohort(members, 1.0, "pairwise", weights={"a": 1.0, "b": 0.0}, similarity=3.0)
    plain = Cohort(members, 1.0, "pairwise", weights={"a": 1.0, "b": 0.0})
    for each in (cohort, plain):
        sgd(each, 0.0)
    shown, without = (
        each.train_on_batch(IMAGES, LABELS, return_dict=True) for each in (cohort, plain)
    )
    more = 3.0 * apart([features_of(peer, IMAGES) for peer in members])[1]
    assert shown["loss"] - without["loss"] == pytest.approx(more, rel=1e-3)


def test_an_image_of_weight_0_changes_no_step_whatever_it_shows():
    weights, seen = np.ones(48), []
    weights[5] = 0.0
    for pixel in (0.0, 30.0, -5.0):
        images = IMAGES.copy()
        images[5] = pixel
        cohort = Cohort(pair(), 1.0, similarity=10.0)
        sgd(cohort, 0.1)
        cohort.train_on_batch(images, LABELS, sample_weight=weights)
        seen.append(cohort.get_weights())
    for other in seen[1:]:
        for x, y in zip(seen[0], other, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-6)


def test_a_peer_without_features_learns_beside_those_that_have_them():
    own = Own()
    members = [*pair(), own]
    cohort = Cohort(members, 1.0, "pairwise", similarity=3.0)
    plain = Cohort(members, 1.0, "pairwise")
    for each in (cohort, plain):
        sgd(each, 0.0)
    shown, without = (
        each.train_on_batch(IMAGES, LABELS, return_dict=True) for each in (cohort, plain)
    )
    more = 3.0 * sum(apart([features_of(peer, IMAGES) for peer in members[:2]]))
    assert shown["loss"] - without["loss"] == pytest.approx(more, rel=1e-3)
    alone = compiled([own], similarity=3.0)
    assert np.isfinite(fit(alone).history["loss"]).all()


def test_the_weight_of_the_term_does_not_depend_on_the_size_of_the_batch():
    wide = [RNG.normal(size=(64, width)).astype("float32") for width in (3, 6)]
    parts = [similar.terms([each[a : a + 16] for each in wide]) for a in range(0, 64, 16)]
    whole, mean = float(np.mean(similar.terms(wide))), float(np.mean(parts))
    assert whole == pytest.approx(mean, rel=0.25)  # 1 / B^2 would make it a quarter


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"similarity": -1.0}, "similarity"),
        ({"similarity": 1.0, "exits": {"a": ["conv2d"]}}, "with exits; valid: 0"),
    ],
)
def test_what_does_not_go_is_said(more, says):
    members = pair()
    members[0].layers[1].name = "conv2d"
    with pytest.raises(InputError, match=says):
        Cohort(members, **more)


def test_a_saved_cohort_goes_on_as_it_would_have(tmp_path):
    cohort = compiled(pair(), similarity=1.0)
    fit(cohort)
    cohort.save(tmp_path / "cohort.keras")
    loaded = keras.models.load_model(tmp_path / "cohort.keras")
    assert loaded.similarity == 1.0
    for each in (cohort, loaded):
        fit(each)
    for x, y in zip(cohort.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)
    assert len(cohort.peers["a"].outputs) == 1


def test_a_broken_peer_sits_the_step_out_alone():
    cohort = Cohort(pair(), similarity=1.0)
    cohort.compile(keras.optimizers.SGD(0.1), on_nonfinite="skip")
    cohort.peers["a"].layers[1].bias.assign([np.inf] * 4)  # ReLU makes 0 of NaN
    before = {name: peer.get_weights() for name, peer in cohort.peers.items()}
    shown = cohort.train_on_batch(IMAGES, LABELS, return_dict=True)
    assert (shown["a_skipped"], shown["b_skipped"]) == (1.0, 0.0)
    assert np.any(before["b"][0] != cohort.peers["b"].get_weights()[0])
    assert np.all(np.isfinite(cohort.peers["b"].get_weights()[0]))
