"""--preset fills in what was not given, and a run's own file repeats the run without it."""

import re

import pytest
from absl import flags

from tests.shell import ROOT
from xkd_keras.errors import FlagError
from xkd_keras.flags import config as configs
from xkd_keras.flags import presets


def parsed(*given):
    values = flags.FlagValues()
    configs.define(values)
    presets.define(values)
    values(["train", "--dataset=folder:pets", "--peer=resnet20", *given])
    return presets.from_flags(values)


def test_a_preset_fills_in_what_was_not_given():
    config = parsed("--preset=photos")
    assert (config.augment, config.learning_rate_schedule) == ("crop+flip+colour", "cosine")
    assert (config.epochs, config.batch_size, config.warmup_epochs) == (60, 64, 2.0)
    assert (config.label_smoothing, config.ema) == (0.1, 0.99)
    assert (config.keep, config.patience, config.image_size) == ("last", 0, "0")
    (peer,) = config.peers()
    assert (peer.learning["learning_rate_schedule"], peer.learning["weight_decay"]) == (
        *("cosine", 1e-4),  # what suits the network stays
    )


@pytest.mark.parametrize(
    ("given", "batch"),
    [
        (("--train_examples=255",), None),
        (("--train_examples=256",), 64),
        (("--train_examples=50", "--batch_size=5"), 5),
        (("--dataset=digits",), 64),
    ],
)
def test_the_batch_of_few_images_is_that_which_suits_them(given, batch):
    assert parsed("--preset=photos", *given).batch_size == batch


@pytest.mark.parametrize(
    ("folders", "images", "batch", "more"),
    [
        (("a", "b"), 182, None, ()),  # 364, of which 70 % are trained on: 255
        (("a", "b"), 183, 64, ()),
        (("train/a", "train/b", "val/a", "test/a", "test/b"), 128, 64, ()),
        (("train/a", "train/b", "test/a", "test/b"), 128, None, ()),  # a tenth is held out
        (("train/a", "train/b", "test/a"), 200, None, ("--validation_fraction=0.5",)),
        (("a", "b"), 183, None, ("--validation_fraction=0.5",)),  # a fifth is for the test
    ],
)
def test_of_a_folder_the_images_are_counted(tmp_path, folders, images, batch, more):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        for i in range(images):
            (tmp_path / folder / f"{i}.jpg").touch()
    flags = ("--preset=photos", f"--dataset=folder:{tmp_path}", *more)
    assert parsed(*flags).batch_size == batch


def test_what_is_given_wins_also_where_it_is_the_default_or_in_a_file(tmp_path):
    (tmp_path / "mine.flags").write_text("--ema=0\n--learning_rate_schedule=step\n")
    given = (f"--flagfile={tmp_path}/mine.flags", "--augment=auto", "--label_smoothing=0")
    config = parsed(*given, "--preset=photos", "--epochs=5")
    assert (config.ema, config.learning_rate_schedule, config.augment) == (0.0, "step", "auto")
    assert (config.label_smoothing, config.epochs, config.warmup_epochs) == (0.0, 5, 0.5)


def test_what_it_chose_is_printed_and_what_was_given_is_not(capsys):
    parsed("--preset=photos", "--ema=0.5")
    said = capsys.readouterr().out
    assert said.startswith("preset photos: --augment=crop+flip+colour ")
    assert " --epochs=60 " in said
    assert "--ema" not in said
    parsed()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("size", "augment"),
    [("64", "crop+flip+colour"), ("48x80", "crop+flip+colour"), ("96x128", "inception+colour")],
)
def test_photos_large_enough_are_cropped_at_all_scales(size, augment):
    assert parsed("--preset=photos", f"--image_size={size}").augment == augment


def test_the_file_of_the_run_repeats_it_without_the_preset(tmp_path):
    config = parsed("--preset=photos", f"--run_dir={tmp_path}")
    (tmp_path / "config.flags").write_text(config.flags())
    assert "preset" not in config.flags()
    assert configs.read(tmp_path / "config.flags") == config
    assert config.differences(parsed("--preset=photos", "--run_dir=elsewhere")) == []


def test_without_a_preset_nothing_changes():
    assert parsed() == configs.Config(dataset="folder:pets", peer=("resnet20",))


def test_an_unknown_preset_is_one_line():
    with pytest.raises(FlagError, match=r"^preset: unknown value 'photo'. Did you mean 'photos'?"):
        parsed("--preset=photo")


def test_the_readme_says_what_a_preset_chooses():
    text = (ROOT / "xkd_keras/flags/README.md").read_text()
    table = dict(re.findall(r"^\| `--(\w+)` \| `(\S+?)`", text.partition("## Presets")[2], re.M))
    chosen = presets.photos(configs.Config(dataset="folder:pets", epochs=60))
    chosen |= {"epochs": 60, "batch_size": 64}
    assert {name: str(value) for name, value in chosen.items()} == table
