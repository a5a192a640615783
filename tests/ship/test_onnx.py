"""ONNX files against Keras; where the extra is not installed, the line that says what to do."""

import json
import re
import shutil

import keras
import numpy as np
import pytest
from scipy.special import softmax

from tests import shipped_files
from tests.shell import ROOT, fails, here
from tests.shipped_files import FILES
from xkd_keras.errors import InputError
from xkd_keras.ship import artifacts, onnx_file, quality, variants

MISSING = variants.missing_for_onnx()
NEEDED = f"the extra onnx is not installed: {', '.join(MISSING)}"  # .ci/run installs it
pytestmark = pytest.mark.usefixtures("unmeasured")


@pytest.fixture
def without(monkeypatch):
    """Let the packages of the extra not be installed."""
    needed = {"absent_onnx": "absent_onnx>=1,<2", "absent_runtime": "absent_runtime<3"}
    monkeypatch.setattr(variants, "_OF_ONNX", needed)


@pytest.fixture(scope="module")
def shipped(exported, tmp_path_factory):
    """A run with the ONNX file of one network, the file, and its entry."""
    if MISSING:
        pytest.skip(NEEDED)
    run_dir = tmp_path_factory.mktemp("onnx") / "run"
    shutil.copytree(exported[0].run_dir, run_dir)
    with pytest.MonkeyPatch.context() as patch:
        shipped_files.only_words(patch)
        listed = artifacts.export(run_dir, ["normalised"], ["onnx"])
    assert not listed["failed"]
    (entry,) = (e for e in listed["artifacts"] if e["kind"] == "onnx")
    return run_dir, run_dir / "export" / entry["file"], entry


def test_without_the_extra_a_line_says_how_to_install_it(without):
    needs = "onnx needs absent_onnx and absent_runtime; run"
    needs += " `pip install 'absent_onnx>=1,<2' 'absent_runtime<3'`; valid without it: savedmodel,"
    fails(here("export", "--run_dir=x", "--variant=onnx"), 1, f"--variant: {needs}")
    with pytest.raises(InputError, match=r"^variant: onnx needs absent_onnx"):
        artifacts.check_variants(["onnx"])
    line = "--model: x.onnx: onnx needs absent_onnx and absent_runtime"
    fails(here("evaluate", "--model=x.onnx"), 1, line)


