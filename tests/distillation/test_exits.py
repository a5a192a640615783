"""Exits: heads on stages that learn and teach; losses and steps against NumPy, and left behind."""

import keras
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from tests.small_cohorts import IMAGES, LABELS, Own, compiled, fit
from xkd_keras import Cohort
from xkd_keras.distillation import exits
from xkd_keras.errors import InputError
from xkd_keras.runs import checkpoint

LAYERS = {"a": ["first"], "b": ["first", "second"]}
RNG = np.random.default_rng(5)
MAIN = RNG.normal(size=(2, 5, 3)).astype("float32")
EARLY = [[RNG.normal(size=(5, 3)).astype("float32") for _ in range(n)] for n in (1, 2)]
OF_FIVE = np.array([0, 1, 2, 1, 0])


def stages(name, width):
    """Two convolutions, the second of half the resolution."""
    inputs = keras.Input((6, 6, 2))
    options = {"padding": "same", "activation": "relu"}
    x = keras.layers.Conv2D(width, 3, name="first", **options)(inputs)
    x = keras.layers.Conv2D(width, 3, strides=2, name="second", **options)(x)
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(x)), name=name)


def calling_twice():
    relu = keras.layers.ReLU(name="relu")
    inputs = keras.Input((6, 6, 2))
    x = relu(keras.layers.Conv2D(4, 3, name="first")(relu(inputs)))
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(x)), name="twice")


def pair():
    keras.utils.set_random_seed(0)
    return [stages("a", 4), stages("b", 6)]


def kl(teacher, logits, temperature):
    q, p = (log_softmax(z / temperature, -1) for z in (teacher, logits))
    return temperature**2 * np.sum(np.exp(q) * (q - p), -1)


def test_an_exit_learns_from_the_labels_and_from_every_head_of_the_others():
    labelled, distilled = exits.terms(OF_FIVE, MAIN, EARLY, 2.0)
    for i, j in ((0, 1), (1, 0)):
        entropy = sum(-log_softmax(z, -1)[np.arange(5), OF_FIVE] for z in EARLY[i])
        teachers = [MAIN[j], *EARLY[j]]
        taught = sum(np.mean([kl(t, z, 2.0) for t in teachers], 0) for z in EARLY[i])
        np.testing.assert_allclose(labelled[i], entropy, rtol=1e-5)
        np.testing.assert_allclose(distilled[i], taught, rtol=1e-5)


def test_smoothed_labels_are_those_of_exits_too():
    labelled, _ = exits.terms(OF_FIVE, MAIN, EARLY, 1.0, smoothing=0.3)
    target = 0.7 * np.eye(3)[OF_FIVE] + 0.1
    want = -np.sum(target * log_softmax(EARLY[0][0], -1), -1)
    np.testing.assert_allclose(labelled[0], want, rtol=1e-5)


def test_a_head_that_is_not_finite_teaches_nobody():
    broken = MAIN.copy()
    broken[1, 2, 0] = np.nan
    _, distilled = exits.terms(OF_FIVE, broken, EARLY, 1.0)
    rest = np.mean([kl(t[2], EARLY[0][0][2], 1.0) for t in EARLY[1]]) * 2 / 3  # of three teachers
    assert float(distilled[0][2]) == pytest.approx(rest, rel=1e-5)


def test_the_loss_has_the_terms_of_the_exits_and_the_metrics_are_of_the_peers_alone():
    peers = pair()
    cohort = Cohort(peers, 0.5, "pairwise", temperature=2.0, distill={"b": 0.25}, exits=LAYERS)
    cohort.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    z = np.stack([peer(IMAGES) for peer in peers])
    early = []
    for peer in peers:
        outputs = [peer.get_layer(layer).output for layer in LAYERS[peer.name]]
        maps = keras.Model(peer.input, outputs)(IMAGES)
        maps = [np.asarray(each) for each in (maps if isinstance(maps, list) else [maps])]
        heads = [head.get_weights() for head in cohort.exits.heads[peer.name]]
        early.append([m.mean((1, 2)) @ w + b for m, (w, b) in zip(maps, heads, strict=True)])
    want = 0.0
    for i, j, factor in ((0, 1, 1.0), (1, 0, 0.25)):
        entropies = [-log_softmax(each, -1)[np.arange(48), LABELS] for each in (z[i], *early[i])]
        taught = [kl(z[j], z[i], 2.0)]
        taught += [np.mean([kl(t, e, 2.0) for t in (z[j], *early[j])], 0) for e in early[i]]
        want += np.mean(np.sum(entropies, 0) + 0.5 * factor * np.sum(taught, 0))
    shown = cohort.train_on_batch(IMAGES, LABELS, return_dict=True)
    assert shown["loss"] == pytest.approx(want, rel=1e-4)
    alone = -log_softmax(z[0], -1)[np.arange(48), LABELS].mean()
    assert shown["a_cross_entropy"] == pytest.approx(alone, rel=1e-4)


