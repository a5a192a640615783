"""Any image-classification data set of TFDS: which splits serve as what, and what is refused."""

import errno
import os
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests import tiny_sets  # noqa: F401
from tests.fake_cifar import no_network
from xkd_keras import data
from xkd_keras.data import download, records
from xkd_keras.data import tfds as data_sets
from xkd_keras.errors import InputError


@pytest.fixture
def load(tmp_path, monkeypatch):
    no_network(monkeypatch)
    return lambda name, **options: data.load(name, data_dir=str(tmp_path), **options)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("tiny_train_only", (14, 2, 4)),
        ("tiny_complete", (20, 6, 8)),
        ("tiny_competition", (18, 2, 6)),
        ("tiny_unsupervised", (14, 2, 4)),
        ("tiny_other_words", (20, 6, 8)),
        ("tiny_configured/numerals", (14, 2, 4)),
        ("tiny_configured/numerals:1.0.0", (14, 2, 4)),
        ("tiny_train_only:1.0.0", (14, 2, 4)),
    ],
)
def test_which_split_serves_as_what(load, name, sizes):
    dataset = load(f"tfds:{name}")
    splits = (dataset.train, dataset.validation, dataset.test)
    assert tuple(map(len, splits)) == sizes
    for split in splits:
        assert np.ptp(np.bincount(data.labels(split))) <= 1
        pixels = data.images(split, range(len(split)), dataset)[:, 5, 5]
        assert (pixels == pixels[:, :1]).all()
        assert (pixels[:, 0] >= 10 * data.labels(split)).all()
    seen = [tuple(split.positions) for split in splits if split.source is dataset.train.source]
    assert len({position for part in seen for position in part}) == sum(map(len, seen))


@pytest.mark.parametrize(
    ("name", "notes"),
    [
        ("tiny_complete", ()),
        ("tiny_train_only", ()),
        (
            "tiny_extra",
            ("The test images are a fifth of its split 'train'.", "These splits are not used: e"),
        ),
        (
            "tiny_competition",
            ("The test images are its split 'validation'.", "These splits are not used: test."),
        ),
        ("tiny_other_words", ("These splits are not used: extra.",)),
        ("tiny_species", ("1 classes of the test images have no training image (dog...)",)),
    ],
)
def test_what_is_not_as_its_name_says_is_told(load, name, notes):
    found = load(f"tfds:{name}").notes
    assert len(found) == len(notes)
    assert all(one.startswith(start) for one, start in zip(found, notes, strict=True))


def test_a_set_that_is_made_for_tests_can_be_evaluated(load):
    dataset = load("tfds:tiny_test_only", class_names=("cat", "dog"))
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [0, 0, 8]
    assert dataset.mean == (0.0, 0.0, 0.0)  # nobody learns from it
    assert sorted(set(data.labels(dataset.test))) == [0, 1]


def test_a_prepared_configuration_needs_no_network(load, monkeypatch):
    load("tfds:tiny_configured/letters:1.0.0")
    monkeypatch.setattr(download, "_check_reachable", lambda *args: pytest.fail("asked"))
    for name in ("tiny_configured/letters", "tiny_configured/letters:1.0.0"):
        assert len(load(f"tfds:{name}").train) == 14


