"""Stratified choices: counts against scikit-learn's own splitter, and by hand."""

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from xkd_keras.data import splits
from xkd_keras.data.splits import stratified_split, stratified_subset
from xkd_keras.errors import InputError

LABELS = np.random.RandomState(0).choice(4, 1000, p=[0.5, 0.3, 0.15, 0.05])


def test_split_gives_every_position_once_in_the_proportions_of_scikit_learn():
    parts = stratified_split(LABELS, (0.7, 0.1, 0.2), 1)
    assert sorted(np.concatenate(parts)) == list(range(1000))
    _, test = train_test_split(np.arange(1000), test_size=0.2, stratify=LABELS, random_state=0)
    np.testing.assert_allclose(np.bincount(LABELS[parts[2]]), np.bincount(LABELS[test]), atol=1)
    assert all((np.diff(part) > 0).all() for part in parts)


def test_split_is_the_same_for_ever():
    # Computed once by hand from RandomState([7, label]).permutation, whose stream is frozen.
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    order = [np.random.RandomState([7, label]).permutation(4) + 4 * label for label in (0, 1)]
    first, second = stratified_split(labels, (0.5, 0.5), 7)
    assert first.tolist() == sorted([*order[0][:2], *order[1][:2]])
    assert second.tolist() == sorted([*order[0][2:], *order[1][2:]])


def test_small_classes_reach_every_part():
    parts = stratified_split(np.array([0] * 3 + [1] * 50), (0.7, 0.1, 0.2), 0)
    assert [int((part < 3).sum()) for part in parts] == [1, 1, 1]


@pytest.mark.parametrize(
    ("count", "expected"),
    [(4, [1, 1, 1, 1]), (20, [10, 6, 3, 1]), (1000, np.bincount(LABELS).tolist())],
)
def test_subset_counts(count, expected):
    chosen = stratified_subset(LABELS, count, 0)
    assert len(set(chosen)) == count
    np.testing.assert_allclose(np.bincount(LABELS[chosen]), expected, atol=1)
    assert np.bincount(LABELS[chosen]).sum() == count


def test_subset_is_decided_by_the_seed():
    assert stratified_subset(LABELS, 50, 3).tolist() == stratified_subset(LABELS, 50, 3).tolist()
    assert stratified_subset(LABELS, 50, 3).tolist() != stratified_subset(LABELS, 50, 4).tolist()


def test_what_is_held_out_for_validation_comes_from_train_and_leaves_the_test_alone():
    labels = np.repeat([0, 1], 30)
    usual, more = (splits.stratified_split(labels, splits.three(f), 3) for f in (0.1, 0.3))
    assert splits.three(0.1) == splits.TRAIN_VALIDATION_TEST
    assert [len(part) for part in usual] == [42, 6, 12]
    assert [len(part) for part in more] == [30, 18, 12]
    np.testing.assert_array_equal(usual[2], more[2])
    assert set(usual[1]) <= set(more[1])
    with pytest.raises(InputError, match=r"^validation_fraction: received 0.8; valid: below 0.8"):
        splits.three(0.8)
