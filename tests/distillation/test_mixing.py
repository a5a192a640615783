"""Mixed batches against NumPy: which pixels came from whom, and labels in the same shares."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax

from tests.small_cohorts import IMAGES, LABELS, compiled, convolutional, fit, linear
from xkd_keras import Cohort
from xkd_keras.distillation import losses, mixing, teachers, terms
from xkd_keras.errors import InputError
from xkd_keras.flags import fields

# Every pixel of image b is b, so that a mixed pixel says who it is of.
SHADES = np.broadcast_to(np.arange(8.0)[:, None, None, None], (8, 10, 10, 3)).astype("float32")
OWN = np.arange(8)


def mixed(kind, seed):
    images, labels, _ = mixing.mix(kind, SHADES, OWN, 8, [seed, 0])
    return np.asarray(images), np.asarray(labels)


def is_mixed(images):
    return not np.array_equal(images, SHADES)


def test_cutmix_takes_one_rectangle_and_its_share_of_the_label():
    changed = 0
    for seed in range(40):
        images, labels = mixed("cutmix", seed)
        np.testing.assert_allclose(labels.sum(-1), 1.0, rtol=1e-5)
        for own, image, label in zip(OWN, images[..., 0], labels, strict=True):
            others = np.unique(image[image != own])
            assert len(others) <= 1
            if not len(others):
                continue
            changed += 1
            rows, columns = np.nonzero(image != own)
            box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            assert box == len(rows)  # a rectangle, filled
            assert label[int(others[0])] == pytest.approx(box / 100, abs=1e-5)
            assert label[own] == pytest.approx(1 - box / 100, abs=1e-5)
    assert changed > 50


def test_mixup_mixes_pixels_as_it_mixes_labels():
    changed = [seed for seed in range(40) if is_mixed(mixed("mixup", seed)[0])]
    assert 10 < len(changed) < 30  # a half
    for seed in changed:
        images, labels = mixed("mixup", seed)
        np.testing.assert_allclose(images[:, 0, 0, 0], labels @ OWN, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(images, np.broadcast_to(images[:, :1, :1], images.shape))


def test_both_makes_some_of_each_and_leaves_half_alone():
    kinds = {"none": 0, "cutmix": 0, "mixup": 0}
    for seed in range(100):
        images, _ = mixed("both", seed)
        whole = np.array_equal(images, np.round(images))
        kinds["none" if not is_mixed(images) else "cutmix" if whole else "mixup"] += 1
    assert min(kinds.values()) >= 10
    assert kinds["none"] > 35


def test_the_same_seed_mixes_alike_and_another_step_does_not():
    first = [mixed("mixup", 1)[0], mixed("mixup", 1)[0]]
    np.testing.assert_array_equal(*first)
    steps = [np.asarray(mixing.mix("mixup", SHADES, OWN, 8, [1, step])[0]) for step in range(9)]
    assert len({step.tobytes() for step in steps}) > 2


def test_a_cohort_learns_from_mixed_labels_what_numpy_says(monkeypatch):
    monkeypatch.setattr(mixing, "SHARE", 1.1)  # every batch
    cohort = Cohort([linear("a")], 0.0, mix="mixup", seed=3)
    cohort.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    images, labels, _ = mixing.mix("mixup", IMAGES, LABELS, 4, [3, 0])
    shown = cohort.train_on_batch(IMAGES, LABELS, return_dict=True)
    logits = np.asarray(cohort.peers["a"](images))
    expected = -(np.asarray(labels) * log_softmax(logits, -1)).sum(-1).mean()
    assert shown["loss"] == pytest.approx(expected, rel=1e-5)
    top1 = np.mean(logits.argmax(-1) == np.asarray(labels).argmax(-1))
    assert shown["a_top1"] == pytest.approx(top1)


def test_a_mixed_label_counts_as_much_as_the_image_that_it_is_of():
    weights = np.array([1.0, 0.0, 2.0, 0.5, 1.0, 0.0, 3.0, 1.0], "float32")
    changed = 0
    for seed in range(20):
        plain = mixed("mixup", seed)
        images, labels, got = map(
            np.asarray, mixing.mix("mixup", SHADES, OWN, 8, [seed, 0], weights)
        )
        np.testing.assert_array_equal(images, plain[0])
        shares = plain[1] * weights  # of every label: that in the picture, times its own weight
        np.testing.assert_allclose(got, shares.sum(-1), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(labels * got[:, None], shares, rtol=1e-5, atol=1e-6)
        assert np.isfinite(labels).all()
        changed += is_mixed(images)
    assert changed > 5


def test_images_without_weight_teach_no_label_to_those_that_they_are_mixed_with(monkeypatch):
    monkeypatch.setattr(mixing, "SHARE", 1.1)  # every batch
    good = (LABELS != 2).astype("float32")
    found = []
    for labels in (LABELS, np.where(LABELS == 2, 3, LABELS)):  # whatever is said of the bad ones
        cohort = compiled([linear("a")], mix="mixup", seed=3, eager=True)
        keras.utils.set_random_seed(0)
        cohort.set_weights([np.zeros(w.shape, w.dtype) for w in cohort.get_weights()])
        cohort.train_on_batch(IMAGES, labels, sample_weight=good)
        found.append(cohort.get_weights())
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)


def test_mixing_is_of_the_seed_and_the_step_alone():
    """A run that is resumed mixes as it would have: the optimizer's step is all that it needs."""
    runs = []
    for parts in ((2,), (1, 1)):
        keras.utils.set_random_seed(0)
        cohort = compiled([convolutional("a", 3), convolutional("b", 5)], mix="both", seed=1)
        for epochs in parts:
            fit(cohort, epochs)
        runs.append(cohort.get_weights())
    for one, two in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, two)


