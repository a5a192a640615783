"""Text to the values of flags and back, and what is wrong with a value in one line."""

import dataclasses
import math
import os
import re
from typing import Any

from absl import flags

from xkd_keras.console import is_utf8
from xkd_keras.errors import FlagError, InputError


def parse(where: str, text: str, field: dataclasses.Field) -> Any:
    """Return an option's text as the value of its flag; raises FlagError, beginning with `where`.

    Args:
        where: What the person typed, as `--peer=alexnet: momentum`.
        text: After the equals sign.
        field: Of `Config`; its metadata says what is valid.
    """
    kind = type(field.metadata["usual"])
    if kind is bool:
        if text.lower() not in ("true", "false", "1", "0"):
            raise FlagError(f"{where}: received '{text}'; valid: true or false.")
        return text.lower() in ("true", "1")
    value = text if kind is str else number(where, text, kind)
    check(where, value, field.metadata)
    if field.name == "learning_rate_epochs":
        check_epochs(where, value)
    return value


def number(where: str, text: str, kind: type) -> Any:
    """Return text as an int or float; raises FlagError."""
    try:
        return kind(text)
    except ValueError:
        noun = "a whole number" if kind is int else "a number"
        raise FlagError(f"{where}: received '{text}'; valid: {noun}.") from None


def check(where: str, value: Any, facts) -> None:
    """Raise FlagError where a value is not finite, or not what `low`, `high`, `choices` allow.

    Nor can it be text that no flag file could hold, such as a path that is not UTF-8.
    """
    if value is None:
        return
    if not is_utf8(said := shown(value)):
        raise FlagError(f"{where}: received {said!a}; valid: text in UTF-8.")
    low, high, choices = facts["low"], facts["high"], facts["choices"]
    if choices and value not in choices:
        raise FlagError.unknown(where, value, choices)
    if isinstance(value, float) and not math.isfinite(value):
        raise FlagError(f"{where}: received {value}; valid: a finite number.")
    below, above = low is not None and not value >= low, high is not None and not value <= high
    if below or above:
        valid = f"{low} or more" if high is None else f"{low} to {high}"
        raise FlagError(f"{where}: received {value}; valid: {valid}.")


def check_epochs(where: str, text: str | None) -> None:
    """Raise FlagError where text is not epochs joined by colons."""
    if text and not re.fullmatch(r"\d+(\.\d+)?(:\d+(\.\d+)?)*", text):
        raise FlagError(
            f"{where}: received '{text}'; valid: epochs joined by colons, such as 81:122."
        )
    epochs = [float(part) for part in text.split(":")] if text else []
    if epochs != sorted(set(epochs)) or 0.0 in epochs:
        raise FlagError(
            f"{where}: received '{text}'; valid: epochs above 0, each later than the one before."
        )


def path(text: str, argument: str = "") -> str:
    """Return a path with its ~ expanded: shells leave it as it is after `--name=`, files always.

    Raises:
        FlagError: It is an address, as gs://bucket/run; names the `argument`.
    """
    if re.match(r"[a-z][a-z0-9+.-]+://", text):
        raise FlagError(
            f"received '{text}', which is not in a file system; valid: a path, such as the one"
            " where that storage is mounted.",
            argument=argument,
        )
    return os.path.expanduser(text)  # ~nobody/x stays what it is


def shown(value: Any) -> str:
    """Return a flag's value as a person reads it."""
    if value is None:
        return "not given"
    return " ".join(value) if isinstance(value, tuple) else text(value) or "empty"


def text(value: Any) -> str:
    """Return a flag's value as a flag file has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_typed(error: InputError | str) -> str:
    """Return the error's line; an argument that is a flag is named as it was typed."""
    argument = getattr(error, "argument", "").partition("=")[0]
    return f"--{error}" if argument in flags.FLAGS else str(error)
