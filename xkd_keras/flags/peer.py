"""--peer=NAME[,option=value...], and other options that are flags by themselves."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from xkd_keras import peers
from xkd_keras.errors import FlagError
from xkd_keras.flags import parsing
from xkd_keras.flags.fields import LEARNING, Fields, field


@dataclasses.dataclass(frozen=True)
class Peer:
    """One parsed --peer.

    Attributes:
        name: Of its file and in reports.
        builder: A name of `peers.names()`, or module:function.
        weight: In the ensemble; only ratios matter.
        distill: A factor of lambda.
        learning: The flags of `fields.LEARNING`, by name.
    """

    name: str
    builder: str
    weight: float
    distill: float
    learning: dict[str, Any]


def parse_peer(text: str, config: Fields) -> Peer:
    """Parse NAME[,option=value...]; options left out are the flags of the same name.

    Raises:
        FlagError: An option that is unknown, has no value or a bad one, or an unusable name.
    """
    builder, *pairs = [part.strip() for part in text.split(",")]
    if not builder:
        raise FlagError(f"received '{text}'; valid: NAME[,option=value...].", argument="peer")
    values: dict[str, Any] = {name: getattr(config, name) for name in LEARNING}
    extra = {"name": builder.rpartition(":")[2], "weight": 1.0, "distill": 1.0}
    for pair in pairs:
        option, equals, value = pair.partition("=")
        where = f"--peer={text}: {option or pair!r}"
        if option not in (*extra, *LEARNING):
            raise FlagError.unknown(f"peer={text}", option, (*extra, *LEARNING), "option")
        if not equals or not value:
            raise FlagError(f"{where}: has no value; valid: {option}=VALUE.")
        if option in extra:
            extra[option] = value if option == "name" else parsing.number(where, value, float)
        else:
            values[option] = parsing.parse(where, value, field(option))
    # The name becomes a file's and a variable's: only what all systems and Keras take.
    usable = peers.LABEL.fullmatch(extra["name"])
    if not usable or extra["name"] == "ensemble":
        raise FlagError(
            f"--peer={text}: cannot be named '{extra['name']}'; valid: letters, digits, '-', '_'"
            " and '.', not 'ensemble'; set it with name=..."
        )
    for name in ("weight", "distill"):
        if not extra[name] >= 0:
            raise FlagError(f"--peer={text}: {name}: received {extra[name]}; valid: 0 or more.")
    return Peer(builder=builder, learning=values, **extra)


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
