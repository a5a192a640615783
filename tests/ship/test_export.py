"""A finished run exported: what is written is measured again here, and mistakes lose nothing."""

import dataclasses
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from scipy.special import softmax

from tests import small_peers
from tests.small_runs import finished
from xkd_keras import data as datasets
from xkd_keras import train
from xkd_keras.errors import FlagError, InputError
from xkd_keras.flags import command_line
from xkd_keras.runs import directory as rundir
from xkd_keras.ship import artifacts, evaluate_file, latency, lite, savedmodel

VARIANTS = ("float32", "float16", "dynamic", "int8", "int16x8")
PEERS = ("plain", "normalised")
FILES = {
    *(f"tflite/{peer}-{variant}.tflite" for peer in PEERS for variant in VARIANTS),
    *(f"savedmodel/{name}/1" for name in (*PEERS, "ensemble")),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory, data_dir):
    """A small finished run and everything that can be exported of it."""
    run_dir = tmp_path_factory.mktemp("runs") / "shipped"
    own = "tests.small_peers:{},learning_rate=0.01,weight={}"
    peers = [own.format(name, i + 1) for i, name in enumerate(PEERS)]
    config = finished(run_dir, data_dir, peer=peers, train_examples=300, batch_size=50)
    return config, artifacts.export(run_dir)


@pytest.fixture
def run_dir(exported, tmp_path):
    """A copy that a test may spoil."""
    shutil.copytree(exported[0].run_dir, tmp_path / "run")
    return tmp_path / "run"


def export_dir(exported):
    return Path(exported[0].run_dir) / "export"


