"""What a user's mistake becomes: one clear line, and an exit code."""

import difflib
import itertools
from collections.abc import Iterable


class InputError(ValueError):
    """Something given to the program cannot be used; its message is one line that says what can.

    Commands print it without a traceback and exit with `exit_code`.

    Args:
        message: One line: what was received, and what is valid.
        argument: The argument that is wrong, as a Python caller names it. The text begins with it;
            the command line puts dashes before it.
    """

    exit_code = 1

    def __init__(self, message: str, *, argument: str = ""):
        super().__init__(f"{argument}: {message}" if argument else message)
        self.message, self.argument = message, argument

    def __reduce__(self):
        return _rebuilt, (type(self), self.message, self.argument)

    @classmethod
    def unknown(
        cls, argument: str, received: object, valid: Iterable[str], noun: str = "value"
    ) -> "InputError":
        """Return the error for a value that is not one of `valid`, with the nearest match.

        Args:
            argument: The argument that is wrong.
            received: The value received.
            valid: Every valid choice.
            noun: What is unknown.

        Returns:
            `ARGUMENT: unknown NOUN 'RECEIVED'. Did you mean 'NEAREST'? valid: A, B, C.`
        """
        valid = list(valid)
        text = f"unknown {noun} '{received}'{meant(received, valid)} valid: {', '.join(valid)}."
        return cls(text, argument=argument)


def _rebuilt(kind: type, message: str, argument: str) -> InputError:
    return kind(message, argument=argument)


class FlagError(InputError):
    """The command line itself is wrong: an unknown flag or a value that no run could take."""

    exit_code = 2


class PreemptedError(BaseException):
    """The system asked the process to end; what there was to save is saved.

    As KeyboardInterrupt, it is no Exception: Keras rewrites those that pass through a layer, and
    what guards against a user's module would take it for that module's mistake.

    Commands print its message and exit with `exit_code`, EX_TEMPFAIL of sysexits.h: start the same
    command again.
    """

    exit_code = 75


# What TensorFlow writes above the reason of an error in a graph.
_ABOVE = ("Graph execution error", "Detected at node", "<stack traces", 'File "')


def first_line(error: Exception) -> str:
    """Return the first line of what another program's error says; its kind where it is mute."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(_ABOVE) and "root error(s)" not in line]
    return (said or lines or [type(error).__name__])[0]


def one_line(error: object, limit: int = 200, end: str = "") -> str:
    """Return what an error says on one line of at most `limit` characters; `end` where it is cut.

    Unlike `first_line`, all of its lines: libraries put the reason anywhere.
    """
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - len(end)] + end


def meant(received: object, valid: Iterable[str], form: str = "{}") -> str:
    """Return what stands before "valid:": the nearest match, as `form` writes it, or ";"."""
    near = nearest(str(received), valid)
    return f". Did you mean '{form.format(near)}'?" if near else ";"


def nearest(received: str, valid: Iterable[str]) -> str:
    """Return the valid choice most like what was received; of equals the longest common start."""

    def likeness(choice):
        ratio = difflib.SequenceMatcher(None, received, choice).ratio()
        same = itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(received, choice, strict=False)
        )
        return (round(ratio, 6), len(list(same)))

    best = max(valid, key=likeness, default="")
    return best if best and likeness(best)[0] >= 0.6 else ""
