"""Where the pictures of a person's folder are, and what its folders mean. Needs no TensorFlow."""

import dataclasses
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
_LITTER = {"__macosx", "thumbs.db"}  # of other programs; so is what begins with a dot


@dataclasses.dataclass(frozen=True)
class File:
    """A picture: where it is, and what its folders say of it.

    Attributes:
        path: Of the file.
        label: Name of its class.
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
    files = []
    for part, top in tops.items():
        top = top and _unwrapped(top, known, notes)
        classes = _folders(top) if top else [root]
        found = [_pictures(name, folder, bool(known)) for folder in classes]
        for folder, paths in zip(classes, found, strict=True):
            files += [File(path, folder.name, part) for path in paths]
        notes += _nested(classes, found) + (_beside(top) if top else [])
    if not files:
        raise InputError(
            f"{name} holds no folders with images. Valid: one folder of images per class.",
            argument="dataset",
        )
    return files, tuple(tops), tuple(dict.fromkeys(notes))


def has_test(root: Path) -> bool:
    """Whether a folder has a part of its own for the test."""
    root = _unwrapped(root, (), [])
    return any(_part(folder) == "test" and _folders(folder) for folder in _folders(root))


def _name(path: Path) -> str:
    return path.name


def _litter(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _LITTER


def _folders(folder: Path) -> list[Path]:
    """Return the folders in a folder that mean something, sorted."""
    if not folder.is_dir():
        return []
    return sorted(child for child in folder.iterdir() if child.is_dir() and not _litter(child))


def _part(folder: Path) -> str:
    return next((part for part, words in PARTS.items() if folder.name.lower() in words), "")


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file() and not _litter(path)


def _unwrapped(folder: Path, known: Collection[str], notes: list[str]) -> Path:
    """Look through folders that hold nothing but another one, and note it."""
    while True:
        inside = _folders(folder)
        wraps = len(inside) == 1 and not any(map(_is_picture, folder.iterdir()))
        if not wraps or inside[0].name in known or _part(inside[0]) or not _folders(inside[0]):
            return folder
        notes.append(f"'{folder.name}' holds nothing but '{inside[0].name}': looked into that.")
        folder = inside[0]


def _parts(name: str, root: Path, known: Collection[str], notes: list[str]) -> dict[str, Path]:
    """Return the folders of the parts; empty where the folders are classes."""
    folders = [folder for folder in _folders(root) if folder.name not in known]
    found = [folder for folder in folders if _part(folder)]
    others = [folder.name for folder in folders if not _part(folder)]
    train = any(_part(folder) == "train" and _folders(folder) for folder in found)
    if not found or (others and not train):
        return {}  # "train" is a class, beside "car" and "plane"
    if not any(map(_folders, found)):
        raise InputError(
            f"{name}: {_listed(map(_name, found))} hold no folders of classes. "
            f"Valid: PATH/train/CLASS and PATH/test/CLASS, or PATH/CLASS.",
            argument="dataset",
        )
    parts = {part: [each for each in found if _part(each) == part] for part in PARTS}
    for part, same in parts.items():
        if len(same) > 1:
            raise InputError(
                f"{name}: {_listed(map(_name, same))} are both for {part}. Valid: one of them.",
                argument="dataset",
            )
    if not parts["train"] and not known:
        raise InputError(
            f"{name} has a folder {_listed(map(_name, found))} but no folder 'train' beside "
            f"it. Valid: PATH/train/CLASS and PATH/test/CLASS, or PATH/CLASS.",
            argument="dataset",
        )
    if not parts["test"] and not known:
        notes.append("There is no folder 'test': a fifth of the training images are held out.")
    if others:
        notes.append(f"Not used, as it is beside '{found[0].name}': {_listed(others)}.")
    return {part: same[0] for part, same in parts.items() if same}


def _pictures(name: str, folder: Path, may_be_empty: bool) -> list[Path]:
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if _is_picture(path)
        and not any(map(_litter, path.relative_to(folder).parents))
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not paths and not may_be_empty:
        raise InputError(
            f"{name}: the folder of class '{folder.name}' holds no images ({folder}).",
            argument="dataset",
        )
    return paths


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


def _beside(top: Path) -> list[str]:
    lost = sum(map(_is_picture, top.iterdir()))
    return [f"Not used: {lost} in '{top.name}' itself, in no folder of a class."] if lost else []


def _listed(names, most: int = 5) -> str:
    names = list(names)
    text = ", ".join(f"'{name}'" for name in names[:most])
    return f"{text} and {len(names) - most} more" if len(names) > most else text
