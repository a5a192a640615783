"""What is shipped of a run on images that are not square, and are cropped in evaluation."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from serving.mobile import classify
from tests import once, shipped_files, small_runs
from xkd_keras import data as datasets
from xkd_keras.data import preparation
from xkd_keras.runs import directory, records
from xkd_keras.ship import artifacts, evaluate_file, savedmodel


@pytest.fixture(scope="module")
def shipped(shared, data_dir):
    """A run that was exported, and its manifest."""

    def make(run_dir):
        small_runs.finished(
            *(run_dir, data_dir), peer=("tests.small_peers:plain,learning_rate=0.01",), epochs=1,
            train_examples=100, batch_size=50, augment="inception", image_size="20x36",
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            shipped_files.only_words(patch)
            artifacts.export(run_dir, ["plain"], ["savedmodel", "float32"])

    run_dir = once.made(shared, "wide", make)
    return run_dir, json.loads((run_dir / "export" / "manifest.json").read_text())


@pytest.mark.slow
def test_the_manifest_the_saved_model_and_the_tflite_file_know_the_size(shipped):
    run_dir, manifest = shipped
    assert manifest["image_shape"] == [20, 36, 3]
    assert manifest["crop_ratio"] == 0.875
    assert json.loads((run_dir / "metrics.json").read_text())["config"]["image_size"] == "20x36"
    for entry in manifest["artifacts"]:
        path = run_dir / "export" / entry["file"]
        found = evaluate_file.evaluate_model(path, None, "", "test")
        top1 = records.finished(run_dir)[1]["peers"]["plain"]["top1"]
        assert found["ensemble"]["top1"] == pytest.approx(top1, abs=0.003)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tflite", "savedmodel"])
def test_a_file_away_from_its_run_knows_how_images_are_cropped(
    shipped, tmp_path, monkeypatch, kind
):
    run_dir, manifest = shipped
    (file,) = [entry["file"] for entry in manifest["artifacts"] if entry["kind"] == kind]
    copied = tmp_path / "elsewhere" / "1" / Path(file).name
    copied.parent.mkdir(parents=True)
    (shutil.copytree if kind == "savedmodel" else shutil.copy)(run_dir / "export" / file, copied)
    for label in range(10):
        (tmp_path / "photos" / str(label)).mkdir(parents=True)
        noise = np.random.default_rng(label).integers(0, 256, (60, 90, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"photos/{label}/a.png")
    seen = []

    def answers(call, data, split, batch):
        seen.append(datasets.images(getattr(data, split), [0], data)[0])
        call(np.zeros((1, 20, 36, 3), np.float32))
        return np.full((len(getattr(data, split)), 10), 0.1, np.float32)

    monkeypatch.setattr(evaluate_file.evaluation, "answers", answers)
    evaluate_file.evaluate_model(copied, None, f"folder:{tmp_path / 'photos'}", "all")
    first = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    expected = np.asarray(preparation.evaluation(first, (20, 36), 0.875))
    np.testing.assert_allclose(seen[0], expected, atol=1)


@pytest.mark.slow
def test_a_picture_is_seen_alike_as_bytes_by_an_app_and_in_evaluation(shipped, tmp_path):
    run_dir, manifest = shipped
    y, x = np.mgrid[:70, :50]
    pixels = np.uint8(127 + 120 * np.sin(x / 9 + y / 13))[:, :, None].repeat(3, 2)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    files = {entry["kind"]: run_dir / "export" / entry["file"] for entry in manifest["artifacts"]}
    content = (tmp_path / "picture.png").read_bytes()
    served = savedmodel.Caller(files["savedmodel"]).of_bytes([content])["logits"][0]
    # Scaled to 41 x 58 by 41 / 50 (36 / 0.875 = 41), rows 19 to 38 and columns 2 to 37 of it.
    whole = Image.fromarray(pixels).resize((41, 57), Image.Resampling.BILINEAR)
    seen = np.asarray(whole, np.float32)[18:38, 2:38]
    (model,) = directory.load_run(run_dir).models.values()
    expected = model(seen[None]).numpy()[0]
    np.testing.assert_allclose(softmax(served), softmax(expected), atol=0.02)
    interpreter, labels = classify.load(files["tflite"])
    ratio = classify.packed(files["tflite"], "crop_ratio.txt", 1.0)
    prepared = classify.prepare(Image.open(tmp_path / "picture.png"), (20, 36), ratio)
    np.testing.assert_allclose(prepared[0], seen, atol=2)
    probabilities, _ = classify.classify(interpreter, prepared)
    np.testing.assert_allclose(probabilities, softmax(expected), atol=0.02)
    assert len(labels) == 10
