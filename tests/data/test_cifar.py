"""CIFAR's real TFDS builders, run on a small archive in the true binary formats."""

import functools

import numpy as np
import pytest

from tests.fake_cifar import CIFAR10_NAMES, no_network, write_cifar10, write_cifar100
from xkd_keras import data
from xkd_keras.errors import InputError


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Each data set as it was written, prepared and loaded, by name; nobody may change it."""

    def prepare(name):
        directory, write = tmp_path_factory.mktemp(name), {"cifar10": write_cifar10}
        with pytest.MonkeyPatch.context() as patch:
            parts = write.get(name, write_cifar100)(directory, patch)
            return parts, directory, data.load(name, data_dir=str(directory))

    return functools.cache(prepare)


def _sorted_pixels(images):
    return sorted(image.tobytes() for image in images)


@pytest.mark.parametrize(("name", "held_out"), [("cifar10", 10), ("cifar100", 100)])
def test_pixels_and_labels_are_those_written(written, name, held_out):
    parts, _, dataset = written(name)
    images, labels = parts["train"]
    label_of = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert (len(dataset.train), len(dataset.validation)) == (len(labels) - held_out, held_out)
    read = []
    for split in (dataset.train, dataset.validation):
        pixels = data.images(split, range(len(split)), dataset)
        read += [image.tobytes() for image in pixels]
        assert [label_of[image.tobytes()] for image in pixels] == data.labels(split).tolist()
    assert sorted(read) == sorted(label_of)
    test = data.images(dataset.test, range(len(dataset.test)), dataset)
    assert _sorted_pixels(test) == _sorted_pixels(parts["test"][0])


def test_classes_recipe_and_statistics(written):
    *_, dataset = written("cifar10")
    assert dataset.class_names == tuple(CIFAR10_NAMES)
    assert (dataset.augment, dataset.image_shape, dataset.crop_ratio) == (
        "crop_flip",
        (32, 32, 3),
        1.0,
    )
    pixels = data.images(dataset.train, range(len(dataset.train)), dataset).reshape(-1, 3)
    np.testing.assert_allclose(dataset.mean, pixels.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, pixels.std(0, dtype=np.float64), rtol=1e-9)


def test_cifar100_uses_the_fine_labels(written):
    *_, dataset = written("cifar100")
    assert dataset.class_names[7] == "fine7"
    assert set(data.labels(dataset.test)) == set(range(100))


def test_one_pixel_changes_the_fingerprint_and_nothing_else_does(written, tmp_path, monkeypatch):
    _, directory, dataset = written("cifar10")
    for options in ({"cache_gib": 0}, {"seed": 5}):
        again = data.load("cifar10", data_dir=str(directory), **options)
        assert again.fingerprint == dataset.fingerprint
    original, prints = np.random.default_rng, []
    for changed in (0, 1):
        here = tmp_path / str(changed)

        def generator(seed, changed=changed):
            rng = original(seed)

            class Generator:
                permutation = rng.permutation

                def integers(self, *args):
                    images = rng.integers(*args)
                    images[0, 3, 4, 1] ^= changed
                    return images

            return Generator()

        monkeypatch.setattr(np.random, "default_rng", generator)
        write_cifar10(here, monkeypatch)
        prints.append(data.load("cifar10", data_dir=str(here)).fingerprint)
    assert prints[0] == dataset.fingerprint
    assert prints[1] != prints[0]


def test_subset_is_stratified_seeded_and_beside_the_validation_images(written):
    _, directory, whole = written("cifar10")
    load = functools.partial(data.load, "cifar10", data_dir=str(directory))
    first, second = load(train_examples=30), load(train_examples=30, seed=1)
    assert np.bincount(data.labels(first.train)).tolist() == [3] * 10
    assert set(first.train.positions) <= set(whole.train.positions)
    assert set(first.train.positions) != set(second.train.positions)
    assert first.validation.positions.tolist() == second.validation.positions.tolist()
    assert first.fingerprint != second.fingerprint
    for wrong in (9, 111):
        with pytest.raises(
            InputError, match=rf"^train_examples: received {wrong}; valid: 10 .* to 110 "
        ):
            load(train_examples=wrong)


def test_a_download_without_network_fails_at_once_in_one_line(tmp_path, monkeypatch):
    no_network(monkeypatch)

    def unknown_host(*args):
        raise OSError("no such host")

    monkeypatch.setattr("socket.getaddrinfo", unknown_host)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(InputError, match=r"^dataset: cifar10 is not in .*\.flags\)\.$") as caught:
        data.load("cifar10", data_dir=str(tmp_path))
    assert "\n" not in str(caught.value)
