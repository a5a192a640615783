"""A peer that overflows sits that step out, alone; half precision, whose gradients do so often."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.small_cohorts import IMAGES, LABELS
from xkd_keras import Cohort
from xkd_keras.distillation import nonfinite, optimizers
from xkd_keras.errors import InputError

HUGE = IMAGES[:16] * np.float32(1e38)  # a product with weights overflows; a clipped one does not
GOOD = IMAGES[16:32], LABELS[16:32]
# The default method, with all that may go with it.
XKD = {"teacher": "leave_one_out", "adapt": 1.0, "similarity": 1.5625, "mix": "both"}
XKD |= {"distill": {"robust": 0.5, "wild": 2.0}}
METHODS = pytest.mark.parametrize("method", [{}, XKD], ids=["mean", "xkd"])


def network(name, clipped):
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.ReLU(max_value=6)(inputs) if clipped else inputs
    x = keras.layers.Conv2D(4, 3, name="conv")(x)
    x = keras.layers.BatchNormalization(momentum=0.5)(x)
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(x)), name=name)


def cohort(*names, optimizer=None, on_nonfinite="skip", **options):
    keras.utils.set_random_seed(3)
    peers = [network(name, name == "robust") for name in ("robust", "wild")]
    made = Cohort([peer for peer in peers if peer.name in names], **options)
    made.compile(
        optimizer or optimizers.build("adamw", 0.01, weight_decay=0.1), on_nonfinite=on_nonfinite
    )
    return made


def state(cohort, name):
    optimizer = cohort.optimizer.by_peer[name]
    own = [v for v in optimizer.variables if v.path.rpartition("/")[2] != "iteration"]
    return [np.array(v) for v in [*cohort.peers[name].variables, *own]]


def assert_equal(a, b, **tolerance):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, **({"rtol": 0} | tolerance))


@METHODS
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_step_that_overflows_leaves_that_peer_as_it_was(kind, method):
    optimizer = optimizers.build(kind, 0.01, weight_decay=0.1)
    taught = cohort("robust", "wild", optimizer=optimizer, **method)
    taught.train_on_batch(*GOOD)
    before = state(taught, "wild")
    logs = taught.train_on_batch(HUGE, LABELS[:16], return_dict=True)
    assert_equal(state(taught, "wild"), before)
    assert (logs["wild_skipped"], logs["robust_skipped"]) == (1, 0)
    assert np.isfinite(list(logs.values())).all()


def test_the_others_learn_from_the_teacher_of_those_that_are_finite():
    """With one peer broken, the other is its own teacher: it learns as if it were alone."""
    taught, alone = cohort("robust", "wild"), cohort("robust")
    alone.peers["robust"].set_weights(taught.peers["robust"].get_weights())
    for one in (taught, alone):
        one.train_on_batch(HUGE, LABELS[:16])
    assert_equal(state(taught, "robust"), state(alone, "robust"), rtol=1e-5, atol=1e-6)


def test_after_a_skipped_step_the_peer_goes_on():
    taught = cohort("robust", "wild")
    taught.train_on_batch(HUGE, LABELS[:16])
    before = state(taught, "wild")
    taught.train_on_batch(*GOOD)
    assert any((a != b).any() for a, b in zip(before, state(taught, "wild"), strict=True))
    assert int(taught.optimizer.iterations) == 2


@METHODS
def test_over_replicas_all_of_them_skip_where_one_overflows(two_cpus, method):
    images = np.concatenate([HUGE[:8], GOOD[0][:8]])  # the first replica's half overflows
    with two_cpus.scope():
        taught = cohort("robust", "wild", **method)
    before = state(taught, "wild")
    history = taught.fit(images, LABELS[:16], batch_size=16, epochs=1, verbose=0).history
    assert_equal(state(taught, "wild"), before)
    assert history["wild_skipped"] == [1]
    for variable in taught.peers["robust"].trainable_variables:
        copies = [copy.numpy() for copy in two_cpus.experimental_local_results(variable.value)]
        np.testing.assert_array_equal(*copies)


def test_an_unknown_on_nonfinite_is_refused():
    with pytest.raises(InputError, match=r"on_nonfinite: unknown value 'skpi'.*'skip'"):
        cohort("robust", on_nonfinite="skpi")


def test_sound_logits_are_the_weighted_mean_of_the_finite_ones():
    logits = np.random.default_rng(0).normal(size=(3, 2, 4)).astype("float32")
    weights = [0.5, 0.3, 0.2]
    broken = logits.copy()
    broken[1, 0, 2] = np.nan
    broken[:, 1, 0] = np.inf
    sound = nonfinite.sound(tf.constant(broken), tf.constant(weights)).numpy()
    expected = (0.5 * logits[0, 0] + 0.2 * logits[2, 0]) / 0.7
    np.testing.assert_allclose(sound[1, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(sound[[0, 2], 0], logits[[0, 2], 0])
    np.testing.assert_array_equal(sound[:, 1], 0)


@pytest.fixture
def half():
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


def in_half(rate=0.01, **options):
    sgd = keras.optimizers.SGD(rate)
    return cohort("robust", "wild", optimizer=sgd, on_nonfinite="stop", **options)


@METHODS
def test_half_precision_trains_float32_variables_with_finite_losses(half, method):
    taught = in_half(**method)
    assert taught.peers["wild"].layers[1].compute_dtype == "float16"
    variables = [v for peer in taught.peers.values() for v in peer.variables]
    assert {v.dtype for v in variables if "seed" not in v.path} == {"float32"}
    losses = [taught.train_on_batch(*GOOD) for _ in range(20)]
    assert np.isfinite(losses).all()
    assert losses[-1][0] < losses[0][0]
    logits = taught(GOOD[0])
    assert {name: z.dtype for name, z in logits.items()} == dict.fromkeys(logits, tf.float32)


def test_half_precision_is_hopeless_only_where_the_loss_scale_falls_no_further(half):
    taught = in_half()
    assert taught.nonfinite.searching()
    taught.optimizer.loss_scale.assign(1.0)
    assert not taught.nonfinite.searching()


def test_half_precision_learns_what_single_precision_does(half):
    taught = in_half(0.001)
    keras.config.set_dtype_policy("float32")
    exact = in_half(0.001)
    for name, peer in exact.peers.items():
        taught.peers[name].set_weights(peer.get_weights())
    start = [np.array(v) for v in exact.peers["wild"].trainable_variables]
    for one in (taught, exact):
        one.train_on_batch(*GOOD)
    for before, a, b in zip(
        start,
        taught.peers["wild"].trainable_variables,
        exact.peers["wild"].trainable_variables,
        strict=True,
    ):
        moved, expected = np.array(a) - before, np.array(b) - before
        np.testing.assert_allclose(moved, expected, atol=0.02 * np.abs(expected).max() + 1e-6)


def test_an_overflow_halves_the_scale_and_skips_the_step(half):
    taught = in_half()
    taught.optimizer.loss_scale.assign(2.0**60)
    before = [state(taught, name) for name in taught.peers]
    logs = taught.train_on_batch(*GOOD, return_dict=True)
    assert logs["wild_skipped"] == logs["robust_skipped"] == 1
    for old, name in zip(before, taught.peers, strict=True):
        assert_equal(state(taught, name), old)
    assert float(taught.optimizer.loss_scale) == 2.0**59


def test_the_scale_doubles_after_steps_without_an_overflow(half, monkeypatch):
    monkeypatch.setattr(nonfinite, "GROW_AFTER", 3)
    taught = in_half()
    taught.optimizer.loss_scale.assign(1.0)
    scales = []
    for _ in range(7):
        taught.train_on_batch(*GOOD)
        scales.append(float(taught.optimizer.loss_scale))
    assert scales == [1, 1, 2, 2, 2, 4, 4]


def test_clipping_sees_gradients_that_are_not_scaled(half):
    norm = 0.01
    taught = cohort("wild", optimizer=keras.optimizers.SGD(1.0, global_clipnorm=norm))
    before = [np.array(v) for v in taught.peers["wild"].trainable_variables]
    taught.train_on_batch(*GOOD)
    after = [np.array(v) for v in taught.peers["wild"].trainable_variables]
    moved = np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(after, before, strict=True)))
    assert moved == pytest.approx(norm, rel=1e-3)


def test_the_scale_is_saved_and_loaded_with_the_cohort(half, tmp_path):
    taught = in_half()
    taught.train_on_batch(*GOOD)
    taught.optimizer.loss_scale.assign(4.0)
    taught.save(tmp_path / "cohort.keras")
    again = keras.models.load_model(tmp_path / "cohort.keras")
    assert float(again.optimizer.loss_scale) == 4.0
    a, b = (one.train_on_batch(*GOOD, return_dict=True) for one in (taught, again))
    assert a.keys() == b.keys()
    np.testing.assert_allclose([*a.values()], [b[key] for key in a], rtol=1e-3, equal_nan=False)


@pytest.mark.slow
@pytest.mark.parametrize("exits", [None, {"wild": ["conv"], "robust": ["conv"]}])
def test_half_precision_trains_on_two_replicas(half, two_cpus, exits):
    with two_cpus.scope():
        taught = in_half(exits=exits)
    heads = taught.exits.variables if exits else []
    before = [np.array(v) for v in heads]
    history = taught.fit(*GOOD, batch_size=8, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert history["wild_skipped"] == [0, 0]
    assert len(heads) == (4 if exits else 0)
    for start, head in zip(before, heads, strict=True):
        assert head.dtype == "float32"
        assert 0 < np.abs(np.array(head) - start).max() < 0.1  # unscaled: the loss scale is 2^15


class Counted(keras.optimizers.SGD):
    """Counts the updates of variables that it is asked for."""

    updates = 0

    def update_step(self, gradient, variable, learning_rate):
        self.updates += 1
        super().update_step(gradient, variable, learning_rate)


def again(cohort, on_nonfinite):
    """Compile with the optimizers that it has; run eagerly, for Python to be called."""
    cohort.compile(cohort.optimizer.by_peer, on_nonfinite=on_nonfinite, run_eagerly=True)


def test_compiled_twice_an_update_is_guarded_once(monkeypatch):
    taught, own, asked = cohort("wild", optimizer=Counted(0.01)), Counted(0.01), []
    taught.compile({"wild": own}, on_nonfinite="skip")
    again(taught, "skip")
    again(taught, "skip")
    assert taught.optimizer.by_peer["wild"] is own
    cond = tf.cond
    monkeypatch.setattr(nonfinite.tf, "cond", lambda *args: (asked.append(args), cond(*args))[1])
    taught.train_on_batch(*GOOD)
    variables = len(taught.peers["wild"].trainable_variables)
    assert (len(asked), own.updates) == (variables, variables)
    before = state(taught, "wild")
    taught.train_on_batch(HUGE, LABELS[:16])
    assert (len(asked), own.updates) == (2 * variables, variables)  # asked, and spared
    assert_equal(state(taught, "wild"), before)


def test_compiled_to_stop_after_skip_an_update_is_the_plain_one():
    taught, own = cohort("wild"), Counted(0.01)
    taught.compile({"wild": own}, on_nonfinite="skip")
    assert own.update_step != Counted.update_step.__get__(own)
    again(taught, "stop")
    assert own.update_step == Counted.update_step.__get__(own)
    logs = taught.train_on_batch(*GOOD, return_dict=True)
    assert own.updates == len(taught.peers["wild"].trainable_variables)
    assert "wild_skipped" not in logs
    with pytest.raises(tf.errors.InvalidArgumentError, match="non-finite loss: peer wild, step 1"):
        taught.train_on_batch(HUGE, LABELS[:16])
