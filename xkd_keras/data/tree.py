"""The tree of a person's folders: what in it means something. Needs no TensorFlow."""

import unicodedata
from collections.abc import Collection
from pathlib import Path

from xkd_keras.console import few, printable
from xkd_keras.errors import InputError

# Pictures of formats that TensorFlow cannot read are found too, rather than silently not used.
SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".ico"),
}
PARTS = {  # words for the parts of a data set, in any case
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
# Of other programs, disks and their boxes; so is what begins with a dot.
_LITTER = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "#recycle", "#snapshot"}
_LITTER |= {"$recycle.bin", "system volume information", "lost+found"}
WAITING = ".icloud"  # ends the name of what stands for a file that a Mac has not downloaded


def name_of(path: Path) -> str:
    """Return a name as classes have it: Macs and others write one in two ways, which look alike."""
    return unicodedata.normalize("NFC", path.name)


def _litter(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _LITTER


def folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that mean something, sorted."""
    if not folder.is_dir():
        return []
    children = sorted(child for child in folder.iterdir() if not _litter(child))
    for child in children:
        if _leads_nowhere(child) and not called_picture(child):  # it may have been a class
            raise refusal(
                f"folder:{folder}: '{child.name}' is a link to '{child.readlink()}', which does"
                " not exist; valid: links to existing folders, or a folder without this link."
            )
    return [child for child in children if child.is_dir()]


def _leads_nowhere(path: Path) -> bool:
    """Whether a path is a link to what is not there: a disk that is not mounted, a cache."""
    return path.is_symlink() and not path.exists()


def part_of(folder: Path) -> str:
    """Return the part of a data set that a folder is called after; empty: of none."""
    return next((part for part, words in PARTS.items() if folder.name.lower() in words), "")


def called_picture(path: Path) -> bool:
    """Whether a file has the extension of an image."""
    return path.suffix.lower() in SUFFIXES


def is_hidden_picture(path: Path) -> bool:
    """Whether a person may miss a file that begins with a dot: an image, or what stands for one."""
    called = Path(path.name.removesuffix(WAITING))
    own = path.name.startswith(".") and not path.name.startswith("._")  # (which a Mac adds)
    return own and called_picture(called) and path.is_file()


def is_picture(path: Path) -> bool:
    """Whether there is a file with the extension of an image, that is no other program's."""
    return called_picture(path) and path.is_file() and not _litter(path)


def unwrapped(folder: Path, known: Collection[str], notes: list[str], part: str = "") -> Path:
    """Look through folders that hold nothing but another one, and note it.

    Those of a part may be in each other (train/train/CLASS): so are many of downloaded archives.
    """
    while True:
        inside = folders(folder)
        wraps = len(inside) == 1 and not any(map(is_picture, folder.iterdir()))
        if not wraps or name_of(inside[0]) in known or part_of(inside[0]) not in ("", part):
            return folder
        if not part_of(inside[0]) and not folders(inside[0]):
            return folder  # the folder of a class
        notes.append(
            f"'{folder.name}' contains nothing but '{inside[0].name}', so that folder was read."
        )
        folder = inside[0]


def files(folder: Path) -> list[Path]:
    """Return all files within a folder that are not another program's, sorted; hidden images too.

    Links to folders are followed, each folder once; links to nothing are files that cannot be read.
    """
    found, seen = [], set()

    def look(inside: Path) -> None:
        if (real := inside.resolve()) in seen:
            return
        seen.add(real)
        for child in sorted(inside.iterdir()):
            if _litter(child):
                found.extend([child] if is_hidden_picture(child) else [])
            elif child.is_dir():
                look(child)
            elif child.is_file() or _leads_nowhere(child):
                found.append(child)

    look(folder)
    return sorted(found)


def refusal(text: str) -> InputError:
    """Return the error for a folder that cannot be used; names in it may have line breaks."""
    return InputError(printable(text), argument="dataset")


def listed(names, most: int = 5) -> str:
    """Return names as text, in quotes; of many the first."""
    return few([f"'{name}'" for name in names], most)
