"""Commands as a person types them: in a process of their own, or quickly in this one."""

import contextlib
import io
import os
import runpy
import signal
import subprocess
import sys
import warnings
from pathlib import Path

from absl import app, flags

ROOT = Path(__file__).parent.parent
# As a person's shell has it: conftest.py asks for TensorFlow's logs, if only for fewer of them.
ENV = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}


def run(module, *words):
    """Run `python -m xkd_keras.MODULE` to its end, in a process of its own."""
    command = [sys.executable, "-m", f"xkd_keras.{module}", *words]
    return subprocess.run(command, cwd=ROOT, env=ENV, capture_output=True, text=True)


def here(module, *words):
    """Run the same command in this process, which has loaded TensorFlow, and leave no trace of it.

    Returns:
        What `run` returns: exit code, stdout and stderr.
    """
    out, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    code, argv = 0, [f"{module}.py", *map(str, words)]
    with _restored(argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            runpy.run_module(f"xkd_keras.{module}", run_name="__main__")
        except SystemExit as ended:
            code = ended.code or 0
    printed = [stream.buffer.getvalue().decode() for stream in (out, errors)]
    return subprocess.CompletedProcess(argv, code, *printed)


app.define_help_flags()  # once in a process: they are no command's


@contextlib.contextmanager
def _restored(argv):
    """Put back what a command changes: flags, arguments, directory, what signals do."""
    known, before, directory = set(flags.FLAGS), sys.argv, Path.cwd()
    sys.argv = argv
    os.chdir(ROOT)
    try:
        with signals_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # runpy's: it was imported before
            yield
    finally:
        sys.argv = before
        os.chdir(directory)
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()


@contextlib.contextmanager
def signals_kept():
    """Put back what Ctrl-C and SIGTERM do."""
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)


def fails(result, code, *parts):
    """Assert that a command ended with the code and one line on stderr that has all the parts."""
    lines = result.stderr.splitlines()
    assert result.returncode == code, result.stderr
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]
