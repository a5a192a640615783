"""Uneven classes: weights as scikit-learn has them, and epochs with as many of every class."""

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from tests.uneven import COUNTS, LABELS, uneven
from xkd_keras import data
from xkd_keras.data import balance, splits
from xkd_keras.data.records import Records
from xkd_keras.errors import FlagError, InputError


def test_balanced_weights_are_scikit_learns():
    got = balance.class_weights("balanced", LABELS, 4)
    want = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=LABELS)
    np.testing.assert_allclose(got[[0, 1, 3]], want, rtol=1e-6)
    assert got[2] == 0


@pytest.mark.parametrize("kind", ["balanced", "sqrt"])
def test_the_mean_weight_of_an_image_is_one(kind):
    assert balance.class_weights(kind, LABELS, 4)[LABELS].mean() == pytest.approx(1, rel=1e-6)


def test_square_roots_lie_between_alike_and_balanced():
    ratios = [balance.class_weights(k, LABELS, 4) for k in ("balanced", "sqrt")]
    assert ratios[0][3] / ratios[0][0] == pytest.approx(40 / 3, rel=1e-5)
    assert ratios[1][3] / ratios[1][0] == pytest.approx((40 / 3) ** 0.5, rel=1e-5)


def test_a_balanced_epoch_has_as_many_of_every_class_and_repeats_no_more_than_it_must():
    seen = set()
    for images, labels in data.train_batches(uneven(), batch_size=50, epochs=3, seed=4):
        assert sorted(np.bincount(labels)) == [0, 16, 17, 17]  # of 51 that are drawn
        numbers = images.numpy()[:, 0, 0, 0].astype(int)
        np.testing.assert_array_equal(LABELS[numbers], labels)
        for label, count in COUNTS.items():
            times = np.bincount(numbers[labels == label], minlength=50)[label == LABELS]
            assert np.ptp(times) <= 1 + (times.sum() == 16)
            assert times.max() == -(-17 // count)
        seen.add(tuple(numbers))
    assert len(seen) == 3  # drawn and ordered anew in every epoch


def test_plain_epochs_are_what_they_were():
    ((_, labels),) = data.train_batches(uneven(sampling="plain"), batch_size=50, epochs=1)
    assert np.bincount(labels).tolist() == [40, 7, 0, 3]


def test_streamed_images_cannot_be_drawn_by_class():
    streamed = Records(["a"], [50], None, LABELS)
    with pytest.raises(InputError, match="read as a stream; valid: plain, or a cache_gib"):
        data.train_batches(uneven(streamed), batch_size=8, epochs=1)


def test_a_wrong_sampling_is_named(data_dir):
    with pytest.raises(FlagError, match=r"unknown value 'balance'. Did you mean 'balanced'"):
        data.load("digits", data_dir=str(data_dir), sampling="balance")


@pytest.mark.parametrize(("counts", "so"), [([500, 25], True), ([9, 4], False), ([3, 0], True)])
def test_what_is_uneven(counts, so):
    assert splits.uneven(counts) == so