def tree(directory):
    """Return every file's content, but for locks."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


def digits(config):
    data = rundir.load_dataset(config)
    return datasets.images(data.test, range(len(data.test)), data), datasets.labels(data.test)


def test_everything_is_made_and_named_in_the_manifest(exported):
    _, manifest = exported
    directory = export_dir(exported)
    assert {entry["file"] for entry in manifest["artifacts"]} == FILES
    assert manifest == json.loads((directory / "manifest.json").read_text())
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
    expected = softmax(model.predict(np.float32(images), verbose=0), axis=-1)
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
    np.testing.assert_allclose(logits["logits"], (plain + 2 * normalised) / 3, atol=1e-4)
    (entry,) = [e for e in manifest["artifacts"] if e["network"] == "ensemble"]
    assert entry["top1"] == np.mean((plain + 2 * normalised).argmax(-1) == labels)


def test_the_report_shows_what_to_ship(exported):
    run_dir = export_dir(exported).parent
    text = (run_dir / "report.md").read_text()
    assert "## Ship it" in text
    assert "tflite/plain-int8.tflite" in text
    assert (run_dir / "plots" / "deployment.svg").exists()
    assert "## How training went" in text


def test_exporting_again_makes_a_new_version_and_keeps_the_old(run_dir):
    before = tree(run_dir / "export" / "savedmodel" / "plain" / "1")
    manifest = artifacts.export(run_dir, ["plain"], ["float32", "savedmodel"])
    assert savedmodel.versions(run_dir / "export" / "savedmodel" / "plain") == [1, 2]
    assert tree(run_dir / "export" / "savedmodel" / "plain" / "1") == before
    assert {entry["file"] for entry in manifest["artifacts"]} == {*FILES, "savedmodel/plain/2"}


def test_tflite_variants_alone_make_no_new_version(run_dir):
    artifacts.export(run_dir, ["plain", "ensemble"], ["float32"])
    assert savedmodel.versions(run_dir / "export" / "savedmodel" / "plain") == [1]
    manifest = artifacts.export(run_dir, ["ensemble"], ["savedmodel"])
    assert {e["file"] for e in manifest["artifacts"]} == {*FILES, "savedmodel/ensemble/2"}


@pytest.mark.parametrize("what", ["files.whole", "manifest.write"])
def test_a_failure_at_the_very_end_leaves_no_version_that_a_server_would_load(
    run_dir, monkeypatch, what
):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"xkd_keras.ship.artifacts.{what}", fail)
    with pytest.raises(OSError, match="No space left"):
        artifacts.export(run_dir, ["plain"], ["float32", "savedmodel"])
    assert savedmodel.versions(run_dir / "export" / "savedmodel" / "plain") == [1]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.json", "{}", "holds no finished run"),
        ("export/manifest.json", "{", r"manifest\.json"),
        (
            "peers/plain.keras",
            "x",
            r"plain\.keras: is damaged; delete .*run/metrics\.json and",
        ),
    ],
)
def test_a_file_of_the_run_that_is_damaged_is_told_before_any_work(run_dir, file, content, message):
    (run_dir / file).write_text(content)
    before = tree(run_dir)
    with pytest.raises(InputError, match=message):
        artifacts.export(run_dir)
    assert tree(run_dir) == before


def test_a_file_in_the_place_of_the_export_is_told_before_any_work(run_dir):
    shutil.rmtree(run_dir / "export")
    (run_dir / "export").write_text("x")
    with pytest.raises(InputError, match="export: is a file; valid: a directory, or nothing"):
        artifacts.export(run_dir)


def test_a_keras_file_whose_weights_are_lost_is_told_with_a_remedy(run_dir):
    path = run_dir / "peers" / "plain.keras"
    with zipfile.ZipFile(path) as whole:
        content = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w") as part:
        for name, each in content.items():
            part.writestr(name, b"" if name.endswith(".h5") else each)
    with pytest.raises(
        InputError, match=r"cannot be read as a Keras model \(.*\); delete "
    ) as told:
        artifacts.export(run_dir)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["plane"],), "^peer: unknown value 'plane'. Did you mean 'plain'"),
        (([], ["int9"]), "^variant: unknown value 'int9'. Did you mean 'int8'"),
        (([], [], 1), r"^version: received 1, and .*plain/1 exists; valid: another number"),
    ],
)
def test_a_wrong_request_changes_nothing(run_dir, arguments, message):
    before = tree(run_dir)
    with pytest.raises(InputError, match=message):
        artifacts.export(run_dir, *arguments)
    assert tree(run_dir) == before


def test_an_unfinished_run_is_refused(run_dir):
    (run_dir / "metrics.json").unlink()
    with pytest.raises(InputError, match="holds no finished run"):
        artifacts.export(run_dir)


def test_a_damaged_network_is_refused_and_nothing_changes(run_dir):
    file = run_dir / "peers" / "plain.keras"
    file.write_bytes(file.read_bytes()[:500])
    before = tree(run_dir)
    with pytest.raises(InputError, match=r"plain\.keras: is damaged"):
        artifacts.export(run_dir)
    assert tree(run_dir) == before


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((8, 8, 3), 10, r"\(None, 10\) of \(None, 8, 8, 3\), and the run's make .*32, 32, "),
        ((32, 32, 3), 3, r"it makes \(None, 3\) of .*, and the run's make \(None, 10\) of "),
        ((32, 32, 3), 10, r"plain\.keras: has a top-1 of .* not the network of this run; restore"),
    ],
)
def test_a_network_of_another_run_is_refused_and_nothing_changes(run_dir, shape, classes, message):
    small_peers.plain(shape, classes).save(run_dir / "peers" / "plain.keras")
    before = tree(run_dir)
    with pytest.raises(InputError, match=message):
        artifacts.export(run_dir)
    assert tree(run_dir) == before


def test_a_file_that_answers_otherwise_is_not_put_in_place(run_dir, monkeypatch):
    before, whole = tree(run_dir), savedmodel.Caller.outputs

    def off(self, images):
        return {name: value + 2e-3 for name, value in whole(self, images).items()}

    monkeypatch.setattr(savedmodel.Caller, "outputs", off)
    with pytest.raises(InputError, match="differs from the Keras model by"):
        artifacts.export(run_dir)
    assert tree(run_dir) == before


def test_an_interrupted_export_leaves_what_was_there(run_dir, monkeypatch):
    before = tree(run_dir)
    (run_dir / ".partial-old").mkdir()  # of an export that was killed

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(latency, "measure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        artifacts.export(run_dir, ["plain"], ["float32"])
    assert tree(run_dir) == before
    assert not list(run_dir.glob(".partial-*"))


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


@pytest.mark.parametrize("file", ["tflite/normalised-int8.tflite", "savedmodel/ensemble/1"])
def test_a_shipped_file_is_evaluated_as_the_manifest_says(exported, file):
    path = export_dir(exported) / file
    (entry,) = [e for e in exported[1]["artifacts"] if e["file"] == file]
    result = evaluate_file.evaluate_model(path, None, "", "test")
    assert result["examples"] == 361
    assert result["ensemble"]["top1"] == entry["top1"]
    if entry["kind"] == "savedmodel":
        metrics = json.loads((path.parents[3] / "metrics.json").read_text())
        expected = metrics["ensemble"]["cross_entropy"]
        assert result["ensemble"]["cross_entropy"] == pytest.approx(expected, abs=1e-4)


def test_what_cannot_be_evaluated_is_told(exported, tmp_path):
    copied = shutil.copy(export_dir(exported) / "tflite/plain-int8.tflite", tmp_path)
    with pytest.raises(FlagError, match=r"^dataset: missing; the model is not in a run"):
        evaluate_file.evaluate_model(Path(copied), None, "", "test")
    (tmp_path / "x.tflite").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"x\.tflite: is not a TFLite model"):
        evaluate_file.evaluate_model(tmp_path / "x.tflite", None, "digits", "test")
    with pytest.raises(InputError, match=r"y\.tflite: there is no such file"):
        evaluate_file.evaluate_model(tmp_path / "y.tflite", None, "digits", "test")


def command(*arguments, limit=None):
    """Run a command as a person would; `limit` is the largest file it can write, in KiB."""
    words = [sys.executable, "-m", *arguments]
    if limit:
        words = ["sh", "-c", f'ulimit -f {limit}; exec "$0" "$@"', *words]
    usual = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=usual)


@pytest.mark.slow
def test_a_disk_that_takes_no_more_is_one_line_and_nothing_changes(run_dir):
    before = tree(run_dir)
    done = command("xkd_keras.export", f"--run_dir={run_dir}", limit=8)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert tree(run_dir) == before


@pytest.mark.slow
@pytest.mark.parametrize("module", ["xkd_keras.export", "serving.server"])
def test_help_is_no_failure(module):
    done = command(module, "--help")
    assert done.returncode == 0
    assert "--" in done.stdout


def test_an_interrupted_command_says_so_and_exits_with_130(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["export"])
    monkeypatch.setattr(sys.stdout, "reconfigure", lambda **_: None, raising=False)
    with pytest.raises(SystemExit) as ended:
        command_line.run(interrupt)
    assert ended.value.code == 130
    assert capsys.readouterr().err == "error: interrupted; what was there before is as it was\n"


@pytest.mark.slow
def test_the_command_prints_a_table_and_the_advice(run_dir):
    done = command("xkd_keras.export", f"--run_dir={run_dir}", "--peer=plain", "--variant=int8")
    assert (done.returncode, done.stderr) == (0, "")
    assert "gzip MB" in done.stdout
    assert "\nTake tflite/" in done.stdout
    wrong = command("xkd_keras.export", f"--run_dir={run_dir}", "--peer=pain")
    assert wrong.returncode == 1
    assert "plain" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1


def test_latency_is_measured_in_rounds_over_all_files_in_changing_order():
    order = []
    calls = [lambda name=name: order.append(name) for name in "abc"]
    times = latency.interleaved(calls, rounds=12, seconds=60)
    assert times.shape == (12, 3)
    assert (times >= 0).all()
    assert "".join(order[:9]) == "aaabbbccc"
    rounds = ["".join(order[i : i + 3]) for i in range(9, 45, 3)]
    assert {"".join(sorted(each)) for each in rounds} == {"abc"}
    assert len(set(rounds)) > 3


def test_latency_belongs_to_the_file_that_took_it():
    calls = [lambda seconds=seconds: time.sleep(seconds) for seconds in (0.004, 0.0, 0.002)]
    times = latency.interleaved(calls, rounds=10, seconds=60)
    assert list(np.argsort(np.median(times, axis=0))) == [1, 2, 0]
    assert len(latency.interleaved(calls, rounds=10**6, seconds=0)) == 10
