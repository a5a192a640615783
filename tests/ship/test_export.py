"""Exporting a finished run: a mistake or a failure is one line, and what was there is as it was."""

import json
import os
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest

from tests import small_peers
from tests.shipped_files import FILES, tree
from xkd_keras.errors import InputError
from xkd_keras.flags import command_line
from xkd_keras.ship import artifacts, latency, metadata, savedmodel, tested

pytestmark = pytest.mark.usefixtures("unmeasured")


def export_dir(exported):
    return Path(exported[0].run_dir) / "export"


@pytest.mark.parametrize("what", ["files.whole", "ship.manifest.write"])
def test_a_failure_at_the_very_end_leaves_no_version_that_a_server_would_load(
    run_dir, monkeypatch, what
):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"xkd_keras.{what}", fail)
    with pytest.raises(OSError, match="No space left"):
        artifacts.export(run_dir, ["plain"], ["float32", "savedmodel"])
    assert savedmodel.versions(run_dir / "export" / "savedmodel" / "plain") == [1]


@pytest.mark.parametrize(
    ("dataset", "called"),
    [
        ("folder:/home/ana/acme/birds/", "folder:birds"),
        ("folder:birds", "folder:birds"),
        ("x", "x"),
    ],
)
def test_a_file_does_not_tell_where_its_images_are_on_somebodys_disk(dataset, called):
    run = types.SimpleNamespace(config=types.SimpleNamespace(dataset=dataset))
    assert artifacts._called(run) == called


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "metrics.json",
            "{}",
            r"metrics\.json is damaged or cannot be read \('data'\); valid: delete",
        ),
        ("metrics.json", "{", r"metrics\.json is damaged or cannot be read \(Expecting"),
        ("export/manifest.json", "{", r"manifest\.json"),
        (
            "peers/plain.keras",
            "x",
            r"plain\.keras: is damaged; valid: restore the file, or delete .*run/metrics\.json and",
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
    with pytest.raises(InputError, match="export: is a file; valid: a directory, or a path"):
        artifacts.export(run_dir)


def test_a_keras_file_whose_weights_are_lost_is_told_with_a_remedy(run_dir):
    path = run_dir / "peers" / "plain.keras"
    with zipfile.ZipFile(path) as whole:
        content = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(path, "w") as part:
        for name, each in content.items():
            part.writestr(name, b"" if name.endswith(".h5") else each)
    with pytest.raises(
        InputError, match=r"cannot be read as a Keras model \(.*\); valid: restore the file, or "
    ) as told:
        artifacts.export(run_dir)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["plane"],), "^peer: unknown value 'plane'. Did you mean 'plain'"),
        (([], ["int9"]), "^variant: unknown value 'int9'. Did you mean 'int8'"),
        (([], [], 1), r"^version: received 1, but .*plain/1 exists; valid: another number"),
    ],
)
def test_a_wrong_request_changes_nothing(run_dir, arguments, message):
    before = tree(run_dir)
    with pytest.raises(InputError, match=message):
        artifacts.export(run_dir, *arguments)
    assert tree(run_dir) == before


def test_an_unfinished_run_is_refused(run_dir):
    (run_dir / "metrics.json").unlink()
    with pytest.raises(InputError, match="contains no finished run"):
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
        (
            (8, 8, 3),
            10,
            r"maps \(None, 8, 8, 3\) to \(None, 10\), but this run's .* map .*32, ",
        ),
        (
            (32, 32, 3),
            3,
            r"it maps .* to \(None, 3\), but this run's .* to \(None, 10\);",
        ),
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


def test_files_already_in_place_are_as_before_where_a_later_step_fails(run_dir, monkeypatch):
    (run_dir / "export" / "tflite" / "plain-float16.tflite").unlink()
    before = tree(run_dir)

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifacts.manifest, "write", fails)
    monkeypatch.setattr(metadata, "pack", lambda content, *_: content)  # other files
    with pytest.raises(OSError, match="No space left"):
        artifacts.export(run_dir, ["plain"], ["float32", "float16"])
    assert tree(run_dir) == before


@pytest.mark.parametrize(("images", "told"), [(361, 0.5101), (100, 0.5151)])
def test_a_network_may_answer_an_image_otherwise_on_another_machine(images, told):
    run = types.SimpleNamespace(
        directory=Path("RUN"),
        metrics={"peers": {"plain": {"top1": told}}},
        data=types.SimpleNamespace(test=range(images)),
    )
    own = types.SimpleNamespace(run=run, top1=lambda name: 0.5)
    with pytest.raises(InputError, match="has a top-1 of 50"):
        tested.Tested._check_own(own, "plain")
    run.metrics["peers"]["plain"]["top1"] = told - 0.0002
    tested.Tested._check_own(own, "plain")


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
    assert capsys.readouterr().err == "error: interrupted; nothing was changed\n"


@pytest.mark.slow
def test_the_command_prints_a_table_and_the_advice(run_dir):
    done = command("xkd_keras.export", f"--run_dir={run_dir}", "--peer=plain", "--variant=int8")
    assert (done.returncode, done.stderr) == (0, "")
    assert "gzip MB" in done.stdout
    assert "\nNo file is recommended: 179 validation images are too few" in done.stdout
    listed = json.loads((run_dir / "export" / "manifest.json").read_text())["artifacts"]
    times = [entry["latency_ms"] for entry in listed]
    assert len(times) == len(FILES)
    assert all(0 < time["min"] <= time["median"] for time in times)
    wrong = command("xkd_keras.export", f"--run_dir={run_dir}", "--peer=pain")
    assert wrong.returncode == 1
    assert "plain" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1
