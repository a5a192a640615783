"""ImageNet's real TFDS builder on tiny archives of odd-sized JPEGs; in memory and streamed."""

import numpy as np
import pytest

from tests import once
from tests.fake_cifar import no_network, write_imagenet
from xkd_keras import data
from xkd_keras.errors import InputError

SYNSETS = ("n01440764", "n01443537", "n01484850", "n01491361")  # the first four: labels 0..3
OPTIONS = {"image_size": 32, "augment": "inception", "validation_fraction": 0.3}


@pytest.fixture(scope="module")
def directory(shared):
    def prepare(path):
        with pytest.MonkeyPatch.context() as monkeypatch:
            no_network(monkeypatch)
            write_imagenet(path, synsets=SYNSETS)
            data.load("imagenet2012", data_dir=str(path), **OPTIONS)

    return str(once.made(shared, "imagenet", prepare))


@pytest.fixture(scope="module", params=[2.0, 0.0], ids=["in_memory", "streamed"])
def dataset(request, directory):
    return data.load("imagenet2012", data_dir=directory, cache_gib=request.param, **OPTIONS)


def test_splits_and_labels(dataset):
    assert len(dataset.class_names) == 1000
    assert dataset.class_names[0] == SYNSETS[0]
    assert np.bincount(data.labels(dataset.train)).tolist() == [4] * 4
    assert np.bincount(data.labels(dataset.validation)).tolist() == [2] * 4
    assert len(dataset.test) == 5  # its 'validation', which has labels


def test_default_recipe(directory):
    dataset = data.load("imagenet2012", data_dir=directory)
    assert dataset.image_shape == (224, 224, 3)
    assert (dataset.augment, dataset.crop_ratio) == ("inception", 0.875)


def test_epochs_do_not_depend_on_where_the_stream_began(dataset):
    batches = lambda first: list(  # noqa: E731
        data.train_batches(dataset, batch_size=5, epochs=3, first_epoch=first, seed=3)
    )
    whole, late = batches(0), batches(2)
    assert (len(whole), len(late)) == (9, 3)
    for left, right in zip(whole[6:], late, strict=True):
        np.testing.assert_array_equal(left[0], right[0])
        np.testing.assert_array_equal(left[1], right[1])
    assert whole[0][0].shape == (5, 32, 32, 3)
    assert not np.array_equal(whole[0][0], whole[3][0])


@pytest.mark.slow
def test_streaming_and_memory_agree(directory):
    one, other = (
        data.load("imagenet2012", data_dir=directory, cache_gib=gib, **OPTIONS) for gib in (2, 0)
    )
    assert type(one.train.source) is not type(other.train.source)
    assert (one.fingerprint, one.mean, one.std) == (other.fingerprint, other.mean, other.std)
    for split in ("train", "validation", "test"):
        pair = (getattr(one, split), getattr(other, split))
        left, right = (list(data.eval_batches(part, dataset=one, batch_size=4)) for part in pair)
        assert len(left) == -(-len(pair[0]) // 4)
        for a, b in zip(left, right, strict=True):
            for x, y in zip(a, b, strict=True):
                np.testing.assert_array_equal(x, y)
        picked = data.images(pair[1], [4, 1], one)
        np.testing.assert_array_equal(picked[1], left[0][0][1])


def test_missing_archives_are_asked_for_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"imagenet2012 must be downloaded by hand into .*manual"):
        data.load("imagenet2012", data_dir=str(tmp_path))
