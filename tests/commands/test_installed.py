"""What is installed works away from the repository: a wheel, unpacked, in an empty directory."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.shell import ROOT, fails
from xkd_keras.flags import config as configs

BUILT_OF = ("pyproject.toml", "README.md", "LICENSE", "xkd_keras", "serving", "configs")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The wheel's content, as pip puts it into site-packages."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("made")
    for name in BUILT_OF:
        if (ROOT / name).is_dir():
            skipped = shutil.ignore_patterns("__pycache__", "node_modules")
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=skipped)
        else:
            shutil.copy(ROOT / name, source)
    described = (source / "pyproject.toml").read_text()  # pip would take a new setuptools for it,
    without = re.sub(r"(?m)^license.*\n", "", described)  # and an old one knows no such licence
    (source / "pyproject.toml").write_text(without)
    line = [sys.executable, "-c", BUILD, str(made)]
    built = subprocess.run(line, cwd=source, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = made.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(made / "site")
    return made / "site"


@pytest.fixture
def installed(site, tmp_path):
    """Return a function that runs Python in an empty directory, with the wheel's modules."""
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def python(*words):
        line = [sys.executable, *words]
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return python


def test_a_wheel_has_every_module_configuration_and_template_and_nothing_else(site):
    def files(root, patterns):
        found = (path for pattern in patterns for path in root.glob(pattern))
        return {
            path.relative_to(root).as_posix() for path in found if "node_modules" not in path.parts
        }

    patterns = ["xkd_keras/**/*.py", "serving/**/*.py", "serving/**/web/*.*", "serving/templates/*"]
    patterns += ["xkd_keras/*.ipynb", "serving/*.ipynb"]
    assert files(site, patterns) == files(ROOT, patterns)
    assert files(site / "xkd_keras/configs", ["**/*.flags"]) == files(
        ROOT / "configs", ["**/*.flags"]
    )
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == {
        "xkd_keras",
        "serving",
    }


def test_installed_configurations_are_those_of_the_repository(installed):
    script = """
import json
from xkd_keras.flags import config, flagfiles
names = [name for name in flagfiles.packaged() if not name.startswith("study/")]
print(json.dumps({name: config.read(name).flags() for name in names}))
"""
    done = installed("-c", script)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"base", "quickstart", "paper/cifar10_alexnet_vgg19"} <= set(found)
    for name, text in found.items():
        assert text == configs.read(ROOT / "configs" / f"{name}.flags").flags()


@pytest.mark.parametrize(
    ("module", "name"),
    [("train", "quickstart"), ("train", "configs/quickstart.flags"), ("study", "study/digits")],
)
def test_an_installed_command_reads_its_configuration_in_an_empty_directory(
    installed, module, name
):
    words = ["-m", f"xkd_keras.{module}", f"--flagfile={name}", "--dataset=folder:birds"]
    fails(installed(*words), 1, "--dataset: folder:birds: 'birds' does not exist")


def test_what_is_installed_lists_what_it_has_and_where_its_notebook_is(installed, site):
    done = installed("-m", "xkd_keras")
    assert done.returncode == 0, done.stderr
    assert "  paper/cifar10_alexnet_vgg19  " in done.stdout
    assert done.stdout.splitlines()[-1] == str(site / "xkd_keras" / "photos.ipynb")
    assert (site / "xkd_keras" / "photos.ipynb").is_file()


@pytest.mark.slow
def test_an_installed_command_trains_evaluates_and_reports(installed, tmp_path, data_dir):
    words = ["--dataset=digits", f"--data_dir={data_dir}", "--run_dir=runs/one"]
    words += ["--peer=alexnet", "--train_examples=64", "--batch_size=32", "--epochs=1"]
    done = installed("-m", "xkd_keras.train", *words)
    assert done.returncode == 0, done.stderr
    assert "test images, 361 of digits:" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    made = {path.name for path in (tmp_path / "runs" / "one").iterdir()}
    assert {"report.html", "metrics.json", "config.flags", "peers"} <= made


def test_the_extra_for_gpus_has_the_bounds_of_tensorflow_itself():
    text = (ROOT / "pyproject.toml").read_text()
    assert re.findall(r'"tensorflow\[and-cuda\](.+?)"', text) == re.findall(
        r'"tensorflow([<>=].+?)"', text
    )