def test_what_is_to_be_installed_is_the_extra_of_the_project():
    extra = re.search(r"^onnx = (\[.+\])", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert [*variants._OF_ONNX.values()] == json.loads(extra[1])
    assert all(line.startswith(name) for name, line in variants._OF_ONNX.items())


def test_the_ensemble_has_no_onnx_file():
    words = ["--run_dir=x", "--peer=ensemble", "--variant=onnx"]
    fails(here("export", *words), 2, "the ensemble has no TFLite or ONNX files")


def test_onnx_is_made_only_if_asked_for(exported):
    assert variants.ONNX not in variants.KINDS
    assert {entry["file"] for entry in exported[1]["artifacts"]} == FILES


def test_a_file_answers_as_keras_does_for_any_batch(shipped):
    run_dir, file, _ = shipped
    model = keras.models.load_model(run_dir / "peers" / "normalised.keras")
    metrics = json.loads((run_dir / "metrics.json").read_text())
    temperature = metrics["peers"]["normalised"]["temperature"]
    call = onnx_file.read(file)
    assert call.image_shape == model.input_shape[1:]
    for n in (1, 3, 65):  # 65: more than are run at once
        images = np.random.default_rng(n).integers(0, 256, (n, *call.image_shape)).astype(np.uint8)
        logits = model.predict(images, verbose=0) / temperature
        found = call.outputs(images)
        assert quality.largest_difference(found["logits"], logits) < quality.TOLERANCE
        np.testing.assert_allclose(found["probabilities"], softmax(logits, -1), atol=1e-4)
        np.testing.assert_array_equal(call(images), found["probabilities"])


def test_a_file_says_what_goes_in_and_out_and_which_classes_there_are(shipped, exported):
    import onnx

    model = onnx.load(shipped[1])
    ends = {
        end.name: [d.dim_param or d.dim_value for d in end.type.tensor_type.shape.dim]
        for end in (*model.graph.input, *model.graph.output)
    }
    classes = exported[1]["class_names"]
    shape = exported[1]["image_shape"]
    assert ends == {
        "pixels": ["batch", *shape],
        "logits": ["batch", len(classes)],
        "probabilities": ["batch", len(classes)],
    }
    assert {i.version for i in model.opset_import if not i.domain} == {onnx_file.OPSET}
    told = {p.key: p.value for p in model.metadata_props}
    assert json.loads(told["labels"]) == classes
    assert float(told["crop_ratio"]) == exported[1]["crop_ratio"]
    assert onnx_file.read(shipped[1]).labels == tuple(classes)
    assert model.doc_string == "normalised on digits."


def test_a_threshold_is_in_its_metadata(shipped):
    import onnx

    content = onnx_file.sure_from(shipped[1].read_bytes(), 0.1 + 0.2)
    told = {p.key: p.value for p in onnx.load_from_string(content).metadata_props}
    assert float(told["threshold"]) == 0.1 + 0.2
    assert onnx_file.Onnx(content).labels == onnx_file.read(shipped[1]).labels


def test_the_manifest_and_the_report_have_it_as_any_other_artifact(shipped):
    run_dir, file, entry = shipped
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert entry["top1"] == pytest.approx(metrics["peers"]["normalised"]["top1"])
    assert entry["agreement"] == 1.0
    assert entry["bytes"] == file.stat().st_size
    assert entry["latency_ms"] == {"min": 1.0, "median": 1.5}
    assert "onnx/normalised.onnx" in (run_dir / "report.md").read_text()
    said = here("evaluate", f"--model={file}")
    assert said.returncode == 0, said.stderr
    assert f"{100 * entry['top1']:.2f}" in said.stdout


@pytest.mark.slow
def test_an_export_without_the_runtime_keeps_the_file_without_a_latency(
    shipped, without, monkeypatch, capsys
):
    run_dir, file, _ = shipped
    other = {"min": 2.0, "median": 2.5}
    monkeypatch.setattr(artifacts.latency, "measure", lambda paths, image: [other for _ in paths])
    listed = artifacts.export(run_dir, ["normalised"], ["float32"])
    kept = {e["file"]: e.get("latency_ms", {}).get("min") for e in listed["artifacts"]}
    assert kept["onnx/normalised.onnx"] is None  # it was measured on another day
    assert kept["tflite/normalised-float32.tflite"] == 2.0
    assert "onnx/normalised.onnx  its latency cannot be measured" in capsys.readouterr().out
    assert file.exists()


@pytest.mark.slow
def test_a_layer_that_onnx_lacks_is_listed_as_failed_and_loses_nothing(
    shipped, run_dir, monkeypatch
):
    def fails(*_, **__):
        raise ValueError("no such operation\nand pages more")

    monkeypatch.setattr(keras.Model, "export", fails)
    listed = artifacts.export(run_dir, ["plain"], ["onnx", "float32"])
    (failed,) = listed["failed"]
    assert failed["file"] == "onnx/plain.onnx"
    assert failed["reason"] == "onnx: cannot be made from this network: no such operation"
    assert {e["file"] for e in listed["artifacts"]} == FILES


@pytest.mark.skipif(bool(MISSING), reason=NEEDED)
@pytest.mark.parametrize("content", [b"", b"no file of ONNX", None])
def test_what_is_no_onnx_file_of_ours_is_refused(tmp_path, content):
    path = tmp_path / "x.onnx"
    if content is not None:
        path.write_bytes(content)
    fails(here("evaluate", f"--model={path}"), 1, f"--model: {path}: ", "xkd_keras.export")
