"""What seeds and test images can show: against tables, simulations and a report's sentence."""

import numpy as np
import pytest
from scipy import stats

from xkd_keras.study import power


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_the_pairs_for_a_power_of_80_percent_are_those_of_the_tables(effect, pairs):
    """G*Power 3.1, two-tailed, difference of two dependent means, alpha 0.05."""
    assert power.seeds_for(effect, 1.0) == pairs
    assert power.seeds_for(-2 * effect, 2.0) == pairs
    assert power.power(effect, pairs) >= 0.8 > power.power(effect, pairs - 1)


def test_the_power_is_how_often_the_test_finds_a_difference():
    drawn = np.random.default_rng(0).normal(1.2, 1.0, (20_000, 5))
    found = np.mean(stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05)
    assert power.power(1.2, 5) == pytest.approx(found, abs=0.01)


def test_the_least_difference_has_a_power_of_80_percent():
    for n in (2, 3, 5, 20):
        assert power.power(power.least(0.7, n) / 0.7, n) == pytest.approx(0.8, abs=1e-3)


def test_no_difference_and_no_spread_have_an_answer():
    assert power.seeds_for(0.0, 1.0) is None
    assert power.seeds_for(0.001, 1.0) is None  # more than anybody trains
    assert power.seeds_for(0.5, 0.0) == 2


def test_the_spread_is_read_from_an_interval():
    values = np.array([0.4, 1.1, -0.3, 0.9])
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert power.deviation((high - low) / 2, 4) == pytest.approx(values.std(ddof=1), rel=1e-9)


def test_other_images_move_a_difference_by_that_much_at_the_most():
    rng = np.random.default_rng(1)
    one, two = rng.binomial(500, 0.7, (2, 100_000)) / 500
    low, high = np.percentile(one - two, (2.5, 97.5))
    assert power.of_images(0.7, 500) == pytest.approx((high - low) / 2, rel=0.03)


@pytest.mark.parametrize("accuracy", [0.3, 0.88])
@pytest.mark.parametrize("difference", [0.03, -0.01, 0.0042])
def test_so_many_images_and_no_fewer_move_a_difference_by_no_more_than_it_is(accuracy, difference):
    count = power.images_for(difference, accuracy)
    moved = [power.of_images(accuracy, n) for n in (count - 1, count)]
    assert moved[0] > abs(difference) >= moved[1]


def test_the_images_that_nobody_labels_are_not_counted():
    assert power.images_for(0.0, 0.7) is None
    assert power.images_for(0.0001, 0.7) is None
    assert power.images_for(0.01, 1.0) == 1
