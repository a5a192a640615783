"""A run exported again: versions, variants, and what training does at its end."""

import dataclasses
import json
import shutil

import pytest

from tests.shipped_files import FILES, tree
from xkd_keras import train
from xkd_keras.errors import FlagError, InputError
from xkd_keras.ship import artifacts, lite, savedmodel
from xkd_keras.ship import manifest as listing

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
            raise InputError("int8: cannot be made from this network: no")
        return convert(directory, variant, images)

    monkeypatch.setattr(lite, "_convert", failing)
    manifest = artifacts.export(run_dir, ["plain"], ["float32", "int8"])
    (failed,) = manifest["failed"]
    assert failed["file"] == "tflite/plain-int8.tflite"
    assert "tflite/plain-int8.tflite  FAILED: int8: cannot be made" in capsys.readouterr().out
    assert "These files could not be made" in (run_dir / "report.md").read_text()
    # It stays listed, and is no failure of what is asked for later.
    later = artifacts.export(run_dir, ["normalised"], ["float32"])
    assert later["failed"] == [failed]
    assert listing.asked(later["failed"], ["normalised"], ["float32"]) == []
    assert listing.asked(later["failed"], [], []) == [failed]
    assert listing.asked(later["failed"], [], ["onnx"]) == []
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


@pytest.mark.parametrize("asked", [("all",), ("plain", "all")])
def test_all_networks_are_those_that_have_no_artifact_yet(run_dir, monkeypatch, asked):
    made = []
    monkeypatch.setattr(
        artifacts, "export", lambda run, names: made.extend(names) or {"failed": []}
    )
    artifacts.complete(run_dir, asked)
    assert made == []
    kept = listing.read(run_dir)
    kept["artifacts"] = [e for e in kept["artifacts"] if e["network"] == "plain"]
    listing.write(run_dir, kept)
    artifacts.complete(run_dir, asked)
    assert made == ["normalised", "ensemble"]


def test_a_network_that_was_trained_again_is_exported_again(run_dir, monkeypatch):
    made = []
    monkeypatch.setattr(
        artifacts, "export", lambda run, names: made.extend(names) or {"failed": []}
    )
    (run_dir / "peers" / "plain.keras").touch()
    artifacts.complete(run_dir, ["all"])
    assert made == ["plain", "ensemble"]


@pytest.mark.slow
def test_a_variant_asked_for_twice_is_made_once(run_dir, capsys):
    listed = artifacts.export(run_dir, ["plain"], ["float32", "float32"])
    assert len(listed["artifacts"]) == len(FILES)
    assert capsys.readouterr().out.count("tflite/plain-float32.tflite  ") == 1


@pytest.mark.slow
def test_a_file_whose_latency_is_unknown_is_exported_all_the_same(run_dir, monkeypatch, capsys):
    shutil.rmtree(run_dir / "export")
    monkeypatch.setattr(artifacts.latency, "measure", lambda paths, _: ["torn"] * len(paths))
    listed = artifacts.export(run_dir, ["plain"], ["float32", "float16"])
    assert "plain-float16.tflite  its latency cannot be measured: torn" in capsys.readouterr().out
    assert "latency_ms" not in listed["artifacts"][0]
    lines = (run_dir / "report.md").read_text().splitlines()
    assert next(line for line in lines if "-float16." in line).endswith("| – | – |")


def test_exporting_an_unknown_peer_is_refused_before_training(exported, tmp_path):
    config = dataclasses.replace(exported[0], run_dir=str(tmp_path / "new"), export=("plane",))
    with pytest.raises(FlagError, match=r"^export: unknown value 'plane'\. Did you mean 'plain'"):
        train.train_and_evaluate(config)
    assert not (tmp_path / "new").exists()
