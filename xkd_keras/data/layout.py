"""Where the pictures of a person's folder are, and what its folders mean. Needs no TensorFlow."""

import dataclasses
import unicodedata
from collections.abc import Collection
from pathlib import Path

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
# Of other programs; so is what begins with a dot.
_LITTER = {"__macosx", "thumbs.db", "desktop.ini"}
_COPIES = (".ipynb_checkpoints", ".thumbnails")  # their pictures are nobody's loss


@dataclasses.dataclass(frozen=True)
class File:
    """A picture: where it is, and what its folders say of it.

    Attributes:
        path: Of the file.
        label: Name of its class, in Unicode's composed form (NFC).
        part: "train", "validation", "test", or "" where the folder has no such parts.
    """

    path: Path
    label: str
    part: str


def find(
    name: str, root: Path, known: Collection[str] = ()
) -> tuple[list[File], tuple[str, ...], tuple[str, ...]]:
    """List the pictures of a folder, in an order that does not depend on the file system.

    Args:
        name: Of the data set, for messages.
        root: PATH of PATH/CLASS/..., or of PATH/train/CLASS/... and PATH/test/CLASS/...; or a
            folder that holds nothing but that folder.
        known: Names of the classes where nothing is to be learned: parts may be missing, and PATH
            itself may be the folder of a class.

    Returns:
        The files; the parts that have a folder, "" where there are none; and what a person should
        know of how the folders were read, a sentence each.

    Raises:
        InputError: There are no pictures, or it cannot be told what the folders mean.
    """
    notes = []
    root = root.resolve()
    if known and root.name in known and not set(map(_name, _folders(root))) & set(known):
        tops = {"": None}
    else:
        root = _unwrapped(root, known, notes)
        tops = _parts(name, root, known, notes) or {"": root}
    listed = []
    for part, top in tops.items():
        top = top and _unwrapped(top, known, notes, part)
        classes = _folders(top) if top else [root]
        inside = [_files(folder) for folder in classes]
        found = [
            _pictures(name, folder, files, bool(known))
            for folder, files in zip(classes, inside, strict=True)
        ]
        for folder, paths in zip(classes, found, strict=True):
            # As Macs and others write one name in two ways, which nobody can tell apart.
            label = unicodedata.normalize("NFC", folder.name)
            listed += [File(path, label, part) for path in paths]
        notes += _nested(classes, found) + _others(classes, inside) + _alike(classes)
        notes += _beside(top) if top else []
    if not listed:
        raise _refusal(
            f"{name} holds no folders with images. Valid: one folder of images per class."
        )
    return listed, tuple(tops), tuple(dict.fromkeys(notes))


def has_test(root: Path) -> bool:
    """Whether a folder has a part of its own for the test."""
    root = _unwrapped(root, (), [])
    tests = (folder for folder in _folders(root) if _part(folder) == "test")
    return any(_folders(_unwrapped(folder, (), [], "test")) for folder in tests)


def _name(path: Path) -> str:
    return path.name