def test_evaluation_sees_images_as_they_are():
    cohort = compiled([linear("a")], mix="both")
    plain = compiled([cohort.peers["a"]])
    results = [
        each.evaluate(IMAGES, LABELS, verbose=0, return_dict=True) for each in (cohort, plain)
    ]
    assert results[0] == results[1]


@pytest.mark.parametrize("teacher", [n for n in teachers.TEACHERS if n not in ("gate", "frozen")])
def test_every_teacher_takes_mixed_labels(teacher):
    cohort = compiled([linear("a"), linear("b")], teacher=teacher, mix="both", eager=True)
    assert np.isfinite(fit(cohort).history["loss"][-1])


@pytest.mark.parametrize("term", terms.TERMS)
def test_every_term_takes_mixed_labels(term):
    cohort = compiled([linear("a"), linear("b")], term=term, mix="cutmix", eager=True)
    assert np.isfinite(fit(cohort).history["loss"][-1])


def test_a_label_that_is_mixed_counts_as_its_largest_share():
    labels = tf.constant([[0.3, 0.7], [1.0, 0.0]])
    np.testing.assert_array_equal(losses.classes(labels), [1, 0])
    np.testing.assert_array_equal(
        losses.top1(labels, tf.constant([[0.0, 1.0], [0.0, 1.0]])), [1, 0]
    )


def test_two_replicas_mix_their_own_parts(two_cpus):
    with two_cpus.scope():
        cohort = compiled([convolutional("a", 3), convolutional("b", 5)], mix="both")
    assert np.isfinite(fit(cohort, 2).history["loss"][-1])


def test_the_flag_offers_every_view():
    assert fields.field("mix").metadata["choices"] == mixing.KINDS


def test_what_is_no_image_is_not_mixed():
    with pytest.raises(InputError, match=r"^mix: 'mixup' mixes images .*, received \(4, 9\)"):
        mixing.mix("mixup", tf.zeros((4, 9)), tf.zeros(4, tf.int32), 2, (0, 0))


def test_an_unknown_view_is_refused():
    with pytest.raises(InputError, match=r"^mix: unknown value 'cutmax'. Did you mean 'cutmix'"):
        Cohort([linear("a")], mix="cutmax")
