"""How commands of this package start and end: flags in, exit code out, a mistake as one line."""

import difflib
import sys
from collections.abc import Callable

from absl import app, flags, logging


class MistakeError(Exception):
    """Something given cannot be used; the message is a line that says what can."""


def run(main: Callable[[], int | None]) -> None:
    """Run a command; a mistake becomes one line on stderr and exit code 1, for wrong flags 2."""

    def guarded(argv):
        sys.stdout.reconfigure(line_buffering=True)
        if len(argv) > 1:
            _exit(f"received '{argv[1]}'; valid: flags only, as --name=value.", 2)
        try:
            return main()
        except MistakeError as error:
            return _exit(str(error), 1)
        except KeyboardInterrupt:
            return 130

    logging.use_absl_handler()
    app.run(guarded, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(flags.FLAGS), 1)
        hint = f" Did you mean --{near[0]}?" if near else ""
        return _exit(f"--{error.flagname}: no such flag.{hint} See --help.", 2)
    except flags.Error as error:
        return _exit(" ".join(str(error).split()), 2)


def _exit(line: str, code: int):
    print(f"error: {line}", file=sys.stderr)
    sys.stdout.flush()
    sys.exit(code)
