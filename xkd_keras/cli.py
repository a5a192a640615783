"""How every command starts and ends: flags in, exit code out, a mistake as one line."""

import difflib
import sys
from collections.abc import Callable

from absl import app, flags

from xkd_keras.errors import FlagError, InputError


def run(main: Callable[[], None]) -> None:
    """Run a command; a person's mistake becomes one line on stderr and exit code 1 or 2."""

    def guarded(argv):
        try:
            if len(argv) > 1:
                raise FlagError(f"received '{argv[1]}'; valid: flags only, as --name=value.")
            main()
        except InputError as error:
            _exit(str(error), error.exit_code)
        except FloatingPointError as error:
            _exit(str(error), 1)
        except OSError as error:
            _exit(f"{error.filename or 'input/output'}: {error.strerror or error}", 1)

    app.run(guarded, flags_parser=_parse_flags)


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(flags.FLAGS), n=1)
        hint = f" Did you mean --{near[0]}?" if near else ""
        return _exit(f"--{error.flagname}: no such flag.{hint} See --help.", 2)
    except flags.Error as error:
        return _exit(" ".join(str(error).split()), 2)


def _exit(line: str, code: int):
    print(f"error: {line}", file=sys.stderr)
    sys.stdout.flush()
    sys.exit(code)
