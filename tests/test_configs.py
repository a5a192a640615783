"""Every configuration that we ship: it loads, says what it is, and its peers take a step."""

import dataclasses
import math
import types
from pathlib import Path

import numpy as np
import pytest

from xkd_keras import config as configs
from xkd_keras import peers, train, training

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "configs").rglob("*.flags"))
RUNS = [path for path in FILES if path.name != "base.flags"]
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet2012": 1000, "digits": 10}


def name(path):
    return path.relative_to(ROOT / "configs").with_suffix("").as_posix()


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # nested flag files are read from the current directory


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_a_configuration_is_valid_and_opens_with_its_command(path, tmp_path):
    head = path.read_text().splitlines()[:2]
    config = configs.read(path)
    if config.dataset == "folder:PATH":  # to be replaced by whoever copies it
        config = dataclasses.replace(config, dataset=f"folder:{tmp_path}")
    train.check(config)
    shown = "my.flags" if path.stem == "folder" else path.relative_to(ROOT).as_posix()
    assert head[0].startswith("# ")
    assert head[1] == f"#   python -m xkd_keras.train --flagfile={shown}"
    assert len(config.peers()) >= 2
    assert config.method == "mcod"


def test_no_two_configurations_share_a_run_directory():
    directories = [configs.read(path).run_dir for path in RUNS]
    assert len(set(directories)) == len(directories)


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_a_configurations_peers_take_one_step(path):
    config = configs.read(path)
    classes = CLASSES.get(config.dataset, 7)
    size = 64 if config.dataset in ("imagenet2012", "folder:PATH") else 32
    data = types.SimpleNamespace(
        image_shape=(size, size, 3),
        class_names=tuple(map(str, range(classes))),
        mean=(127.0,) * 3,
        std=(60.0,) * 3,
    )
    cohort = training.build_cohort(config, data, steps=10)
    cohort.run_eagerly = True  # one step: quicker than to trace it
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (2, size, size, 3)).astype("float32")
    logs = cohort.train_on_batch(images, rng.integers(0, classes, 2), return_dict=True)
    assert all(math.isfinite(value) for value in logs.values())
    assert int(cohort.optimizer.iterations) == 1


def test_the_readme_names_every_flag_and_every_peer():
    text = (ROOT / "README.md").read_text()
    missing = [f.name for f in dataclasses.fields(configs.Config) if f"`--{f.name}" not in text]
    assert not missing
    assert not [name for name in peers.names() if f"`{name}`" not in text]