def test_a_step_moves_a_head_by_the_gradient_of_its_own_losses():
    peers = pair()
    options = {"schedule": 0.5, "teacher": "pairwise", "temperature": 1.0, "exits": LAYERS}
    cohort = compiled(peers, 0.1, eager=True, **options)
    (head,) = cohort.exits.heads["a"]
    maps = keras.Model(peers[0].input, peers[0].get_layer("first").output)
    x = np.asarray(maps(IMAGES[:16])).mean((1, 2))
    z = cohort.exits.logits(IMAGES[:16])
    kernel, bias = head.get_weights()
    p = softmax(x @ kernel + bias, -1)
    teachers = np.mean([softmax(np.array(t), -1) for t in (z[0][1], *z[1][1])], 0)
    push = p - np.eye(4)[LABELS[:16]] + 0.5 * (p - teachers)
    cohort.train_on_batch(IMAGES[:16], LABELS[:16])
    np.testing.assert_allclose(head.get_weights()[0], kernel - 0.1 * x.T @ push / 16, atol=1e-6)


def test_peers_are_no_larger_and_a_saved_cohort_keeps_its_heads(tmp_path):
    peers = pair()
    size = peers[0].count_params()
    cohort = compiled(peers, exits=LAYERS)
    fit(cohort)
    assert cohort.peers["a"].count_params() == size
    assert len(cohort.peers["a"].outputs) == 1
    cohort.save(tmp_path / "cohort.keras")
    loaded = keras.models.load_model(tmp_path / "cohort.keras")
    assert loaded.exits.layers_of == LAYERS
    for x, y in zip(cohort.exits.variables, loaded.exits.variables, strict=True):
        np.testing.assert_array_equal(x, y)
    for each in (cohort, loaded):
        fit(each)
    for x, y in zip(cohort.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_peer_without_a_graph_learns_beside_one_with_exits():
    cohort = compiled([pair()[0], Own("b")], exits={"a": ["first"]})
    assert np.isfinite(fit(cohort).history["loss"]).all()


def test_heads_are_part_of_what_a_run_is():
    cohort = compiled(pair(), exits=LAYERS)
    kept = {id(variable) for variable in checkpoint.state(cohort)}
    assert len(cohort.exits.variables) == 6
    assert all(id(variable) in kept for variable in cohort.exits.variables)


def test_the_seed_decides_the_first_weights_of_heads():
    first, again, other = (Cohort(pair(), exits=LAYERS, seed=seed) for seed in (3, 3, 4))
    kernels = [cohort.exits.variables[0].numpy() for cohort in (first, again, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.any(kernels[0] != kernels[2])


def test_two_replicas_take_the_steps_of_one(two_cpus):
    options = {"exits": LAYERS, "teacher": "gated", "term": "standardized"}
    one = compiled(pair(), **options)
    with two_cpus.scope():
        two = compiled(pair(), **options)
    for cohort in (one, two):
        fit(cohort, 2)
    for x, y in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_a_peer_whose_head_is_broken_sits_the_step_out_alone():
    cohort = Cohort(pair(), exits=LAYERS)
    cohort.compile(keras.optimizers.SGD(0.1), on_nonfinite="skip")
    cohort.exits.heads["a"][0].bias.assign([np.nan] * 4)
    before = {name: peer.get_weights() for name, peer in cohort.peers.items()}
    shown = cohort.train_on_batch(IMAGES, LABELS, return_dict=True)
    assert (shown["a_skipped"], shown["b_skipped"]) == (1.0, 0.0)
    for x, y in zip(before["a"], cohort.peers["a"].get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)
    assert np.any(before["b"][0] != cohort.peers["b"].get_weights()[0])
    assert np.all(np.isfinite(cohort.peers["b"].get_weights()[0]))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"c": ["first"]}, r"unknown peer 'c'.* valid: a, b, twice"),
        ({"a": ["frist"]}, r"unknown layer \(of 'a'\) 'frist'\. Did you mean 'first'"),
        ({"a": ["dense"]}, r"'dense' of 'a' does not return \[batch, height, width, channels\]"),
        (
            {"twice": ["relu"]},
            r"'relu' is called 2 times in 'twice'; valid: the name of one layer",
        ),
    ],
)
def test_what_has_no_heads_is_said(given, says):
    peers = [*pair(), calling_twice()]
    peers[0].layers[-1].name = "dense"
    with pytest.raises(InputError, match=says):
        Cohort(peers, exits=given)
