"""How commands of this package start and end: flags, exit codes, and errors of one line."""

import contextlib
import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping

from absl import app, flags, logging


class MistakeError(Exception):
    """An argument cannot be used; the message is one line and says what is valid."""


def run(main: Callable[..., int | None], operands: str = "") -> None:
    """Run a command. An error is one line on stderr; the exit code is 1, or 2 for wrong flags.

    Args:
        main: Called without arguments, or with the operands if the command takes any.
        operands: What the operands are, for messages; empty: the command takes none.
    """

    def guarded(argv):
        # Whatever a file is called, its name is printed.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
        if len(argv) > 1 and not operands:
            _exit(f"received '{argv[1]}'; valid: flags only, such as --name=value.", 2)
        if len(argv) == 1 and operands:
            _exit(f"missing: {operands}. See --help.", 2)
        try:
            return main(argv[1:]) if operands else main()
        except MistakeError as error:
            return _exit(str(error), 1)
        except KeyboardInterrupt:
            return 130

    logging.use_absl_handler()
    try:
        app.run(guarded, flags_parser=_parse)
    except BrokenPipeError:  # `... | head`: the reader is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def define(table: Mapping[str, tuple], into: flags.FlagValues = flags.FLAGS) -> None:
    """Define flags. Call it when a command starts: an import must not define them for others.

    Args:
        table: By name: the default, the help, and for a number its least value (0).
        into: Where to define them.
    """
    for name, (default, text, *least) in table.items():
        if isinstance(default, bool):
            flags.DEFINE_bool(name, default, text, flag_values=into)
        elif isinstance(default, str):
            flags.DEFINE_string(name, default, text, flag_values=into)
        else:
            kind = flags.DEFINE_float if isinstance(default, float) else flags.DEFINE_integer
            kind(name, default, text, *(least or [0]), flag_values=into)
        into.register_key_flag_for_module(sys.argv[0], into[name])  # for --help


def meant(received: str, known: Iterable[str], form: str = "'{}'") -> str:
    """Return " Did you mean 'NEAREST'?", as `form` writes a name; empty if none is near."""
    near = difflib.get_close_matches(received, list(known), 1)
    return f" Did you mean {form.format(near[0])}?" if near else ""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Import TensorFlow without C++'s notices. TF_CPP_MIN_LOG_LEVEL=0 shows them."""
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") in ("0", "1"):
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


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS([_at_home(word) for word in argv])
    except SystemExit:  # absl ends --help as a failure
        sys.exit(0)
    except flags.UnrecognizedFlagError as error:
        hint = meant(error.flagname, flags.FLAGS, "--{}")
        return _exit(f"--{error.flagname}: no such flag.{hint} See --help.", 2)
    except flags.Error as error:
        return _exit(_readable(" ".join(str(error).split())), 2)


def _at_home(word: str) -> str:
    """Return a flag with the ~ of its value expanded: shells leave it as it is after `--name=`."""
    name, equals, value = word.partition("=")
    return name + equals + (os.path.expanduser(value) if name.startswith("-") else value)


def _readable(line: str) -> str:
    """Return absl's message in our words where they are plainer."""
    number = re.match(r"flag (--\w+)=(.*): (invalid literal for int|could not convert)", line)
    if not number:
        return line
    noun = "a whole number" if "int" in number[3] else "a number"
    return f"{number[1]}: received '{number[2]}'; valid: {noun}."


def _exit(line: str, code: int):
    print(f"error: {line}", file=sys.stderr)
    sys.stdout.flush()
    sys.exit(code)
