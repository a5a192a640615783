"""What a person's mistake becomes: one clear line, and an exit code."""

import difflib
import itertools
from collections.abc import Iterable


class InputError(ValueError):
    """Something given to the program cannot be used; its message is one line that says what can.

    Entry points print it without a traceback and exit with `exit_code`.
    """

    exit_code = 1


class FlagError(InputError):
    """The command line itself is wrong: an unknown flag or a value that no run could take."""

    exit_code = 2


class PreemptedError(Exception):
    """The system asked the process to end; what there was to save is saved.

    Entry points print its message and exit with `exit_code`, EX_TEMPFAIL of sysexits.h: start the
    same command again.
    """

    exit_code = 75


def nearest(received: str, valid: Iterable[str]) -> str:
    """Return the valid choice most like what was received; of equals the longest common start."""

    def likeness(choice):
        ratio = difflib.SequenceMatcher(None, received, choice).ratio()
        same = itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(received, choice, strict=False)
        )
        return (round(ratio, 6), len(list(same)))

    best = max(valid, key=likeness, default="")
    return best if best and likeness(best)[0] >= 0.5 else ""


def unknown(argument: str, received: object, valid: Iterable[str]) -> str:
    """Return the line for a value that is not one of `valid`, with the nearest match.

    Args:
        argument: Name of the flag or argument, as the person typed it.
        received: The value received.
        valid: Every valid choice.

    Returns:
        `ARGUMENT: unknown value 'RECEIVED'. Did you mean 'NEAREST'? Valid: A, B, C.`
    """
    valid = list(valid)
    near = nearest(str(received), valid)
    hint = f" Did you mean '{near}'?" if near else ""
    return f"{argument}: unknown value '{received}'.{hint} Valid: {', '.join(valid)}."
