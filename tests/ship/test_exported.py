"""What was exported of a finished run, measured again."""

import gzip
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from scipy.special import softmax

from tests.shipped_files import FILES, PEERS, VARIANTS
from xkd_keras import data as datasets
from xkd_keras.errors import FlagError, InputError
from xkd_keras.runs import directory as rundir
from xkd_keras.ship import evaluate_file, savedmodel


def export_dir(exported):
    return Path(exported[0].run_dir) / "export"


def digits(config):
    data = rundir.load_dataset(config)
    return datasets.images(data.test, range(len(data.test)), data), datasets.labels(data.test)


def test_everything_is_made_and_named_in_the_manifest(exported):
    _, manifest = exported
    directory = export_dir(exported)
    assert {entry["file"] for entry in manifest["artifacts"]} == FILES
    assert manifest["failed"] == []
    assert manifest["class_names"] == [str(digit) for digit in range(10)]
    assert all((directory / file).exists() for file in FILES)
    assert not list(directory.parent.glob(".partial*"))


def test_sizes_and_checksums_are_those_of_the_files(exported):
    for entry in exported[1]["artifacts"]:
        path = export_dir(exported) / entry["file"]
        if entry["kind"] == "tflite":
            content = path.read_bytes()
            assert entry["sha256"] == hashlib.sha256(content).hexdigest()
            assert entry["bytes"] == len(content)
            assert gzip.decompress(gzip.compress(content)) == content
            assert entry["gzip_bytes"] == pytest.approx(len(gzip.compress(content)), rel=0.01)
        else:
            listed = subprocess.run(
                "find . -type f | cut -c3- | LC_ALL=C sort | xargs sha256sum",
                **{"shell": True, "cwd": path, "capture_output": True, "check": True},
            ).stdout
            assert entry["sha256"] == hashlib.sha256(listed).hexdigest()
            sizes = [file.stat().st_size for file in path.rglob("*") if file.is_file()]
            assert entry["bytes"] == sum(sizes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_accuracy_agreement_and_difference_are_measured_on_all_test_images(exported, variant):
    config, manifest = exported
    (entry,) = [e for e in manifest["artifacts"] if e["file"] == f"tflite/plain-{variant}.tflite"]
    images, labels = digits(config)
    runner = Interpreter(str(export_dir(exported) / entry["file"])).get_signature_runner()
    answers = np.concatenate([runner(pixels=np.float32(i)[None])["probabilities"] for i in images])
    model = rundir.load_peers(Path(config.run_dir), ["plain"])["plain"]
    metrics = json.loads((Path(config.run_dir) / "metrics.json").read_text())
    logits = model.predict(np.float32(images), verbose=0) / metrics["peers"]["plain"]["temperature"]
    expected = softmax(logits, axis=-1)
    assert entry["top1"] == np.mean(answers.argmax(-1) == labels)
    assert entry["agreement"] == np.mean(answers.argmax(-1) == expected.argmax(-1))
    assert entry["max_difference"] == pytest.approx(np.abs(answers - expected).max(), abs=1e-5)
    assert entry["max_difference"] < (1e-4 if variant == "float32" else 0.5)


def test_the_ensemble_is_the_weighted_mean_of_the_peers(exported):
    config, manifest = exported
    images, labels = digits(config)
    models = rundir.load_peers(Path(config.run_dir), PEERS)
    plain, normalised = (models[p].predict(np.float32(images), verbose=0) for p in PEERS)
    logits = savedmodel.Caller(export_dir(exported) / "savedmodel/ensemble/1").outputs(images)
    metrics = json.loads((Path(config.run_dir) / "metrics.json").read_text())
    expected = (plain + 2 * normalised) / 3 / metrics["ensemble"]["temperature"]
    np.testing.assert_allclose(logits["logits"], expected, atol=1e-4)
    (entry,) = [e for e in manifest["artifacts"] if e["network"] == "ensemble"]
    assert entry["top1"] == np.mean((plain + 2 * normalised).argmax(-1) == labels)


def test_the_report_shows_what_to_ship(exported):
    run_dir = export_dir(exported).parent
    text = (run_dir / "report.md").read_text()
    assert "## Ship it" in text
    assert "tflite/plain-int8.tflite" in text
    assert (run_dir / "plots" / "deployment.svg").exists()
    assert "## How training went" in text


@pytest.mark.parametrize("file", ["tflite/normalised-int8.tflite", "savedmodel/ensemble/1"])
def test_a_shipped_file_is_evaluated_as_the_manifest_says(exported, file):
    path = export_dir(exported) / file
    (entry,) = [e for e in exported[1]["artifacts"] if e["file"] == file]
    result = evaluate_file.evaluate_model(path, None, "", "test")
    assert result["examples"] == 361
    assert result["ensemble"]["top1"] == entry["top1"]
    if entry["kind"] == "savedmodel":
        metrics = json.loads((path.parents[3] / "metrics.json").read_text())
        expected = metrics["ensemble"]["calibrated"]["cross_entropy"]
        assert result["ensemble"]["cross_entropy"] == pytest.approx(expected, abs=1e-4)


def test_what_cannot_be_evaluated_is_told(exported, tmp_path):
    copied = shutil.copy(export_dir(exported) / "tflite/plain-int8.tflite", tmp_path)
    with pytest.raises(
        FlagError, match=r"^dataset: missing; give it, as the model is not in a run"
    ):
        evaluate_file.evaluate_model(Path(copied), None, "", "test")
    (tmp_path / "x.tflite").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"x\.tflite: is not a TFLite model"):
        evaluate_file.evaluate_model(tmp_path / "x.tflite", None, "digits", "test")
    with pytest.raises(InputError, match=r"y\.tflite: there is no such file"):
        evaluate_file.evaluate_model(tmp_path / "y.tflite", None, "digits", "test")
