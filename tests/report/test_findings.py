"""What is found in answers: intervals, confusions, disagreements; worked by hand."""

import numpy as np
import pytest
from scipy import stats

from xkd_keras.report import findings
from xkd_keras.runs import answers


@pytest.mark.parametrize(("right", "n"), [(0, 10), (3, 10), (10, 10), (355, 360), (49_000, 50_000)])
def test_wilson_is_that_of_scipy(right, n):
    expected = stats.binomtest(right, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(findings.wilson(right / n, n), expected, atol=1e-12)


def test_wilson_of_nothing_says_nothing():
    assert findings.wilson(0.0, 0) == (0.0, 1.0)


def test_confusion_and_pairs_of_an_example_made_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    given = np.array([0, 1, 1, 1, 2, 0, 2, 0])
    counts = findings.confusion(labels, given, 3)
    np.testing.assert_array_equal(counts, [[1, 2, 0], [0, 1, 1], [2, 0, 1]])
    assert findings.confused_pairs(counts) == [(0, 1, 2), (2, 0, 2), (1, 2, 1)]


def test_disagreements_put_most_dissenters_first_then_the_errors_of_the_ensemble():
    labels = np.array([0, 0, 0, 0, 0])
    given = {
        "ensemble": np.array([0, 0, 1, 0, 0]),
        "a": np.array([0, 1, 0, 2, 1]),
        "b": np.array([0, 0, 1, 1, 0]),
    }
    # 3: two dissenters; 2: the ensemble is wrong; 1 and 4: in their order; 0: all agree.
    assert answers.disagreements(labels, given).tolist() == [3, 2, 1, 4]


def test_of_many_classes_the_most_confused_are_shown():
    counts = np.zeros((40, 40), int)
    counts[7, 3], counts[3, 5], counts[1, 0] = 9, 4, 1
    assert findings.classes_shown(counts) == [7, 3, 5, 1, 0]
    assert findings.classes_shown(counts[:30, :30]) == list(range(30))
    counts[:, 20] += 1
    assert len(findings.classes_shown(counts)) == 20
