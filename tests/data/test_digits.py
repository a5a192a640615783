"""The bundled digits against scikit-learn's own array."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits
from tensorflow_datasets.core.utils import gcs_utils

from tests.shell import ENV
from xkd_keras import data
from xkd_keras.data import download


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return str(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def dataset(directory):
    return data.load("digits", data_dir=directory)


def test_every_digit_once_in_stratified_splits(dataset):
    splits = [dataset.train, dataset.validation, dataset.test]
    assert [len(split) for split in splits] == pytest.approx([1258, 180, 359], abs=5)
    bundled = load_digits()
    for split, share in zip(splits, (0.7, 0.1, 0.2), strict=True):
        counts = np.bincount(data.labels(split), minlength=10)
        np.testing.assert_allclose(counts, np.bincount(bundled.target) * share, atol=1)
    assert sum(np.bincount(data.labels(split)) for split in splits).tolist() == (
        np.bincount(bundled.target).tolist()
    )


def test_images_are_scikit_learns_enlarged(dataset):
    bundled = load_digits()
    originals = np.round(bundled.images * 255 / 16).reshape(1797, 64)
    pixels = data.images(dataset.test, range(len(dataset.test)), dataset).astype(np.float64)
    assert (pixels == pixels[..., :1]).all()  # grey
    # Each original pixel became a 4x4 block; its mean stays near, and nearest to its own image.
    small = pixels[..., 0].reshape(-1, 8, 4, 8, 4).mean((2, 4)).reshape(-1, 64)
    distances = np.linalg.norm(small[:, None] - originals[None], axis=2)
    nearest = distances.argmin(1)
    assert len(set(nearest)) == len(nearest)
    assert bundled.target[nearest].tolist() == data.labels(dataset.test).tolist()


def test_prepared_again_elsewhere_it_is_the_same_and_nobody_is_asked_on_the_network(
    dataset, tmp_path, monkeypatch
):
    def ask(*args):
        raise AssertionError("asked the network")

    monkeypatch.setattr(gcs_utils, "gcs_dataset_info_files", ask)
    monkeypatch.setattr(gcs_utils, "is_dataset_on_gcs", ask)
    monkeypatch.setattr("socket.getaddrinfo", ask)
    again = data.load("digits", data_dir=str(tmp_path))
    assert again.fingerprint == dataset.fingerprint
    assert (again.mean, again.std) == (dataset.mean, dataset.std)


def test_a_process_that_comes_while_another_prepares_finds_all_of_it(
    dataset, directory, tmp_path, monkeypatch
):
    """The builder that it made first knows no splits: it must be made again."""
    stale = download._builder("digits", str(tmp_path))
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    fresh, made = download._builder, []

    def first_stale(*args):
        made.append(stale if not made else fresh(*args))
        return made[-1]

    monkeypatch.setattr(download, "_builder", first_stale)
    assert len(data.load("digits", data_dir=str(tmp_path)).test) == 361


def test_recipe(dataset):
    assert (dataset.augment, dataset.image_shape) == ("crop", (32, 32, 3))
    assert dataset.class_names == tuple("0123456789")


def test_image_size_is_free_and_does_not_touch_the_fingerprint(dataset, directory):
    larger = data.load("digits", data_dir=directory, image_size=40, augment="inception")
    assert larger.image_shape == (40, 40, 3)
    assert larger.fingerprint == dataset.fingerprint
    images, _ = next(iter(data.train_batches(larger, batch_size=8, epochs=1)))
    assert images.shape == (8, 40, 40, 3)


@pytest.mark.slow
def test_reading_deterministically_says_nothing_on_stderr(data_dir):
    """TensorFlow complained of what it makes of a parallel map that decodes."""
    code = (
        "from xkd_keras.devices import start_up\n"
        "start_up.load_tensorflow(wants_logs=False)\n"
        "import tensorflow as tf\n"
        "tf.config.experimental.enable_op_determinism()\n"
        "tf.random.set_seed(0)\n"
        "from xkd_keras import data\n"
        f"images = data.load('digits', data_dir={str(data_dir)!r})\n"
        f"streamed = data.load('digits', data_dir={str(data_dir)!r}, cache_gib=0.0)\n"
        "for each in (images, streamed):\n"
        "    next(iter(data.train_batches(each, batch_size=8, epochs=1, seed=0)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENV, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
