"""Every configuration that we ship: it loads, says what it is, and its peers take a step."""

import dataclasses
import math
import types
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from tests import small_studies
from tests.fake_cifar import no_network, write_cifar10, write_cifar100, write_imagenet
from xkd_keras import peers, train
from xkd_keras.flags import config as configs
from xkd_keras.runs import building
from xkd_keras.runs import directory as rundir
from xkd_keras.study import options, orchestration, workers

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "configs").rglob("*.flags"))
STUDIES = sorted((ROOT / "configs" / "study").rglob("*.flags"))
RUNS = [path for path in FILES if path.name != "base.flags" and path not in STUDIES]
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
    train.check_flags(config)
    train.check_own(config)
    shown = "my.flags" if path.stem == "folder" else path.relative_to(ROOT).as_posix()
    assert head[0].startswith("# ")
    assert head[1] == f"#   python -m xkd_keras.train --flagfile={shown}"
    assert len(config.peers()) >= 2
    # The configurations of the paper have its method, the others this project's.
    assert config.method == ("mcod" if path.parent.name == "paper" else "xkd")


def plan(path):
    """Read a study as its command does."""
    values = flags.FlagValues()
    options.define(values)
    values(["study", f"--flagfile={path}"])
    if values.dataset.startswith("folder:"):  # whoever runs it has unzipped one there
        values.dataset = f"folder:{path.parent}"
    return options.plan(values)


@pytest.mark.parametrize("path", STUDIES, ids=name)
def test_a_study_is_valid_and_opens_with_its_command(path):
    head = path.read_text().splitlines()[:2]
    found = plan(path)
    assert head[0].startswith("# ")
    shown = path.relative_to(ROOT).as_posix()
    assert head[1] == f"#   python -m xkd_keras.study --flagfile={shown}"
    assert len(found.base.peers()) >= 2
    only_search = ("digits_schedule", "digits_teacher", "glyphs_weight", "cifar10_terms")
    if not path.stem.startswith((*only_search, "cifar10_exits")):
        assert len(found.seeds) >= 3
        assert {"solo", "kd", "mcod"} <= {arm.name for arm in found.arms}


def test_no_two_configurations_share_a_run_directory():
    directories = [configs.read(path).run_dir for path in RUNS]
    directories += [plan(path).base.run_dir for path in STUDIES]
    assert len(set(directories)) == len(directories)


def _imagenet(directory, monkeypatch):
    write_imagenet(directory, synsets=("n01440764", "n01443537"), per_synset=12, validation=8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "write", "peer", "shown"),
    [
        ("cifar10_alexnet_vgg19", write_cifar10, "alexnet,learning_rate=0.01", "+5.94 for"),
        ("cifar100_alexnet_vgg19", write_cifar100, "vgg11,learning_rate=0.01", "+2.88 for"),
        ("imagenet_resnet50_densenet121", _imagenet, "resnet20", "+5.07 for resnet"),
    ],
)
def test_the_papers_studies_run_on_their_data_at_reduced_size(
    tmp_path, monkeypatch, study, write, peer, shown
):
    """The data's own formats with a few images, two small networks, one or two steps."""
    no_network(monkeypatch)
    write(tmp_path / "data", monkeypatch)
    given = plan(ROOT / f"configs/study/paper/{study}.flags")
    small = {"train_examples": 0, "epochs": 1, "batch_size": 8, "validation_fraction": 0.3}
    small |= {"image_size": 32, "run_dir": str(tmp_path / "study")}
    small |= {"data_dir": str(tmp_path / "data"), "peer": (peer, "tests.small_peers:normalised")}
    base = dataclasses.replace(given.base, **small)
    rundir.load_dataset(base)  # prepared in this process, which knows the small archives
    monkeypatch.setattr(workers, "run_all", small_studies.in_process)
    found = orchestration.run(dataclasses.replace(given, base=base, seeds=(0,)))
    assert [run["status"] for run in found["runs"]] == ["done"] * 3
    assert shown in (tmp_path / "study" / "report.md").read_text()


