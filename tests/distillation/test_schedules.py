"""Schedules at every edge, by hand, eagerly and traced, and as Keras saves them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from xkd_keras.distillation import schedules
from xkd_keras.errors import InputError

# Two periods of 8 steps end with step 30, each with 3 that distil; 4 steps after 10 are left over.
WINDOWS = schedules.Windows(2.0, total=30, period=8, window=3, start=10)


@pytest.mark.parametrize(
    ("step", "want"),
    [
        (0, 0.0),
        (10, 0.0),
        (13, 0.0),  # before the first period; -1 mod 8 = 7 must not count as inside a window
        (14, 0.0),
        (18, 0.0),  # edge - 1
        (19, 1.0),  # first window: half of the growth
        (20, 1.0),
        (21, 1.0),  # last step of the window
        (22, 0.0),  # second period starts alone
        (26, 0.0),
        (27, 2.0),
        (29, 2.0),  # the last step of the training
        (30, 0.0),
        (35, 2.0),  # beyond the end: no stronger than the last
    ],
)
def test_windows_open_and_close_at_their_edges(step, want):
    traced = tf.function(WINDOWS)
    assert float(WINDOWS(step)) == want
    assert float(traced(tf.constant(step, tf.int64))) == want


def test_windows_of_a_whole_array_of_steps_equal_those_of_each():
    steps = np.arange(40)
    np.testing.assert_array_equal(WINDOWS(steps), [float(WINDOWS(int(s))) for s in steps])


def test_windows_of_the_whole_period_never_pause_and_of_none_never_distil():
    steps = np.arange(24)
    full = schedules.Windows(1.0, 24, 8, 8, kind="constant")
    none = schedules.Windows(1.0, 24, 8, 0)
    assert np.all(np.asarray(full(steps)) == 1)
    assert np.all(np.asarray(none(steps)) == 0)


def test_each_window_is_stronger_than_the_last_and_the_last_is_full():
    for kind in ("linear", "cosine", "exponential", "sigmoid"):
        values = np.asarray(schedules.Windows(1.5, 50, 10, 5, kind=kind)(np.arange(50)))
        windows = values.reshape(5, 10)[:, 5:]
        assert np.all(np.diff(windows[:, 0]) > 0), kind
        np.testing.assert_allclose(windows[-1], 1.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "want"),
    [
        ("constant", lambda x: np.ones_like(x)),
        ("linear", lambda x: x),
        ("cosine", lambda x: np.sin(np.pi * x / 2) ** 2),
        ("exponential", lambda x: (np.exp(5 * x) - 1) / (np.exp(5) - 1)),
        ("sigmoid", lambda x: np.exp(-5 * (1 - x) ** 2)),
    ],
)
def test_growth_follows_its_equation_and_ends_at_one(kind, want):
    x = np.linspace(0, 1, 11)
    np.testing.assert_allclose(schedules.growth(x, kind), want(x), rtol=1e-5, atol=1e-6)
    assert float(schedules.growth(1.0, kind)) == pytest.approx(1)
    assert float(schedules.growth(2.0, kind)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("step", "want"), [(3, 0.0), (4, 0.0), (5, 0.2), (8, 0.8), (9, 1.0), (10, 1.0)]
)
def test_ramp_rises_between_its_edges(step, want):
    assert float(schedules.Ramp(1.0, steps=5, start=4)(step)) == pytest.approx(want)


def test_ramp_with_a_constant_kind_starts_at_once():
    ramp = schedules.Ramp(0.7, steps=5, start=4, kind="constant")
    np.testing.assert_allclose(ramp(np.array([3, 4, 5])), [0, 0.7, 0.7])


@pytest.mark.parametrize(
    ("step", "want"), [(0, 0.1), (9, 0.1), (10, 0.01), (11, 0.01), (19, 0.01), (20, 0.001)]
)
def test_step_falls_in_the_step_of_its_boundary(step, want):
    assert float(schedules.Step(0.1, [10, 20])(step)) == pytest.approx(want)


def test_cosine_is_that_of_keras():
    ours, theirs = schedules.Cosine(0.1, 50), keras.optimizers.schedules.CosineDecay(0.1, 50)
    for step in (0, 1, 25, 49, 50, 60):
        assert float(ours(step)) == pytest.approx(float(theirs(step)), abs=1e-8)


def test_warm_up_multiplies_by_the_share_of_its_steps():
    warm = schedules.WarmUp(schedules.Step(0.4, [6]), 4)
    got = [float(warm(step)) for step in (0, 1, 3, 4, 5, 6)]
    assert got == pytest.approx([0.1, 0.2, 0.4, 0.4, 0.4, 0.04])


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.Constant(0.3),
        schedules.Ramp(0.5, 20, 3, "cosine"),
        WINDOWS,
        schedules.Step(0.1, [4, 8], 0.5),
        schedules.WarmUp(schedules.Cosine(0.1, 30), 5),
    ],
)
def test_keras_saves_and_restores_a_schedule(schedule):
    config = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(config)
    steps = np.arange(32)
    np.testing.assert_array_equal(schedule(steps), again(steps))


def test_unknown_growth_is_named_with_the_nearest():
    with pytest.raises(InputError, match=r"growth: unknown value 'linaer'\. Did you mean 'linear'"):
        schedules.Ramp(1.0, 5, kind="linaer")


@pytest.mark.parametrize("total", range(20, 41))
def test_training_ends_under_the_strongest_teacher_whatever_its_length(total):
    values = np.asarray(schedules.Windows(1.0, total, 8, 3)(np.arange(total)))
    assert np.all(values[-3:] == 1)
    assert values.max() == 1
    assert not values[: total % 8 + 5].any()


@pytest.mark.parametrize(
    ("period", "count"), [(97.5, 12), (19.5, 60), (1170 / 13, 13), (1170 / 7, 7), (0.1 * 390, 30)]
)
def test_periods_that_are_not_whole_fill_the_training(period, count):
    """Each window is the last third of its period, to the step, and none is lost by rounding."""
    window = round(period / 3)
    values = np.asarray(schedules.Windows(1.0, 1170, period, window)(np.arange(1170)))
    share = np.round(values * count).astype(int)
    assert sorted(set(share)) == [0, *range(1, count + 1)]
    for k in range(1, count + 1):
        steps = np.flatnonzero(share == k)
        assert abs(len(steps) - window) <= 1
        assert steps[-1] == int(np.ceil(round(k * period, 6))) - 1


def test_training_shorter_than_a_period_is_alone():
    assert not np.asarray(schedules.Windows(1.0, 7, 8, 3)(np.arange(7))).any()


def test_a_window_longer_than_its_period_is_refused():
    with pytest.raises(InputError, match="window: received 9 steps of a period of 8"):
        schedules.Windows(1.0, 30, 8, 9)
