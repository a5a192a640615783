"""The notebook runs from its first cell to its last, with small networks in the reader's stead."""

import json
import logging
import sys
import types
from pathlib import Path

import pytest
import tensorflow as tf

from tests import small_runs
from tests.shell import ROOT

NOTEBOOK = json.loads((ROOT / "xkd_keras" / "photos.ipynb").read_text())
CELLS = ["".join(c["source"]) for c in NOTEBOOK["cells"] if c["cell_type"] == "code"]
SETTINGS, IMAGES, *REST = CELLS
# What a reader may set in the first cell: this trains in seconds.
SMALL = {"PEERS": (small_runs.PLAIN, small_runs.NORMALISED), "SHIP": "normalised", "EPOCHS": 2}


@pytest.fixture
def shown(monkeypatch):
    """What Jupyter shows beside text, without Jupyter."""
    frames = []
    display = types.ModuleType("IPython.display")
    display.IFrame = lambda source, *size: frames.append(source)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return frames


@pytest.fixture
def notices():
    """What TensorFlow says to a reader, who has not been at the command line that quiets it."""
    said, logger = [], tf.get_logger()
    handler, level = logging.Handler(), logger.level
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    logger.setLevel("WARNING")
    yield said
    logger.setLevel(level)
    logger.removeHandler(handler)


@pytest.fixture
def cells(tmp_path, monkeypatch):
    """Return a function that runs cells in an empty directory, and the variables that they set."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}

    def run(*sources):
        for source in sources:
            exec(compile(source, "cell", "exec"), names)
        return names

    return run


def test_it_is_a_notebook_of_the_fourth_format_that_keeps_no_output():
    assert NOTEBOOK["nbformat"] == 4
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    code = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
@pytest.mark.usefixtures("unmeasured")
def test_its_cells_lead_from_drawn_images_to_a_classified_photo(cells, shown, notices, capsys):
    cells(SETTINGS).update(SMALL)
    names = cells(IMAGES, *REST)
    assert len(list(Path("shapes").rglob("*.png"))) == 180
    assert shown == ["runs/notebook/report.html"]
    assert Path(shown[0]).exists()
    assert names["labels"] == ["circle", "square", "triangle"]
    assert names["probabilities"].sum() == pytest.approx(1, abs=0.02)  # int8: steps of 1/256
    *_, first, second, third, time = capsys.readouterr().out.splitlines()
    order = [float(line.split()[1]) for line in (first, second, third)]
    assert order == sorted(order, reverse=True)
    assert time.endswith(" ms")
    assert not [line for line in notices if "AutoGraph" in line]


def test_with_a_folder_of_the_readers_it_draws_nothing(cells):
    cells(SETTINGS).update(IMAGES="birds")
    assert cells(IMAGES)["folder"] == Path("birds")
    assert not list(Path().iterdir())