@pytest.mark.parametrize("path", RUNS, ids=name)
def test_a_configurations_peers_have_optimizers_and_a_teacher(path):
    config = configs.read(path)
    for peer in config.peers():
        optimizer = building.optimizer(peer.learning, config.epochs, 10)
        rates = building.learning_rate(peer.learning, config.epochs, 10)(np.arange(10))
        assert np.all(np.isfinite(rates))
        assert type(optimizer).__name__.lower() == peer.learning["optimizer"]
    _, schedule = building.distillation(config, 10)
    assert building.distill_weights(schedule, config.epochs * 10).any()


def test_the_file_for_a_persons_own_images_leaves_each_network_what_suits_it():
    config = configs.read(ROOT / "configs" / "folder.flags")
    given = {name: value for name, value in config.learning().items() if value is not None}
    assert given == {"learning_rate_schedule": "cosine", "warmup_epochs": 2.0}
    started = "applications:MobileNetV3Small,start=imagenet"
    others = ("alexnet", "resnet20", started, "applications:ConvNeXtTiny")
    alexnet, resnet, mobile, convnext = (
        peer.learning for peer in dataclasses.replace(config, peer=others).peers()
    )
    assert alexnet["learning_rate"] == 0.01  # at 0.1 it diverges
    assert resnet["weight_decay"] == 1e-4
    assert mobile["learning_rate"] == pytest.approx(0.005)  # a tenth, from trained weights
    assert convnext["optimizer"] == "adamw"


def networks(path):
    """Return the networks of a configuration, each with the optimizer that trains it."""
    return {(p.builder, p.learning["optimizer"]) for p in configs.read(path).peers()}


def stepping():
    """Mark as slow those of the paper, and those whose networks all are in a smaller cohort.

    Pairs of the paper take no step of their own where another of its cohorts has both networks.
    """
    papers = [path for path in RUNS if path.parent.name == "paper"]
    parts = {path for path in papers if any(networks(path) < networks(one) for one in papers)}
    ours, seen, quick = (path for path in RUNS if path not in papers), set(), set()
    for path in sorted(ours, key=lambda path: len(networks(path))):
        if networks(path) - seen:
            quick.add(path)
        seen |= networks(path)
    marks = {path: () if path in quick else pytest.mark.slow for path in RUNS}
    stepped = (path for path in RUNS if path not in parts)
    return [pytest.param(path, id=name(path), marks=marks[path]) for path in stepped]


@pytest.mark.parametrize("path", stepping())
def test_a_configurations_peers_take_one_step(path):
    config = configs.read(path)
    classes = CLASSES.get(config.dataset, 7)
    size = 64 if config.dataset in ("imagenet2012", "folder:PATH") else 32
    data = types.SimpleNamespace(
        image_shape=(size, size, 3),
        class_names=tuple(map(str, range(classes))),
        mean=(127.0,) * 3,
        std=(60.0,) * 3,
        train=types.SimpleNamespace(labels=np.arange(classes)),
    )
    cohort = building.build_cohort(config, data, steps=10)
    cohort.run_eagerly = True  # one step: quicker than to trace it
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (2, size, size, 3)).astype("float32")
    logs = cohort.train_on_batch(images, rng.integers(0, classes, 2), return_dict=True)
    assert all(math.isfinite(value) for value in logs.values())
    assert int(cohort.optimizer.iterations) == 1


def test_the_readmes_name_every_flag_and_every_peer():
    paths = [ROOT / "README.md", *ROOT.glob("xkd_keras/**/README.md")]
    text = "\n".join(path.read_text() for path in paths)
    missing = [f.name for f in dataclasses.fields(configs.Config) if f"`--{f.name}" not in text]
    assert not missing
    assert not [name for name in peers.names() if f"`{name}`" not in text]