@pytest.mark.parametrize(
    ("name", "size", "shape"),
    [("tiny_train_only", 0, (12, 12, 3)), ("tiny_competition", 0, (64, 64, 3))],
)
def test_image_size_is_the_data_sets_own(load, name, size, shape):
    assert load(f"tfds:{name}", image_size=size).image_shape == shape


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("tiny_ages", r"tfds:tiny_ages is not for image classification: .* image, label, its"),
        ("tiny_test_only", r"tfds:tiny_test_only has no 'train' split, but test"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(load, name, line):
    with pytest.raises(InputError, match=line) as caught:
        load(f"tfds:{name}")
    assert "\n" not in str(caught.value)


def test_a_class_with_no_validation_image_to_spare(load):
    dataset = load("tfds:tiny_competition", validation_fraction=0.5, train_examples=2)
    assert sorted(data.labels(dataset.train)) == [0, 1]
    assert len(dataset.validation) == 10


def test_what_is_transparent_is_laid_on_white(load):
    dataset = load("tfds:tiny_transparent")
    pixels = data.images(dataset.train, range(len(dataset.train)), dataset)[:, 5, 5]
    half, none = [227, 127, 127], [255, 255, 255]  # (200 * 128 + 255 * 127) / 255, rounded
    np.testing.assert_array_equal(pixels, [[none, half][k] for k in data.labels(dataset.train)])


@pytest.mark.parametrize("gib", [2.0, 0.0])
def test_images_of_one_size_are_those_that_tfds_reads(load, tmp_path, gib):
    dataset = load("tfds:tiny_turned", cache_gib=gib)
    split = dataset.train
    own = data.images(split, range(len(split)), dataset)
    builder = tfds.builder("tiny_turned", data_dir=str(tmp_path))
    theirs = [each["image"] for each in tfds.as_numpy(builder.as_dataset("train"))]
    np.testing.assert_array_equal(own, [theirs[i] for i in split.positions])
    assert theirs[0][:4].min() > 200  # as they are stored


@pytest.mark.parametrize(
    "name", ["tiny_complete", pytest.param("tiny_competition", marks=pytest.mark.slow)]
)
def test_however_images_are_kept_they_are_the_same(load, name):
    kept = [load(f"tfds:{name}", cache_gib=gib, image_size=24) for gib in (2.0, 2e-5, 0.0)]
    sources = [type(dataset.train.source).__name__ for dataset in kept]
    assert sources == ["Arrays", "Encoded", "Records"]
    assert len({dataset.fingerprint for dataset in kept}) == 1
    whole, *others = (
        np.concatenate([batch[0] for batch in data.eval_batches(d.train, dataset=d, batch_size=5)])
        for d in kept
    )
    for other in others:
        np.testing.assert_array_equal(other, whole)


@pytest.mark.parametrize("left", [0, pytest.param(400, marks=pytest.mark.slow)])
def test_labels_that_were_cut_off_on_the_disk_are_read_again(load, tmp_path, left):
    whole = load("tfds:tiny_complete", cache_gib=0)
    path = next(tmp_path.rglob("xkd_labels-train.npz"))
    content = path.read_bytes()
    path.write_bytes(content[:left])
    again = load("tfds:tiny_complete", cache_gib=0)
    assert again.fingerprint == whole.fingerprint
    np.testing.assert_array_equal(data.labels(again.train), data.labels(whole.train))
    assert len(path.read_bytes()) == len(content)


def test_labels_are_read_again_where_their_files_are_others(load, tmp_path):
    """Somebody who corrects labels writes the records anew, in place."""
    whole = data.labels(load("tfds:tiny_complete", cache_gib=0).train)
    path = next(tmp_path.rglob("xkd_labels-train.npz"))
    with np.load(path) as stored:
        np.savez(path, **{**stored, "labels": 1 - stored["labels"]})
    kept = data.labels(load("tfds:tiny_complete", cache_gib=0).train)
    np.testing.assert_array_equal(kept, 1 - whole)
    os.utime(next(tmp_path.rglob("*train.tfrecord*")))
    again = data.labels(load("tfds:tiny_complete", cache_gib=0).train)
    np.testing.assert_array_equal(again, whole)


@pytest.mark.parametrize(
    ("labels", "sorted_by_class"),
    [
        (np.repeat(np.arange(10), 100), True),
        (np.tile(np.repeat(np.arange(10), 10), 10), True),  # in files, each in order
        (np.random.default_rng(0).integers(0, 10, 1000), False),
        (np.random.default_rng(0).permutation(np.repeat([0, 1], [990, 10])), False),  # uneven
        (np.zeros(100, int), False),
        (np.array([3]), False),
    ],
)
def test_records_that_are_sorted_by_class_are_noticed(labels, sorted_by_class):
    assert records.in_order(labels) == sorted_by_class


@pytest.mark.parametrize(("gib", "told"), [(0.0, True), (2.0, False)])
def test_records_that_are_sorted_by_class_are_told_where_they_are_streamed(load, gib, told):
    """All in memory, they are shuffled as a whole."""
    notes = load("tfds:tiny_sorted", cache_gib=gib).notes
    assert any(note.startswith("Its records are sorted by class") for note in notes) == told


def test_a_size_that_its_author_did_not_write_is_that_of_the_files(tmp_path):
    (tmp_path / "a").write_bytes(bytes(70))
    split = SimpleNamespace(num_bytes=0, filepaths=[tmp_path / "a", tmp_path / "a"])
    assert data_sets._size(split) == 140
    split.num_bytes = 9
    assert data_sets._size(split) == 9


def test_labels_that_find_no_room_leave_nothing_behind(load, tmp_path, monkeypatch):
    def full(path, **arrays):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(load("tfds:tiny_complete", cache_gib=0).train) == 20
    assert [path.name for path in tmp_path.rglob("*xkd_labels*")] == []
