"""Temperatures and thresholds against worked examples, and against a search over a grid."""

import csv
import types

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from tests.uneven import uneven
from xkd_keras.runs import calibration, predictions, scoring

RNG = np.random.default_rng(3)
LOGITS = RNG.normal(size=(4000, 5)) * 3
LABELS = (softmax(LOGITS, -1).cumsum(-1) > RNG.random((4000, 1))).argmax(-1)  # calibrated at 1


@pytest.mark.parametrize("factor", [0.5, 2.5])
def test_a_network_that_is_too_sure_by_a_factor_gets_that_factor(factor):
    got = calibration.temperature(LABELS, factor * LOGITS)
    assert got == pytest.approx(factor, rel=0.05)
    grid = np.exp(np.linspace(np.log(0.1), np.log(20), 4000))
    rows = np.arange(4000)
    costs = [-log_softmax(factor * LOGITS / t, -1)[rows, LABELS].mean() for t in grid[::40]]
    best = grid[::40][np.argmin(costs)]
    assert abs(np.log(got / best)) < np.log(grid[40] / grid[0])


@pytest.mark.parametrize("n", [10, 100, 1000])
@pytest.mark.parametrize("height", [2.0, 40.0])
def test_without_a_mistake_a_network_is_as_sure_as_its_images_allow(n, height):
    right = np.eye(5)[LABELS[:n]] * height
    t = calibration.temperature(LABELS[:n], right)
    # By hand, for a right answer with one of five logits at `height`, over a grid of T.
    grid = np.exp(np.linspace(np.log(0.1), np.log(20), 40_001))
    other = -np.log(np.exp(height / grid) + 4)
    cost = -n * (other + (n + 1) / (n + 2) * height / grid) + np.log(grid) ** 2 / 2
    assert t == pytest.approx(grid[cost.argmin()], rel=1e-3)
    if n == 1000:  # what is thought beforehand of T hardly counts
        sure = softmax(right / t, -1).max()
        assert sure == pytest.approx((n + 1) / (n + 2), abs=1e-3)


def test_a_dozen_images_do_not_move_a_temperature_far():
    near = 0.01 * RNG.normal(size=(13, 5))  # which says next to nothing
    assert 0.4 < calibration.temperature(LABELS[:13], near + 0.03 * np.eye(5)[LABELS[:13]]) < 1.0
    wrong = np.eye(5)[(LABELS[:13] + 1) % 5] * 9.0
    assert 1.0 < calibration.temperature(LABELS[:13], wrong) < 20.0


def test_one_mistake_more_makes_a_network_less_sure():
    sure = np.eye(5)[LABELS[:50]] * 9.0
    found = []
    for wrong in range(4):
        sure[:wrong] = np.roll(sure[:wrong], 1, axis=-1)
        found.append(calibration.temperature(LABELS[:50], sure))
    assert found == sorted(set(found))
    assert calibration.temperature(LABELS[:0], sure[:0]) == 1.0


def test_answers_stay_and_the_table_gets_both():
    test = types.SimpleNamespace(labels=LABELS, logits={"a": 3 * LOGITS, "ensemble": LOGITS})
    measured = {"peers": {"a": {}}, "ensemble": {}}
    calibration.add(measured, {"a": 3.0, "ensemble": 1.0}, test)
    row = measured["peers"]["a"]["calibrated"]
    assert row["cross_entropy"] == pytest.approx(
        measured["ensemble"]["calibrated"]["cross_entropy"]
    )
    assert row["ece"] < 0.03 < scoring.scores(LABELS, 3 * LOGITS)["ece"]


def test_how_sure_is_the_probability_of_the_answer():
    for t in (1.0, 2.0):
        want = softmax(LOGITS / t, -1).max(-1)
        np.testing.assert_allclose(calibration.confidence(LOGITS, t), want, rtol=1e-6)


@pytest.mark.parametrize(
    ("precision", "expected"),
    # Right, by falling confidence: yes yes no yes yes | no. Shares: 1, 1, 2/3, 3/4, 4/5, 4/6.
    [(1.0, 0.9), (0.8, 0.5), (0.75, 0.5), (0.66, 0.0)],
)
def test_a_threshold_lets_through_as_much_as_it_can(precision, expected):
    sure = np.array([0.5, 0.95, 0.4, 0.9, 0.8, 0.7])
    right = np.array([True, True, False, True, False, True])
    assert calibration.threshold(right, sure, precision) == expected


def test_no_threshold_is_enough_where_the_surest_is_wrong_and_ties_stay_together():
    wrong_first = np.array([False, True]), np.array([0.9, 0.8])
    assert calibration.threshold(*wrong_first, 0.9) is None
    tied = np.array([True, False, True]), np.array([0.8, 0.8, 0.3])
    assert calibration.threshold(*tied, 0.9) is None


def test_every_held_out_image_has_a_line(tmp_path):
    data = uneven()
    logits = {name: RNG.normal(size=(50, 4)) for name in ("a", "b", "ensemble")}
    test = types.SimpleNamespace(labels=data.test.labels, logits=logits)
    data.test.source.names = tuple(f"cat/{i}.jpg" for i in range(50))
    predictions.write(tmp_path, data, {"test": test}, {"a": 2.0, "b": 1.0, "ensemble": 1.0})
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [row["file"] for row in rows] == [f"cat/{i}.jpg" for i in range(50)]
    for name, column in (("ensemble", "prediction"), ("a", "a"), ("b", "b")):
        assert [row[column] for row in rows] == ["abcd"[i] for i in logits[name].argmax(-1)]
    wanted = softmax(logits["a"] / 2, -1).max(-1)
    np.testing.assert_allclose([float(row["a probability"]) for row in rows], wanted, atol=1e-4)
    assert [row["label"] for row in rows] == ["abcd"[i] for i in data.test.labels]
