"""What a run on real images leaves behind, checked against what is computed here."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.small_runs import configuration
from xkd_keras import data as datasets
from xkd_keras import peers, train
from xkd_keras.errors import InputError
from xkd_keras.flags import config as configs
from xkd_keras.runs import directory as rundir
from xkd_keras.runs import records, training, whereabouts
from xkd_keras.ship import artifacts, lite


def digits(data_dir):
    """The test split as plain arrays."""
    data = datasets.load("digits", data_dir=str(data_dir))
    n = len(data.test)
    return datasets.images(data.test, range(n), data), datasets.labels(data.test)


@pytest.fixture(scope="module")
def run(finished_run, shared):
    """A finished run: its directory, its configuration and what the function returned."""
    returned = json.loads((shared / "finished.json").read_text())
    return Path(finished_run.run_dir), finished_run, returned


def test_a_run_is_a_directory_that_explains_itself(run):
    run_dir, _, _ = run
    found = {path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*.*")}
    assert {
        "config.flags",
        "data.json",
        "metrics.json",
        "report.html",
        "report.md",
        "logs/history.csv",
        "checkpoints/epoch-0003.npz",
        "peers/plain.keras",
        "peers/normalised.keras",
    } <= found
    assert not [name for name in found if "partial" in name]


@pytest.mark.slow
def test_heads_on_early_stages_are_gone_from_what_is_saved_and_shipped(data_dir, tmp_path):
    """The heads of built-in networks, which learn and teach while these are trained."""
    config = configuration(tmp_path, data_dir, peer=("alexnet", "resnet20"), exits=1, epochs=1)
    cohort = keras.callbacks.Callback()
    training.run(config, [cohort])
    assert {*cohort.model.exits.heads} == {"alexnet", "resnet20"}
    run = rundir.load_run(tmp_path)
    artifacts.export(tmp_path, ["resnet20"], ["float32"])
    for name, model in run.models.items():
        alone = peers.build(name, run.data.image_shape, 10, mean=run.data.mean, std=run.data.std)
        shapes = [[weight.shape for weight in each.weights] for each in (model, alone)]
        assert shapes[0] == shapes[1]
    file = lite.Lite((tmp_path / "export/tflite/resnet20-float32.tflite").read_bytes())
    images, _ = digits(data_dir)
    logits = keras.ops.convert_to_numpy(run.models["resnet20"](images[:8].astype("float32")))
    np.testing.assert_allclose(np.argmax(file(images[:8]), -1), logits.argmax(-1))


@pytest.mark.parametrize("part", ["train", "validation"])
def test_tensorboard_shows_what_the_history_has(run, part):
    events = EventAccumulator(str(run[0] / "logs" / part))
    events.Reload()
    rows = list(csv.DictReader((run[0] / "logs/history.csv").open()))
    prefix = "val_" if part == "validation" else ""
    for name in ("plain_top1", "normalised_distillation", "distill_weight", "loss", "agreement"):
        shown = [tf.make_ndarray(e.tensor_proto) for e in events.Tensors(f"epoch_{name}")]
        np.testing.assert_allclose(shown, [float(r[prefix + name]) for r in rows], rtol=1e-6)


def test_the_metrics_are_those_of_the_saved_files_on_the_whole_test_split(run, data_dir):
    run_dir, _, metrics = run
    images, labels = digits(data_dir)
    logits = {}
    for name in ("plain", "normalised"):
        model = keras.models.load_model(run_dir / "peers" / f"{name}.keras")
        logits[name] = model.predict(images.astype("float32"), verbose=0).astype("float64")
    logits["ensemble"] = (logits["plain"] + 2 * logits["normalised"]) / 3
    rows = {**metrics["peers"], "ensemble": metrics["ensemble"]}
    for name, z in logits.items():
        assert rows[name]["top1"] == np.mean(z.argmax(-1) == labels)
        want = -np.mean(log_softmax(z, -1)[np.arange(len(z)), labels])
        assert rows[name]["cross_entropy"] == pytest.approx(want, rel=1e-5)
    same = np.mean(logits["plain"].argmax(-1) == logits["normalised"].argmax(-1))
    assert metrics["agreement"] == same
    assert metrics["data"]["examples"] == {"train": 200, "validation": 179, "test": 361}


def test_the_saved_peers_are_made_of_stock_layers(run):
    for path in (run[0] / "peers").iterdir():
        for layer in keras.models.load_model(path).layers:
            assert type(layer).__module__.startswith("keras."), (path, layer)


def test_the_history_has_a_row_an_epoch_with_every_peers_terms(run):
    rows = list(csv.DictReader((run[0] / "logs/history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["step"] for row in rows] == ["4", "8", "12"]
    for key in ("cross_entropy", "distillation", "top1", "learning_rate"):
        assert all(f"{name}_{key}" in rows[0] for name in ("plain", "normalised"))
    assert {"distill_weight", "val_ensemble_top1", "val_plain_top1", "agreement"} <= set(rows[0])
    assert all(float(row["distill_weight"]) == 1.0 for row in rows)
    assert all(
        0 < float(row[f"{name}_heard"]) < 1 for row in rows for name in ("plain", "normalised")
    )


def test_the_validation_values_are_exact_over_a_padded_batch(run, data_dir):
    """179 images do not fill a batch of 256."""
    run_dir, _, _ = run
    data = datasets.load("digits", data_dir=str(data_dir))
    images = datasets.images(data.validation, range(179), data).astype("float32")
    model = keras.models.load_model(run_dir / "peers/plain.keras")
    hits = model.predict(images, verbose=0).argmax(-1) == datasets.labels(data.validation)
    row = list(csv.DictReader((run_dir / "logs/history.csv").open()))[-1]
    assert float(row["val_plain_top1"]) == pytest.approx(hits.mean(), abs=1e-6)


def test_a_complete_run_is_not_touched_again(run):
    run_dir, config, metrics = run

    def times():
        files = [path for path in run_dir.rglob("*.*") if path.name != ".lock"]
        return {path: path.stat().st_mtime_ns for path in files}

    before = times()
    assert train.train_and_evaluate(config) == metrics
    assert times() == before


def test_a_complete_run_whose_metrics_are_damaged_is_told_in_a_line(run, tmp_path):
    run_dir, config, _ = run
    shutil.copy(run_dir / "config.flags", tmp_path)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(InputError, match=r"^run_dir: .*metrics\.json is damaged or cannot be"):
        training.run(dataclasses.replace(config, run_dir=str(tmp_path)))


@pytest.mark.parametrize("from_checkpoint", [True, False])
@pytest.mark.usefixtures("unmeasured")
def test_a_run_that_is_finished_again_has_a_new_report_and_keeps_what_was_exported(
    run, tmp_path, capsys, from_checkpoint
):
    shutil.copytree(run[0], tmp_path / "run")
    old = ("report.html", "classes.csv", "mistakes.html", "export/manifest.json")
    (tmp_path / "run/export").mkdir()
    for name in old:
        (tmp_path / "run" / name).write_text('{"artifacts": [], "failed": []}')
    (tmp_path / "run/metrics.json").unlink()
    if not from_checkpoint:
        shutil.rmtree(tmp_path / "run/checkpoints")
    train.train_and_evaluate(dataclasses.replace(run[1], run_dir=str(tmp_path / "run")))
    for name in old[:3]:
        assert len((tmp_path / "run" / name).read_text()) > 100
    assert (tmp_path / "run/export/manifest.json").exists()  # a server may be reading from there
    told = capsys.readouterr().out
    assert ("are trained again, and replaced when" in told) == (not from_checkpoint)
    assert ("export has what was made of the earlier" in told) == (not from_checkpoint)


def test_another_configuration_is_refused_naming_the_flags(run):
    _, config, _ = run
    other = dataclasses.replace(config, epochs=5, temperature=1.0)
    with pytest.raises(InputError) as error:
        train.train_and_evaluate(other)
    assert "--temperature was 3.0 and is 1.0; --epochs was 3 and is 5" in str(error.value)


def test_networks_of_keras_layers_load_where_their_module_is_not(finished_run, tmp_path):
    shutil.copytree(finished_run.run_dir, tmp_path / "run")
    flags = tmp_path / "run" / "config.flags"
    flags.write_text(flags.read_text().replace("tests.small_peers:", "module_that_is_gone:"))
    loaded = rundir.load_run(tmp_path / "run")
    assert set(loaded.models) == {"plain", "normalised"}
    (tmp_path / "run" / "peers" / "plain.keras").write_bytes(b"torn")
    with pytest.raises(InputError, match="cannot import module 'module_that_is_gone'"):
        rundir.load_run(tmp_path / "run")


def test_a_run_whose_images_have_moved_goes_on_with_their_new_place(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    config = configs.Config(dataset=f"folder:{tmp_path / 'old'}", peer=("alexnet",))
    run_dir = tmp_path / "run"
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "checkpoints" / "epoch-0001.npz").touch()
    (run_dir / "config.flags").write_text(config.flags())
    moved = dataclasses.replace(config, dataset=f"folder:{tmp_path / 'new'}")
    with pytest.raises(InputError, match="--dataset was"):  # both are there: it may be another
        rundir.claim(moved, run_dir)
    (tmp_path / "old").rmdir()
    with pytest.raises(InputError, match="--dataset was"):  # nothing says which images it had
        rundir.claim(moved, run_dir)
    begun = {"fingerprint": "abc", "path": str(tmp_path / "old")}
    (run_dir / "data.json").write_text(json.dumps(begun))
    assert rundir.claim(moved, run_dir).dataset == moved.dataset
    (run_dir / "metrics.json").touch()  # of a finished run, nobody would compare the images
    with pytest.raises(InputError, match="--dataset was"):
        rundir.claim(moved, run_dir)
    (run_dir / "metrics.json").unlink()
    other = dataclasses.replace(moved, epochs=7)
    with pytest.raises(InputError, match="--epochs was 30 and is 7"):
        rundir.claim(other, run_dir)


def test_the_images_of_a_finished_run_are_where_they_were_whatever_is_here(tmp_path, monkeypatch):
    """A folder of the same relative path in the directory of another project is another."""
    for name in ("a/birds", "b/birds", "a/run"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    config = configs.Config(dataset="folder:birds", peer=("alexnet",))
    metrics = {"data": {"image_shape": [8, 8, 3], "fingerprint": "abc"}}
    for name, content in (
        ("metrics.json", json.dumps(metrics)),
        ("config.flags", config.flags()),
        ("data.json", json.dumps(whereabouts.folder_fact(config))),
    ):
        (tmp_path / "a/run" / name).write_text(content)
    assert records.finished(Path("run"))[0].dataset == "folder:birds"
    monkeypatch.chdir(tmp_path / "b")
    found = records.finished(Path("../a/run"))[0]
    assert found.dataset == f"folder:{tmp_path / 'a/birds'}"
    assert not rundir.is_own(found, "folder:birds")
    assert records.configuration(Path("../a/run")).dataset == "folder:birds"  # may be a copy
    (tmp_path / "a/birds").rmdir()
    assert records.finished(Path("../a/run"))[0].dataset == "folder:birds"


def test_another_folder_than_that_which_has_moved_is_told(tmp_path):
    old, other = tmp_path / "old", tmp_path / "other"
    for i in range(12):
        for label in ("a", "b"):
            (other / label).mkdir(parents=True, exist_ok=True)
            pixels = np.full((8, 8, 3), 20 * i + (label == "b"), "uint8")
            keras.utils.save_img(other / label / f"{i}.png", pixels, scale=False)
    config = configs.Config(dataset=f"folder:{other}", peer=("alexnet",), image_size="32")
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/epoch-0001.npz").touch()
    begun = {"fingerprint": "abc", "path": str(old)}
    (tmp_path / "run/data.json").write_text(json.dumps(begun))
    with pytest.raises(
        InputError, match=rf"are not those that .*run' was started with \(in '{old}'"
    ):
        rundir.record(config, tmp_path / "run", rundir.load_dataset(config))
