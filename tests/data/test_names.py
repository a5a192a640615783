"""--dataset values: what they mean, and what is said about wrong ones."""

import subprocess
import sys

import pytest

from xkd_keras import data
from xkd_keras.data.names import resolve
from xkd_keras.errors import FlagError, InputError


@pytest.mark.parametrize("name", ["digits", "cifar10", "tfds:mnist", "tfds:cifar10_corrupted/fog"])
def test_good_names(name):
    data.check(name)


@pytest.mark.parametrize(
    ("name", "error", "line"),
    [
        ("digit", FlagError, r"unknown value 'digit'\. Did you mean 'digits'\?"),
        ("cifar-10", FlagError, r"Did you mean 'cifar10'\? valid: digits, cifar10, "),
        ("tfds:mnits", FlagError, r"unknown value 'tfds:mnits'\. Did you mean 'tfds:mnist'\?"),
        ("tfds:", FlagError, r"valid: .*tfds:NAME, folder:PATH"),
        ("folder:no/such/place", InputError, r"'no/such/place' does not exist"),
        (f"folder:{__file__}", InputError, r"is a file; valid: a folder"),
    ],
)
def test_bad_names_get_one_line(name, error, line):
    with pytest.raises(error, match=line) as caught:
        data.check(name)
    assert str(caught.value).startswith("dataset: ")
    assert "\n" not in str(caught.value)


def test_one_data_set_has_one_name_however_its_path_is_written(tmp_path, monkeypatch):
    (tmp_path / "birds").mkdir()
    (tmp_path / "link").symlink_to("birds")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for other in (tmp_path / "birds", "birds/", "link", "./link/../birds", "~/birds"):
        assert data.same("folder:birds", f"folder:{other}")
    assert not data.same("folder:birds", "folder:.")
    assert not data.same("folder:digits", "digits")
    assert data.same("digits", "digits")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"augment": "crop_flipp"},
            r"^augment: unknown value 'crop_flipp'\. Did you mean 'crop_flip'\?",
        ),
        (
            {"image_size": -1},
            r"^image_size: received -1; valid: .* HEIGHTxWIDTH such as 96x128; 0: the",
        ),
        ({"image_size": "96*128"}, r"^image_size: received 96\*128; valid: a number of pixels, or"),
        ({"image_size": "0x32"}, r"^image_size: received 0x32; valid: "),
        ({"image_size": (32, 32, 3)}, r"^image_size: received 32x32x3; valid: "),
        ({"train_examples": -5}, r"^train_examples: received -5; valid"),
        ({"validation_fraction": 1.0}, r"^validation_fraction: received 1.0; valid"),
        ({"cache_gib": -1}, r"^cache_gib: received -1.0; valid"),
    ],
)
def test_bad_options(options, line):
    with pytest.raises(FlagError, match=line):
        data.load("digits", **options)


@pytest.mark.parametrize(
    ("name", "native", "size", "expected"),
    [
        ("cifar100", (32, 32), 0, (32, "crop_flip", 1.0)),
        ("imagenet2012", None, 0, (224, "inception", 0.875)),
        ("imagenet2012", None, 64, (64, "crop_flip", 1.0)),
        ("tfds:svhn_cropped", (32, 32), 0, (32, "crop", 1.0)),
        ("tfds:emnist/letters", (28, 28), 0, (28, "crop", 1.0)),
        ("tfds:eurosat", (64, 64), 0, (64, "crop_flip", 1.0)),
        ("tfds:stl10", (96, 96), 0, (64, "crop_flip", 1.0)),
        ("tfds:stl10", (96, 96), 96, (96, "inception", 0.875)),
        ("tfds:imagenet2012:5.1.0", None, 0, (224, "inception", 0.875)),
        ("tfds:cifar10", (32, 32), 0, (32, "crop_flip", 1.0)),
        ("folder:digits", None, 0, (64, "crop_flip", 1.0)),
        ("folder:pets", None, 65, (65, "inception", 0.875)),
        ("folder:pets", None, "48x80", ((48, 80), "crop_flip", 1.0)),
        ("folder:pets", None, (96, 128), ((96, 128), "inception", 0.875)),
    ],
)
def test_recipes(name, native, size, expected):
    recipe = resolve(name, native, size, "auto")
    size = expected[0] if isinstance(expected[0], tuple) else (expected[0], expected[0])
    assert (recipe.image_size, recipe.augment, recipe.crop_ratio) == (size, *expected[1:])


def test_checking_a_name_does_not_import_tensorflow():
    program = "import sys; from xkd_keras import data; data.check('digits'); print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "xkd_keras.data.names" in output.stdout.split()
    assert "tensorflow" not in output.stdout.split()
