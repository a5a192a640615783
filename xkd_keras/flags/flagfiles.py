"""Flag files, by their path or by the name of a configuration that comes with the package.

absl reads flag files too, but only by paths from the current directory: what is installed would not
find its configurations, nor these each other.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from xkd_keras.errors import FlagError, meant
from xkd_keras.flags import parsing


def home(package: Path) -> Path:
    """Return the directory of the configurations that come with a package.

    It is a link to configs/ in the repository, and a copy of it in what is installed. Git for
    Windows makes a text file of the link.
    """
    own = package / "configs"
    return (own if own.is_dir() else package.parent / "configs").resolve()


HOME = home(Path(__file__).parent.parent)
_DIRECTIVE = re.compile(r"--?flagfile(?:=(.*))?")


def packaged() -> dict[str, Path]:
    """Return the configurations that come with the package by name, as `paper/cifar10_...`."""
    paths = sorted(HOME.rglob("*.flags"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(HOME).with_suffix("").as_posix(): path for path in paths}


def about(path: Path) -> str:
    """Return the first line of a configuration, which says what it is."""
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def find(text: str) -> Path:
    """Return the file that `--flagfile=TEXT` means.

    Args:
        text: A path as it is, or with its ~ expanded; or, if nothing is there, the name of a
            packaged configuration. Its path in the repository, as configs/base.flags, is a name of
            it too.

    Raises:
        FlagError: It is neither.
    """
    for path in (Path(text), Path(parsing.path(text, "flagfile"))):
        # Path.exists raises where a directory may not be entered.
        if os.path.exists(path) and not os.path.isdir(path):  # maybe a pipe
            return path
    known = packaged()
    name = Path(text).as_posix().removeprefix("configs/").removesuffix(".flags")
    if name in known:
        return known[name]
    hint = meant(name, known)
    raise FlagError(
        f"--flagfile: '{text}' cannot be found, and no configuration has this name{hint} valid:"
        " a path from the current directory, or a name that `python -m xkd_keras` lists."
    )


def expanded(arguments: Sequence[str], within: tuple[Path, ...] = ()) -> list[str]:
    """Return arguments with the lines of flag files in the place of `--flagfile`.

    Args:
        arguments: As on the command line; after `--` nothing is looked at.
        within: The files that these are lines of, outermost first.

    Raises:
        FlagError: A flag file cannot be found or read, or reads itself.
    """
    words, rest = [], iter(arguments)
    for word in rest:
        directive = _DIRECTIVE.fullmatch(word)
        if word == "--":
            return [*words, word, *rest]
        if not directive:
            words.append(word)
            continue
        text = next(rest, "") if directive[1] is None else directive[1].strip()
        if not text:
            raise FlagError("--flagfile: missing. Give a file of flags, one on each line.")
        path = find(text)
        if path.resolve() in within:
            raise FlagError(
                f"--flagfile: '{text}' includes itself; valid: flag files without cycles."
            )
        words += expanded(list(_lines(path)), (*within, path.resolve()))
    return words


def _lines(path: Path) -> Iterator[str]:
    """Yield the flags of a file; raises FlagError where it cannot be read."""
    try:
        # Editors of Windows begin with a mark.
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise FlagError(f"--flagfile: '{path}': {error.strerror}.") from None
    except UnicodeDecodeError:
        raise FlagError(
            f"--flagfile: '{path}' is not text; valid: flags, one on each line."
        ) from None
    for line in map(str.strip, lines):
        if line and not line.startswith(("#", "//")):
            yield line
