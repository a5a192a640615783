"""Commands as a person types them, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# As a person's shell has it: conftest.py asks for TensorFlow's logs, if only for fewer of them.
ENV = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}


def run(module, *flags):
    """Run `python -m xkd_keras.MODULE` to its end."""
    command = [sys.executable, "-m", f"xkd_keras.{module}", *flags]
    return subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True)


def fails(result, code, *parts):
    """Assert that a command ended with the code and one line on stderr that has all the parts."""
    lines = result.stderr.splitlines()
    assert result.returncode == code, result.stderr
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]
