"""Moving averages of the weights: the recursion in NumPy, and who sees them when."""

import keras
import numpy as np
import pytest

from tests.small_cohorts import IMAGES, LABELS, compiled, convolutional, fit, linear
from xkd_keras import Cohort
from xkd_keras.distillation import optimizers
from xkd_keras.errors import InputError
from xkd_keras.runs import checkpoint

HUGE = np.sign(IMAGES) * np.float32(
    3e38
)  # a product with weights overflows; a clipped one does not


def normalised(name="n"):
    """With moving statistics, and a dropout whose seed is no weight."""
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.BatchNormalization(momentum=0.5)(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Dropout(0.5)(x)), name=name)


def weights(cohort, name):
    own = [v for v in cohort.peers[name].variables if "float" in v.dtype]
    return [np.array(v) for v in own]


def averages(cohort):
    return [np.array(v) for v in cohort.averages.variables]


def assert_equal(a, b, **tolerance):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, **({"rtol": 0} | tolerance))


@pytest.mark.parametrize("decay", [0.2, 0.999])
def test_the_averages_are_those_of_the_recursion(decay):
    cohort = compiled([normalised()], ema=decay, eager=True)
    expected = weights(cohort, "n")
    assert_equal(averages(cohort), expected)
    for d in (min(decay, 1 / 10), min(decay, 2 / 11), min(decay, 3 / 12), min(decay, 4 / 13)):
        cohort.train_on_batch(IMAGES, LABELS)
        live = weights(cohort, "n")
        expected = [d * a + (1 - d) * w for a, w in zip(expected, live, strict=True)]
        assert_equal(averages(cohort), expected, rtol=1e-5, atol=1e-6)
    assert len(live) == 6  # scale, shift, two moving statistics, kernel, bias
    assert all(np.abs(a - w).max() > 1e-3 for a, w in zip(expected, live, strict=True))


def test_training_is_as_without_averages():
    runs = []
    for ema in (0.0, 0.9):
        keras.utils.set_random_seed(0)
        cohort = compiled([linear("a"), normalised()], ema=ema, eager=True)
        for _ in range(3):
            cohort.train_on_batch(IMAGES, LABELS)
            cohort.test_on_batch(IMAGES, LABELS)
        runs.append([v for name in ("a", "n") for v in weights(cohort, name)])
    assert_equal(*runs)


def test_evaluation_and_prediction_are_of_the_averages_and_training_goes_on_without_them():
    cohort = compiled([linear("a"), normalised()], ema=0.9)
    history = fit(cohort, validation_data=(IMAGES, LABELS)).history
    live = weights(cohort, "a")
    by_hand = compiled([linear("a"), normalised()])
    for name, mean in zip(("a", "n"), (averages(cohort)[:2], averages(cohort)[2:]), strict=True):
        peer = by_hand.peers[name]
        for variable, value in zip(
            [v for v in peer.variables if "float" in v.dtype], mean, strict=True
        ):
            variable.assign(value)
    expected = by_hand.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    found = cohort.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    for name in ("a_cross_entropy", "n_cross_entropy", "ensemble_cross_entropy", "n_top1"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)
        assert history[f"val_{name}"][-1] == pytest.approx(expected[name], rel=1e-5)
    logits, of_live = (cohort.predict(IMAGES, verbose=0)["a"], cohort(IMAGES)["a"])
    np.testing.assert_allclose(logits, by_hand(IMAGES)["a"], atol=1e-5)
    assert np.abs(logits - of_live).max() > 1e-3
    assert_equal(weights(cohort, "a"), live)


def test_the_averages_are_lent_and_given_back_also_where_something_fails():
    cohort = compiled([linear("a")], ema=0.5)
    fit(cohort)
    live, means = weights(cohort, "a"), averages(cohort)

    def interrupted():
        with cohort.averaged():
            with cohort.averaged():
                pass
            assert_equal(weights(cohort, "a"), means)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert_equal(weights(cohort, "a"), live)
    assert_equal(averages(cohort), means)


def test_a_step_that_is_skipped_leaves_the_averages_of_that_peer_alone():
    def robust():
        inputs = keras.Input((6, 6, 2))
        x = keras.layers.Flatten()(keras.layers.ReLU(6.0)(inputs))
        return keras.Model(inputs, keras.layers.Dense(4)(x), name="robust")

    cohort = Cohort([normalised("wild"), robust()], ema=0.9)
    cohort.compile(optimizers.build("sgd", 0.01), on_nonfinite="skip")
    cohort.train_on_batch(IMAGES, LABELS)
    before = averages(cohort)
    logs = cohort.train_on_batch(HUGE, LABELS, return_dict=True)
    assert (logs["wild_skipped"], logs["robust_skipped"]) == (1, 0)
    after = averages(cohort)
    assert_equal(after[:6], before[:6])
    assert all((a != b).any() for a, b in zip(after[6:], before[6:], strict=True))


def test_half_precision_has_averages_of_single_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        cohort = compiled([convolutional("a", 3)], ema=0.5)
    finally:
        keras.config.set_dtype_policy("float32")
    expected = weights(cohort, "a")
    for d in (0.1, 2 / 11):
        cohort.train_on_batch(IMAGES, LABELS)
        live = weights(cohort, "a")
        expected = [d * a + (1 - d) * w for a, w in zip(expected, live, strict=True)]
    assert {v.dtype for v in cohort.averages.variables} == {"float32"}
    assert_equal(averages(cohort), expected, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_and_a_saved_cohort_have_the_averages(tmp_path):
    cohort = compiled([linear("a"), normalised()], ema=0.9)
    fit(cohort)
    checkpoint.save(tmp_path, cohort, [{}])
    other = compiled([linear("a"), normalised()], ema=0.9)
    checkpoint.restore(tmp_path, other)
    assert_equal(averages(other), averages(cohort))
    for each in (cohort, other):
        fit(each)
    assert_equal(averages(other)[:2], averages(cohort)[:2])  # those of the peer without dropout
    cohort.save(tmp_path / "cohort.keras")
    loaded = keras.models.load_model(tmp_path / "cohort.keras")
    assert loaded.ema == 0.9
    assert_equal(averages(loaded), averages(cohort))
    assert_equal(weights(loaded, "a"), weights(cohort, "a"))


def test_a_decay_of_one_is_refused():
    with pytest.raises(InputError, match=r"^ema: received 1.0; valid: 0 to 1, 1 excluded"):
        Cohort([linear("a")], ema=1.0)
