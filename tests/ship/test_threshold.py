"""A threshold for "none of these": chosen on validation, counted on test, in every file."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests import shipped_files
from tests.serving.served_models import picture
from xkd_keras import data as datasets
from xkd_keras.runs import calibration, records
from xkd_keras.runs import directory as rundir
from xkd_keras.ship import artifacts, lite, manifest, savedmodel

pytestmark = pytest.mark.usefixtures("unmeasured")
PRECISION = 0.25  # the network has learned for seconds


@pytest.fixture(scope="module")
def asked(exported, tmp_path_factory):
    """A copy of the run, exported with a precision: its directory and its new entries by kind."""
    run_dir = tmp_path_factory.mktemp("asked") / "run"
    shutil.copytree(exported[0].run_dir, run_dir)
    with pytest.MonkeyPatch.context() as patch:
        shipped_files.only_words(patch)
        kinds = ["float32", "savedmodel"]
        listed = artifacts.export(run_dir, ["normalised"], kinds, precision=PRECISION)
    entries = [e for e in listed["artifacts"] if "threshold" in e]
    return run_dir, {entry["kind"]: entry for entry in entries}


def test_it_lets_through_what_is_right_often_enough_on_validation(asked):
    run_dir, entries = asked
    assert set(entries) == {"tflite", "savedmodel"}
    found = entries["tflite"]["threshold"]
    call = lite.Lite((run_dir / "export" / entries["tflite"]["file"]).read_bytes())
    data = rundir.load_dataset(records.finished(run_dir)[0])
    taken, right = {}, {}
    for split in ("validation", "test"):
        part = getattr(data, split)
        given = call(datasets.images(part, range(len(part)), data))
        taken[split] = given.max(-1) >= found["score"]
        right[split] = (given.argmax(-1) == datasets.labels(part)) & taken[split]
    assert 0 < taken["validation"].sum() < len(data.validation)
    assert right["validation"].sum() / taken["validation"].sum() >= PRECISION
    assert (found["taken"], found["right"]) == (taken["test"].sum(), right["test"].sum())
    assert found["rests_on"] == taken["validation"].sum()
    # Of the same network, the two files have the same threshold.
    assert entries["savedmodel"]["threshold"]["score"] == pytest.approx(found["score"], abs=1e-4)


def test_it_is_in_what_a_server_answers_and_in_the_report(asked):
    run_dir, entries = asked
    call = savedmodel.Caller(run_dir / "export" / entries["savedmodel"]["file"])
    answer = call.of_bytes([picture(10, 20, 30)] * 2)
    np.testing.assert_allclose(
        answer["threshold"], [entries["savedmodel"]["threshold"]["score"]] * 2, rtol=1e-6
    )
    text = (Path(run_dir) / "report.md").read_text()
    assert "the lowest at which the requested share" in text
    assert f"| {entries['tflite']['file'].replace('_', chr(92) + '_')} | 25 | " in text


@pytest.mark.slow
def test_a_precision_that_is_out_of_reach_is_asked_for_again(run_dir, monkeypatch):
    monkeypatch.setattr(calibration, "threshold", lambda *_: None)

    def export(**more):
        listed = artifacts.export(run_dir, ["plain"], ["float32"], **more)
        (entry,) = [e for e in listed["artifacts"] if e["file"] == "tflite/plain-float32.tflite"]
        return listed["precision"], entry.get("threshold", "none")

    assert export(precision=0.999) == (0.999, None)
    assert export() == (0.999, None)


def test_a_manifest_of_an_earlier_version_has_its_precision_in_a_threshold():
    entries = [{"threshold": None}, {"threshold": {"precision": 0.9}}, {"file": "x"}]
    assert manifest.precision({"artifacts": entries}) == 0.9
    assert manifest.precision({"artifacts": entries, "precision": 0.0}) == 0.0
    assert manifest.precision({"artifacts": entries[2:]}) == 0.0


def test_without_a_precision_no_answer_is_below(exported):
    run_dir = Path(exported[0].run_dir)
    call = savedmodel.Caller(run_dir / "export" / "savedmodel" / "plain" / "1")
    assert call.of_bytes([picture(10, 20, 30)])["threshold"].tolist() == [0.0]
    listed = json.loads((run_dir / "export" / "manifest.json").read_text())
    assert not any("threshold" in entry for entry in listed["artifacts"])
