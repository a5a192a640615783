"""The commands as processes: how they start, what they say, and what they do not import."""

import importlib
import shutil
import subprocess
import time

import pytest

from tests.serving import served_models
from tests.serving.served_models import command


@pytest.fixture(scope="module")
def refused():
    """The server's command, done: it refused a file, and listed all that Python imported."""
    process = command("--model_config_file=/no", python=["-X", "importtime"], logs="1")
    output, errors = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def test_what_cannot_be_used_is_told_in_a_line(refused):
    lines = [line for line in refused.stderr.splitlines() if not line.startswith("import time:")]
    assert lines[-1].startswith("error: --model_config_file: /no: cannot be read: No such")
    assert "Traceback" not in refused.stderr
    assert refused.returncode == 1


def test_nothing_of_this_project_but_serving_is_imported_and_no_keras(refused):
    lines = [line for line in refused.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert {"tensorflow", "serving.embedded.lifecycle"} <= imported
    names = [name for name in imported if name.split(".")[0] in ("xkd_keras", "tf_keras")]
    assert names == []


@pytest.mark.slow
def test_it_waits_for_a_model_that_is_not_there_yet(half, tmp_path):
    base = tmp_path / "late"
    process = command(
        f"--port={served_models.free_port()}",
        f"--model_base_path={base}",
        "--file_system_poll_wait_seconds=0.1",
    )
    time.sleep(1)
    assert process.poll() is None
    base.mkdir()
    shutil.copytree(half / "1", base / ".partial")
    (base / ".partial").rename(base / "1")
    assert process.stdout.readline() == "serving default\n"
    process.terminate()
    process.communicate(timeout=300)
    assert process.returncode == 0


@pytest.mark.parametrize("module", ["server", "client", "load", "configure"])
def test_help_lists_the_flags(module):
    process = command("--help", module=f"serving.{module}")
    shown, errors = process.communicate(timeout=300)
    defined = importlib.import_module(f"serving.{module}").FLAGS
    for name, (default, *_) in defined.items():
        assert f"--[no]{name}: " in shown if isinstance(default, bool) else f"--{name}: " in shown
    assert (process.returncode, errors) == (0, "")


@pytest.mark.slow
def test_a_server_that_waits_for_a_model_says_why_and_does_not_say_that_it_serves(half, tmp_path):
    served_models.publish_copy(half / "1", tmp_path / "half", 1)
    process = command("--port=0", f"--model_base_path={tmp_path}", "--model_name=half")
    for line in process.stderr:
        if "waiting" in line:
            break
    assert line.endswith(f"; did you mean {tmp_path / 'half'}?\n")
    process.terminate()
    shown, _ = process.communicate(timeout=300)
    assert shown == "finishing the running requests ...\n"
