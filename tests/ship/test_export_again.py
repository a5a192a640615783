"""A run exported again: versions, variants, and what training does at its end."""

import dataclasses
import json
import shutil

import pytest

from tests.shipped_files import FILES, tree
from xkd_keras import train
from xkd_keras.errors import FlagError, InputError
from xkd_keras.ship import artifacts, lite, savedmodel

pytestmark = pytest.mark.usefixtures("unmeasured")


def test_exporting_again_makes_a_new_version_and_keeps_the_old(run_dir):
    before = tree(run_dir / "export" / "savedmodel" / "plain" / "1")
    manifest = artifacts.export(run_dir, ["plain"], ["float32", "savedmodel"])
    assert savedmodel.versions(run_dir / "export" / "savedmodel" / "plain") == [1, 2]
    assert tree(run_dir / "export" / "savedmodel" / "plain" / "1") == before
    assert {entry["file"] for entry in manifest["artifacts"]} == {*FILES, "savedmodel/plain/2"}


@pytest.mark.slow
def test_tflite_variants_alone_make_no_new_version(run_dir):
    artifacts.export(run_dir, ["plain", "ensemble"], ["float32"])
    assert savedmodel.versions(run_dir / "export" / "savedmodel" / "plain") == [1]
    manifest = artifacts.export(run_dir, ["ensemble"], ["savedmodel"])
    assert {e["file"] for e in manifest["artifacts"]} == {*FILES, "savedmodel/ensemble/2"}


@pytest.mark.slow
def test_one_variant_that_fails_does_not_lose_the_others(run_dir, monkeypatch, capsys):
    convert = lite._convert

    def failing(directory, variant, images):
        if variant == "int8":
            raise InputError("int8: cannot be made of this network: no")
        return convert(directory, variant, images)

    monkeypatch.setattr(lite, "_convert", failing)
    manifest = artifacts.export(run_dir, ["plain"], ["float32", "int8"])
    (failed,) = manifest["failed"]
    assert failed["file"] == "tflite/plain-int8.tflite"
    assert "tflite/plain-int8.tflite  FAILED: int8: cannot be made" in capsys.readouterr().out
    assert "What could not be made" in (run_dir / "report.md").read_text()
    monkeypatch.undo()
    assert artifacts.export(run_dir, ["plain"], ["int8"])["failed"] == []


@pytest.mark.slow
def test_a_training_run_exports_the_peers_that_it_is_told_to(exported, run_dir):
    shutil.rmtree(run_dir / "export")
    config = dataclasses.replace(exported[0], run_dir=str(run_dir), export=("plain",))
    train.train_and_evaluate(config)
    manifest = json.loads((run_dir / "export" / "manifest.json").read_text())
    assert {entry["network"] for entry in manifest["artifacts"]} == {"plain"}
    before = tree(run_dir)
    train.train_and_evaluate(config)
    assert tree(run_dir) == before


def test_exporting_an_unknown_peer_is_refused_before_training(exported, tmp_path):
    config = dataclasses.replace(exported[0], run_dir=str(tmp_path / "new"), export=("plane",))
    with pytest.raises(FlagError, match=r"^export: unknown value 'plane'\. Did you mean 'plain'"):
        train.train_and_evaluate(config)
    assert not (tmp_path / "new").exists()
