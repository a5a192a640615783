"""--peer=NAME[,option=value...], and other options that are flags by themselves."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from xkd_keras import peers
from xkd_keras.errors import FlagError
from xkd_keras.flags import parsing
from xkd_keras.flags.fields import LEARNING, Fields, field, learning
from xkd_keras.peers.catalogue import FILE


@dataclasses.dataclass(frozen=True)
class Peer:
    """One parsed --peer.

    Attributes:
        name: Of its file and in reports.
        builder: What it is built from, as for `peers.build`.
        weight: In the ensemble; only ratios matter.
        distill: A factor of lambda.
        learning: The flags of `fields.LEARNING`, by name.
        start: Weights that it starts from: `imagenet`, or a file; empty for none, or its own.
        pixels: What pixels those expect, where nothing else says it.
        freeze: Epochs in which only its last layer learns.
        start_rate: A factor of the learning rate for all layers but the last.
        exits: The layers that have heads, joined by colons; empty: the ends of its stages.
    """

    name: str
    builder: str
    weight: float
    distill: float
    learning: dict[str, Any]
    start: str = ""
    pixels: str = ""
    freeze: int = 0
    start_rate: float = 1.0
    exits: str = ""

    def flag_of(self, argument: str) -> str:
        """Return an argument of `peers.build` as a person typed it: an option of this --peer."""
        if argument == "image_shape":
            return "image_size"
        own = argument in ("start", "pixels")
        return f"peer={self.builder},{argument}" if own else argument


def parse_peer(text: str, config: Fields) -> Peer:
    """Parse NAME[,option=value...]; options left out are the flags of the same name.

    Raises:
        FlagError: An option that is unknown, has no value or a bad one, or an unusable name.
    """
    builder, *pairs = [part.strip() for part in text.split(",")]
    if not builder:
        raise FlagError(f"received '{text}'; valid: NAME[,option=value...].", argument="peer")
    values: dict[str, Any] = {name: getattr(config, name) for name in LEARNING}
    extra: dict[str, Any] = {"name": _name(builder), **_OWN}
    for pair in pairs:
        option, equals, value = pair.partition("=")
        where = f"--peer={text}: {option or pair!r}"
        if option not in (*extra, *LEARNING):
            raise FlagError.unknown(f"peer={text}", option, (*extra, *LEARNING), "option")
        if not equals or not value:
            raise FlagError(f"{where}: received no value; valid: {option}=VALUE.")
        if option in extra:
            kind = type(extra[option])
            extra[option] = value if kind is str else parsing.number(where, value, kind)
        else:
            values[option] = parsing.parse(where, value, field(option))
    if builder.startswith(FILE):
        builder = FILE + parsing.path(builder.removeprefix(FILE), "peer")
    extra["start"] = parsing.path(extra["start"], "peer")
    _check(text, builder, extra)
    return Peer(builder=builder, learning=learning(builder, values, extra["start"]), **extra)


def _check(text: str, builder: str, extra: dict[str, Any]) -> None:
    """Raise FlagError for what an option that is no flag cannot be."""
    # The name becomes a file's and a variable's: only what all systems and Keras take.
    usable = peers.LABEL.fullmatch(extra["name"])
    if not usable or extra["name"].lower() == "ensemble":
        raise FlagError(
            f"--peer={text}: cannot be named '{extra['name']}'; valid: letters, digits, '-', '_'"
            " and '.', not 'ensemble'; set it with name=..."
        )
    for name, value in extra.items():
        if not isinstance(value, str) and not 0 <= value < math.inf:
            raise FlagError(f"--peer={text}: {name}: received {value}; valid: 0 or more.")
    trained = peers.starts(builder, extra["start"])
    for name in ("freeze", "start_rate"):
        if extra[name] != _OWN[name] and not trained:
            raise FlagError(f"--peer={text}: {name}: needs start=... or file:PATH.")


# Options that are no flags, where they are not given.
_OWN = {
    "weight": 1.0,
    "distill": 1.0,
    "start": "",
    "pixels": "",
    "freeze": 0,
    "start_rate": 1.0,
    "exits": "",
}


def _name(builder: str) -> str:
    """Return how a network is called that was given no name: by function, class or file."""
    return peers.label_of(builder) if builder.startswith(FILE) else builder.rpartition(":")[2]


def learning_rate_epochs(text: str, epochs: int) -> list[float]:
    """Return the epochs at which the rate falls: those of `text` (81:122), else 1/2 and 3/4."""
    return [float(part) for part in text.split(":")] if text else [epochs / 2, epochs * 3 / 4]


def options(flag: str, text: str, names: Sequence[str]) -> dict[str, Any]:
    """Parse `option=value,...`, where options are flags of these names, into their values.

    Raises:
        FlagError: An option that is unknown, is given twice, has no value or a bad one.
    """
    values: dict[str, Any] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        option, equals, value = pair.partition("=")
        if option not in names:
            raise FlagError.unknown(flag.removeprefix("--"), option, names, "option")
        if option in values or not equals or not value:
            raise FlagError(f"{flag}: received '{pair}'; valid: {option}=VALUE, once.")
        values[option] = parsing.parse(f"{flag}: {option}", value, field(option))
    return values
