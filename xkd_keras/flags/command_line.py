"""How every command starts and ends: flags in, exit code out, a mistake as one line."""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator

from absl import app, flags, logging

from xkd_keras import WANTS_LOGS
from xkd_keras.errors import FlagError, InputError, PreemptedError, nearest


def load_tensorflow(wants_logs: bool = WANTS_LOGS) -> None:
    """Import TensorFlow without its start-up notices; whoever sets TF_CPP_MIN_LOG_LEVEL sees them.

    It takes seconds, so commands call this only after their flags have been found right.
    """
    with quiet(wants_logs):
        import tensorflow as tf

        tf.config.list_physical_devices("GPU")  # looks for drivers, and tells
    if not wants_logs:
        tf.get_logger().setLevel("ERROR")


@contextlib.contextmanager
def quiet(wants_logs: bool = WANTS_LOGS) -> Iterator[None]:
    """Send what is written to stderr nowhere, C++ code's notices too, unless logs are wanted."""
    if wants_logs:
        yield
        return
    sys.stderr.flush()
    shown, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(shown, 2)
        os.close(shown)
        os.close(nowhere)


_interrupted = False


def _interrupt(*_) -> None:
    global _interrupted
    _interrupted = True
    raise KeyboardInterrupt


def check_interrupted() -> None:
    """Raise KeyboardInterrupt where Ctrl-C was pressed.

    Python raises it wherever it is, and loses it where that is a destructor or a callback of C:
    long work asks again between its steps.
    """
    if _interrupted:
        raise KeyboardInterrupt


_terminated = _saves = False


def _terminate(*_) -> None:
    global _terminated
    _terminated = True
    if not _saves:
        raise PreemptedError("stopped by SIGTERM")


def restartable() -> None:
    """Let SIGTERM, by which schedulers of clusters take machines back, end in exit code 75."""
    signal.signal(signal.SIGTERM, _terminate)


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """Do what asks `terminated` now and then, to save before it ends."""
    global _saves
    _saves = True
    try:
        yield
    finally:
        _saves = False


def terminated() -> bool:
    """Whether SIGTERM has come."""
    return _terminated


def run(main: Callable[[], None]) -> None:
    """Run a command; a person's mistake becomes one line on stderr and exit code 1 or 2."""

    def guarded(argv):
        logging.set_verbosity(logging.ERROR)  # libraries' notices; ours are printed
        sys.stdout.reconfigure(line_buffering=True)  # also into a pipe or a file
        signal.signal(signal.SIGINT, _interrupt)
        try:
            if len(argv) > 1:
                raise FlagError(f"received '{argv[1]}'; valid: flags only, as --name=value.")
            main()
        except InputError as error:
            _exit(str(error), error.exit_code)
        except PreemptedError as error:
            print(f"{error}; the same command goes on from there", file=sys.stderr)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            _exit("interrupted; what was there before is as it was", 130)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _exit(f"{where}{error.strerror or error}", 1)

    try:
        app.run(guarded, flags_parser=_parse_flags)
    except BrokenPipeError:  # `--help | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except SystemExit:  # --help was asked for, and given: absl calls that a failure
        sys.exit(0)
    except flags.UnrecognizedFlagError as error:
        near = nearest(error.flagname, list(flags.FLAGS))
        hint = f" Did you mean --{near}?" if near else ""
        return _exit(f"--{error.flagname}: no such flag.{hint} See --help.", 2)
    except flags.Error as error:
        return _exit(_readable(" ".join(str(error).split())), 2)


def _readable(line: str) -> str:
    """Return absl's message in our words where they are plainer."""
    number = re.match(r"flag (--\w+)=(.*): (invalid literal for int|could not convert)", line)
    if number:
        noun = "a whole number" if "int" in number[3] else "a number"
        return f"{number[1]}: received '{number[2]}'; valid: {noun}."
    if missing := re.search(r"Unable to open flagfile: .*No such file or directory: '(.*)'", line):
        return f"--flagfile: '{missing[1]}' does not exist; paths are read from where you are."
    return line.removeprefix("ERROR:: ")


def clock(seconds: float) -> str:
    """Return 1:02:03, or 2:03 below an hour."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _exit(line: str, code: int):
    print(f"error: {line}", file=sys.stderr)
    sys.stdout.flush()
    sys.exit(code)