def _litter(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _LITTER


def _folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that mean something, sorted."""
    if not folder.is_dir():
        return []
    children = sorted(child for child in folder.iterdir() if not _litter(child))
    for child in children:
        if _leads_nowhere(child) and not _called_picture(child):  # it may have been a class
            raise _refusal(
                f"folder:{folder}: '{child.name}' is a link to '{child.readlink()}', which does"
                " not exist. Valid: links to folders; or a folder without it."
            )
    return [child for child in children if child.is_dir()]


def _leads_nowhere(path: Path) -> bool:
    """Whether a path is a link to what is not there: a disk that is not mounted, a cache."""
    return path.is_symlink() and not path.exists()


def _part(folder: Path) -> str:
    return next((part for part, words in PARTS.items() if folder.name.lower() in words), "")


def _called_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _is_picture(path: Path) -> bool:
    return _called_picture(path) and path.is_file() and not _litter(path)


def _unwrapped(folder: Path, known: Collection[str], notes: list[str], part: str = "") -> Path:
    """Look through folders that hold nothing but another one, and note it.

    Those of a part may be in each other (train/train/CLASS): so are many of downloaded archives.
    """
    while True:
        inside = _folders(folder)
        wraps = len(inside) == 1 and not any(map(_is_picture, folder.iterdir()))
        if not wraps or inside[0].name in known or _part(inside[0]) not in ("", part):
            return folder
        if not _part(inside[0]) and not _folders(inside[0]):
            return folder  # the folder of a class
        notes.append(f"'{folder.name}' holds nothing but '{inside[0].name}': looked into that.")
        folder = inside[0]


def _parts(name: str, root: Path, known: Collection[str], notes: list[str]) -> dict[str, Path]:
    """Return the folders of the parts; empty where the folders are classes."""
    folders = [folder for folder in _folders(root) if folder.name not in known]
    found = [folder for folder in folders if _part(folder)]
    others = [folder.name for folder in folders if not _part(folder)]
    bare = [each for each in found if not _folders(_unwrapped(each, known, [], _part(each)))]
    train = any(_part(folder) == "train" for folder in found if folder not in bare)
    if not found or (others and not train and (known or len(found) == 1)):
        return {}  # "train" is a class, beside "car" and "plane"
    unclear = _unclear(found, others, bare, train, bool(known))
    if unclear:
        raise _refusal(f"{name}{unclear}")
    if not known and "test" not in map(_part, found):
        notes.append("There is no folder 'test': a fifth of the training images are held out.")
    if others:
        notes.append(f"Not used, as it is beside '{found[0].name}': {_listed(others)}.")
    return {part: each for part in PARTS for each in found if _part(each) == part}


def _unclear(
    found: list[Path], others: list[str], bare: list[Path], train: bool, known: bool
) -> str:
    """Say why it cannot be told which folders are the parts, or nothing.

    Args:
        found: The folders that are called as parts are.
        others: Names of the folders beside them.
        bare: Those of `found` that have no folders of classes.
        train: Whether one for training has.
        known: Whether the classes are known.
    """
    names = _listed(map(_name, found))
    valid = "Valid: PATH/train/CLASS and PATH/test/CLASS, or PATH/CLASS."
    if others and not train:
        return (
            f": {names} are names of splits, but no folder for training holds folders of classes."
            f" {valid} If they are classes beside {_listed(others)}, rename them."
        )
    if len(bare) == len(found) or (bare and not known):
        verb = "hold" if len(bare) > 1 else "holds"
        return f": {_listed(map(_name, bare))} {verb} no folders of classes. {valid}"
    for part in PARTS:
        same = [each.name for each in found if _part(each) == part]
        if len(same) > 1:
            return f": {_listed(same)} are both for {part}. Valid: one of them."
    if not train and not known:
        return f" has a folder {names} but no folder 'train' beside it. {valid}"
    return ""


def _refusal(text: str) -> InputError:
    return InputError(text, argument="dataset")


def _files(folder: Path) -> list[Path]:
    """Return all files within a folder that are not another program's, sorted.

    Links to folders are followed, each folder once; links to nothing are files that cannot be read.
    """
    found, seen = [], set()

    def look(inside: Path) -> None:
        if (real := inside.resolve()) in seen:
            return
        seen.add(real)
        for child in sorted(child for child in inside.iterdir() if not _litter(child)):
            if child.is_dir():
                look(child)
            elif child.is_file() or _leads_nowhere(child):
                found.append(child)

    look(folder)
    return sorted(found)


def _pictures(name: str, folder: Path, files: list[Path], may_be_empty: bool) -> list[Path]:
    paths = list(filter(_called_picture, files))
    if not paths and not may_be_empty:
        raise _refusal(f"{name}: the folder of class '{folder.name}' holds no images ({folder}).")
    return paths


def _others(classes: list[Path], files: list[list[Path]]) -> list[str]:
    """Tell which files among the pictures are called as no picture is."""
    others = [
        f"{folder.name}/{path.relative_to(folder).as_posix()}"
        for folder, inside in zip(classes, files, strict=True)
        for path in inside
        if not _called_picture(path)
    ]
    if not others:
        return []
    return [f"Not used, as their names have no extension of images: {_listed(others, most=3)}."]


def _nested(classes: list[Path], found: list[list[Path]]) -> list[str]:
    """Tell which names become classes where there are folders within their folders."""
    within = [
        f"{folder.name}/{path.relative_to(folder).parts[0]}"
        for folder, paths in zip(classes, found, strict=True)
        for path in paths
        if path.parent != folder
    ]
    if not within:
        return []
    return [
        f"The classes are {_listed(map(_name, classes))}; folders within them are part of their"
        f" class ({_listed(dict.fromkeys(within))})."
    ]


def _alike(classes: list[Path]) -> list[str]:
    """Tell which classes differ in case, spaces, hyphens and underscores only."""
    named = {}
    for name in dict.fromkeys(unicodedata.normalize("NFC", folder.name) for folder in classes):
        words = name.casefold().replace("_", " ").replace("-", " ").split()
        named.setdefault(" ".join(words), []).append(name)
    return [
        f"{_listed(names)} are {len(names)} classes, though their names are nearly the same."
        for names in named.values()
        if len(names) > 1
    ]


def _beside(top: Path) -> list[str]:
    lost, notes = sum(map(_is_picture, top.iterdir())), []
    if lost:
        notes.append(f"Not used: {lost} in '{top.name}' itself, outside the classes' folders.")
    dotted = [child for child in sorted(top.iterdir()) if child.name[0] == "." and child.is_dir()]
    mine = [each for each in dotted if each.name not in _COPIES]
    hidden = [each.name for each in mine if any(map(_is_picture, each.iterdir()))]
    if hidden:
        notes.append(f"Not used, as names that begin with a dot are hidden: {_listed(hidden)}.")
    return notes


def _listed(names, most: int = 5) -> str:
    names = list(names)
    text = ", ".join(f"'{name}'" for name in names[:most])
    return f"{text} and {len(names) - most} more" if len(names) > most else text
