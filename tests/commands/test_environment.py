"""What people's environments say of Keras and of the home directory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
PEER = "tests.small_peers:plain"


def environment(**changes):
    """Return this process's environment without what earlier imports put there."""
    left_out = ("KERAS_BACKEND", "KERAS_HOME", "TF_CPP_MIN_LOG_LEVEL", "_XKD_KERAS_COMMAND")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {**kept, "PYTHONPATH": str(ROOT), **changes}


def python(*arguments, **changes):
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment(**changes)
    )


@pytest.fixture(scope="module")
def odd_home(tmp_path_factory):
    """A directory whose keras.json names what the package is not written for."""
    home = tmp_path_factory.mktemp("keras")
    odd = {"backend": "torch", "image_data_format": "channels_first", "floatx": "float16"}
    (home / "keras.json").write_text(json.dumps(odd))
    return str(home)


@pytest.mark.slow
def test_commands_are_tensorflow_channels_last_float32_whatever_stands_there(
    tmp_path, data_dir, odd_home
):
    flags = [f"--run_dir={tmp_path / 'run'}", f"--data_dir={data_dir}", "--dataset=digits"]
    flags += [f"--peer={PEER}", "--epochs=1", "--augment=none", "--batch_size=64"]
    done = python(*("-m", "xkd_keras.train", *flags), KERAS_BACKEND="torch", KERAS_HOME=odd_home)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    height, width, channels = metrics["data"]["image_shape"]  # channels last
    # By hand: a convolution of 5 x 5 with stride 4 to four channels, flattened, one dense layer.
    pixels = ((height - 5) // 4 + 1) * ((width - 5) // 4 + 1)
    counted = 4 * (5 * 5 * channels + 1) + (pixels * 4 + 1) * 10
    assert metrics["peers"]["plain"]["parameters"] == counted


@pytest.mark.slow
def test_a_command_that_a_program_starts_says_nothing_on_stderr_even_of_photographs(tmp_path):
    for place, count in (("train", 12), ("test", 4)):
        for i in range(2 * count):
            path = tmp_path / "images" / place / ("ant", "bee")[i % 2] / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            exif = Image.Exif()
            exif[0x0112] = 6  # turned by a quarter, as telephones write it
            Image.new("RGB", (40, 30), (9 * i, 90, 90)).save(path, exif=exif)
    flags = [f"--run_dir={tmp_path / 'run'}", f"--dataset=folder:{tmp_path / 'images'}"]
    flags += [f"--peer={PEER}", "--image_size=32", "--epochs=1", "--batch_size=8"]
    program = f"""
import subprocess, sys, xkd_keras
subprocess.run([sys.executable, "-m", "xkd_keras.train", *{flags}], check=True)
"""
    done = python("-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"KERAS_BACKEND": "torch"}, "backend is 'torch'; valid: 'tensorflow'"),
        ({"KERAS_BACKEND": "jax"}, "backend is 'jax'; valid: 'tensorflow'"),
    ],
)
def test_a_library_says_on_import_which_backend_it_needs(changes, told):
    done = python("-c", "import xkd_keras", **changes)
    assert done.returncode == 1
    assert told in done.stderr.splitlines()[-1]


def test_a_library_says_on_import_what_of_keras_json_it_cannot_use(odd_home):
    done = python("-c", "import xkd_keras", KERAS_HOME=odd_home)
    assert "image_data_format is 'channels_first'" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_keras_that_was_configured_before_is_looked_at_too():
    program = "import keras; keras.config.set_floatx('float64'); import xkd_keras"
    done = python("-c", program, KERAS_BACKEND="tensorflow")
    assert "floatx is 'float64'; valid: 'float32'" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_home_that_cannot_be_written_is_named_with_the_flag_that_helps(tmp_path):
    (tmp_path / "home").write_text("a file, where a directory should be")
    flags = [f"--run_dir={tmp_path / 'run'}", "--dataset=digits", f"--peer={PEER}"]
    done = python("-m", "xkd_keras.train", *flags, HOME=str(tmp_path / "home"))
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: --data_dir: cannot write to ")
    assert str(tmp_path / "home" / "tensorflow_datasets") in line
