"""Files of the same content, where they do harm: in two parts, or under two labels."""

import dataclasses
from collections.abc import Sequence

from xkd_keras.console import few
from xkd_keras.errors import InputError

CHOICES = ("warn", "drop", "stop")
TOLD = 5  # files of a group that a line names: a placeholder may be there 3,000 times
# Of files that are the same, the one that is kept: what the result is measured on stays.
_FIRST = ("test", "validation", "train", "")


@dataclasses.dataclass(frozen=True)
class Duplicate:
    """Files of the same content.

    Attributes:
        what: What is wrong with that.
        places: Of the files, in the order that they were given.
    """

    what: str
    places: tuple[int, ...]


def harmful(
    digests: Sequence[bytes], labels: Sequence[str], parts: Sequence[str]
) -> list[Duplicate]:
    """Return the groups of same files that are in two parts, or under two labels.

    Args:
        digests: Of the content of n files.
        labels: Of each file, its class.
        parts: Of each file, "train", "validation" or "test"; "" where that is not known yet.
    """
    found = []
    for places in _groups(digests):
        names = sorted({labels[i] for i in places})
        where = [part for part in reversed(_FIRST) if part in {parts[i] for i in places}]
        if len(names) > 1:
            found.append(Duplicate(f"labelled {few(names, TOLD, ' and ')}", places))
        elif len(where) > 1:
            found.append(Duplicate(f"in {' and '.join(where)}", places))
    return found


def kept(digests: Sequence[bytes], labels: Sequence[str], parts: Sequence[str]) -> list[int]:
    """Return the ascending places of the files to keep: one of a group, none of two labels."""
    dropped = set()
    for places in _groups(digests):
        best = min(places, key=lambda i: (_FIRST.index(parts[i]), i))
        same = len({labels[i] for i in places}) == 1
        dropped |= set(places) - ({best} if same else set())
    return [i for i in range(len(digests)) if i not in dropped]


def refuse(name: str, found: Sequence[Duplicate], paths: Sequence[str]) -> None:
    """Raise InputError if there are harmful duplicates; names the first."""
    if found:
        files = few([paths[i] for i in found[0].places], TOLD, " = ")
        more = f", and {len(found) - 1} more such groups" if len(found) > 1 else ""
        raise InputError(
            f"stop: {name}: the same file is {found[0].what}: {files}{more}; valid: drop or warn,"
            " or a folder without such copies.",
            argument="duplicates",
        )


def _groups(digests: Sequence[bytes]) -> list[tuple[int, ...]]:
    places = {}
    for i, digest in enumerate(digests):
        places.setdefault(digest, []).append(i)
    return [tuple(same) for same in places.values() if len(same) > 1]
