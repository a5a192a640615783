"""The lines that a reader is given to classify a photo see of it what evaluation sees."""

import json
import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.invented_runs import Run
from tests.pictures import PICTURES, Picture, encoded, rgb, scene
from tests.shell import ROOT
from xkd_keras.data import preparation
from xkd_keras.report import run_page

pytestmark = pytest.mark.usefixtures("unrendered")

KINDS = (
    *("jpeg turned 6", "png turned", "cmyk jpeg", "grey jpeg", "progressive jpeg"),
    *("transparent png", "transparent grey", "transparent table", "transparent gif"),
)
WIDE = Picture(encoded(scene(260, 120), "PNG"), rgb(scene(260, 120)), 0, "png")


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """A function: lines of Python and a picture -> the pixels that reach the network."""
    given = []
    answer = np.eye(3)[[2]]
    network = SimpleNamespace(predict=lambda pixels: given.append(np.asarray(pixels)) or answer)
    monkeypatch.setattr(keras.models, "load_model", lambda file: network)
    monkeypatch.chdir(tmp_path)
    names = {"data": {"class_names": ["ant", "bee", "crow"]}}
    (tmp_path / "metrics.json").write_text(json.dumps(names))

    def run(lines, picture):
        for name in ("IMAGE", "image.png"):
            (tmp_path / name).write_bytes(picture.content)
        exec(lines, {})
        return given.pop()

    return run


def lines_of_report(size, **config):
    run = Run(epochs=0)
    metrics = run.metrics
    metrics["data"]["image_shape"] = [*size, 3]
    metrics["config"] |= {"dataset": "folder:photos", **config}
    text, _ = run_page.compose(metrics, [], run.answered)
    use = text.split("## Use a model")[1].split("## ")[0].splitlines()
    return "\n".join(line[4:] for line in use if line.startswith("    "))


@pytest.mark.parametrize("name", KINDS)
def test_the_lines_of_a_report_see_what_evaluation_sees(seen, name, capsys):
    picture = PICTURES[name]
    pixels = seen(lines_of_report((32, 32)), picture)
    expected = preparation.evaluation(tf.constant(picture.seen), 32, 1.0).numpy()
    assert pixels.shape == (1, 32, 32, 3)
    assert np.abs(pixels[0] - expected).max() <= picture.rounding + 2  # Pillow rounds once more
    assert capsys.readouterr().out == "crow\n"


@pytest.mark.parametrize(
    ("size", "config", "ratio"),
    [
        ((96, 96), {}, 0.875),  # above 64 pixels, training cuts inception crops of a folder's
        ((72, 96), {"augment": "inception+colour"}, 0.875),
        ((96, 96), {"augment": "crop_flip"}, 1.0),
        ((64, 64), {"augment": "auto"}, 1.0),
    ],
)
def test_the_lines_of_a_report_crop_as_evaluation_does(seen, size, config, ratio):
    pixels = seen(lines_of_report(size, **config), WIDE)
    expected = preparation.evaluation(tf.constant(WIDE.seen), size, ratio).numpy()
    assert np.abs(pixels[0] - expected).max() <= 2


@pytest.mark.parametrize("name", KINDS)
def test_the_lines_of_the_readme_see_what_evaluation_sees(seen, name):
    text = (ROOT / "xkd_keras/runs/README.md").read_text()
    (lines,) = re.findall(r"```python\n(import keras.*?)```", text, re.DOTALL)
    picture = PICTURES[name]
    expected = preparation.evaluation(tf.constant(picture.seen), 32, 1.0).numpy()
    assert np.abs(seen(lines, picture)[0] - expected).max() <= picture.rounding + 2
