"""How every command starts and ends: flags in, exit code out, an error as one line."""

import os
import re
import sys
from collections.abc import Callable

from absl import app, flags, logging

from xkd_keras import signals
from xkd_keras.errors import FlagError, InputError, PreemptedError, nearest
from xkd_keras.flags import flagfiles, parsing


def run(main: Callable[[], None]) -> None:
    """Run a command; an InputError becomes one line on stderr and exit code 1 or 2."""

    def guarded(argv):
        logging.set_verbosity(logging.ERROR)  # libraries' notices; ours are printed
        # Also into a pipe or a file; and whatever a file is called, its name is printed.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
        signals.handle_interrupt()
        try:
            if len(argv) > 1:
                raise FlagError(f"received '{argv[1]}'; valid: flags only, such as --name=value.")
            main()
        except InputError as error:
            _exit(parsing.as_typed(error), error.exit_code)
        except PreemptedError as error:
            print(f"{error}; the same command resumes from there", file=sys.stderr)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            _exit("interrupted; nothing was changed", 130)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _exit(f"{where}{error.strerror or error}", 1)

    try:
        app.run(guarded, flags_parser=_parse_flags)
    except BrokenPipeError:  # `--help | head`: the reader is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(what: str) -> None:
    """Say what begins, before TensorFlow is loaded: nobody should look at nothing for seconds."""
    wait = "" if "tensorflow" in sys.modules else "; loading TensorFlow ..."
    print(f"{what}{wait}", flush=True)


# What absl says of a value that a flag cannot take, and what we say is valid.
_VALID = {
    "invalid literal for int": "a whole number",
    "could not convert": "a number",
    "Non-boolean argument": "true or false",
    "is not a non-negative": "0 or more",
    "is not a positive": "1 or more",
    r"in the range \[(.*), (.*)\]": r"\1 to \2",
    r">= (\S+)$": r"\1 or more",
}


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS([argv[0], *flagfiles.expanded(argv[1:])])
    except FlagError as error:
        return _exit(parsing.as_typed(error), error.exit_code)
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
    wrong = re.match(r"flag (--\w+)=(.*?): (.*)", line)
    if wrong:
        for pattern, valid in _VALID.items():
            if said := re.search(pattern, wrong[3]):
                return f"{wrong[1]}: received '{wrong[2]}'; valid: {said.expand(valid)}."
    return line.removeprefix("ERROR:: ")


def _exit(line: str, code: int):
    print(f"error: {line}", file=sys.stderr)
    sys.stdout.flush()
    sys.exit(code)
