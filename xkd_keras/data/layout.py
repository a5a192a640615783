"""Where the pictures of a person's folder are, and what its folders mean. Needs no TensorFlow."""

import collections
import contextlib
import dataclasses
import itertools
import re
from collections.abc import Callable, Collection
from pathlib import Path

from xkd_keras.console import many
from xkd_keras.data import names, tree
from xkd_keras.data.splits import TRAIN_VALIDATION_TEST, three
from xkd_keras.data.tree import listed, refusal
from xkd_keras.errors import InputError

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
    inside = set(map(tree.name_of, tree.folders(root)))
    if known and tree.name_of(root) in known and not inside & set(known):
        tops = {"": None}
    else:
        root = tree.unwrapped(root, known, notes)
        tops = _parts(name, root, known, notes) or {"": root}
    pictures = []
    for part, top in tops.items():
        top = top and tree.unwrapped(top, known, notes, part)
        classes = tree.folders(top) if top else [root]
        everything = [tree.files(folder) for folder in classes]
        notes += _hidden(classes, everything)
        inside = [[path for path in each if not _is_hidden(path)] for each in everything]
        found = [
            _pictures(name, folder, files, bool(known))
            for folder, files in zip(classes, inside, strict=True)
        ]
        for folder, paths in zip(classes, found, strict=True):
            pictures += [File(path, tree.name_of(folder), part) for path in paths]
        notes += _nested(classes, found) + _others(classes, inside) + _alike(classes)
        notes += _beside(top) if top else []
    if not pictures:
        raise refusal(
            f"{name} contains no folders with images; valid: one folder of images per class."
        )
    return pictures, tuple(tops), tuple(dict.fromkeys(notes))


def has_test(root: Path) -> bool:
    """Whether a folder has a part of its own for the test."""
    root = tree.unwrapped(root, (), [])
    tests = (folder for folder in tree.folders(root) if tree.part_of(folder) == "test")
    return any(tree.folders(tree.unwrapped(folder, (), [], "test")) for folder in tests)


def holds_training_images(dataset: str, other: str, split: str) -> bool:
    """Whether a split of another folder has images that a run on `dataset` learned, by their place.

    Args:
        dataset: `folder:PATH` of the run; of other kinds nothing is known.
        other: `folder:PATH` in it, or around it.
        split: Of the other one: train, validation, test, or all of them together.
    """
    if not (names.is_folder(dataset) and names.is_folder(other)):
        return False
    own, theirs = (Path(names.folder_path(each)).resolve() for each in (dataset, other))
    if split in ("validation", "test") and has_test(theirs):
        return False
    if theirs.is_relative_to(own):
        within = {tree.part_of(Path(word)) for word in theirs.relative_to(own).parts}
        parts = set(map(tree.part_of, tree.folders(tree.unwrapped(own, (), []))))
        return "train" in within if "train" in parts else not {"validation", "test"} & within
    return own.is_relative_to(theirs)


def training_files(name: str, validation_fraction: float) -> int:
    """Return about how many training images `folder:PATH` has, without opening any."""
    files, parts, _ = find(name, Path(names.folder_path(name)))
    if "train" in parts:
        share = 1.0 if "test" in parts else 1.0 - TRAIN_VALIDATION_TEST[-1]
        share *= 1.0 if "validation" in parts else 1.0 - validation_fraction
    else:
        share = three(validation_fraction)[0]
    return round(share * sum(file.part in ("", "train") for file in files))


def _parts(name: str, root: Path, known: Collection[str], notes: list[str]) -> dict[str, Path]:
    """Return the folders of the parts; empty where the folders are classes."""
    folders = [folder for folder in tree.folders(root) if tree.name_of(folder) not in known]
    found = [folder for folder in folders if tree.part_of(folder)]
    others = [folder.name for folder in folders if not tree.part_of(folder)]
    bare = [
        each
        for each in found
        if not tree.folders(tree.unwrapped(each, known, [], tree.part_of(each)))
    ]
    train = any(tree.part_of(folder) == "train" for folder in found if folder not in bare)
    if not found or (others and not train and (known or len(found) == 1)):
        _refuse_parts_of_other_names(name, folders, known)
        return {}  # "train" is a class, beside "car" and "plane"
    unclear = _unclear(found, others, bare, train, bool(known))
    if unclear:
        raise refusal(f"{name}{unclear}")
    if not known and "test" not in map(tree.part_of, found):
        notes.append(
            "There is no folder 'test', so a fifth of the training images are held out for it."
        )
    if others:
        notes.append(f"Not used beside '{found[0].name}': {listed(others)}.")
    return {part: each for part in tree.PARTS for each in found if tree.part_of(each) == part}


def _refuse_parts_of_other_names(name: str, folders: list[Path], known: Collection[str]) -> None:
    """Raise where what would be classes are parts, as seg_train and seg_test with the same folders.

    One such name may be that of a class, and classes may have folders: test_tube/day and
    train_station/day; not a training part and another one with the same two.
    """
    parts = {} if known else {each: _parts_in_name(each) for each in folders}
    inside = {each: _inside(each) for each, called in parts.items() if called}
    counts = collections.Counter(itertools.chain.from_iterable(inside.values()))
    shared = sorted(label for label, count in counts.items() if count > 1)
    alike = [each for each in inside if inside[each] & set(shared)]
    called = set().union(*(parts[each] for each in alike))
    if len(shared) < 2 or "train" not in called or len(called) < 2:
        return
    raise refusal(
        f"{name}: {listed(map(tree.name_of, alike))} look like splits, as they contain the same"
        f" folders ({listed(shared, most=3)}); valid: PATH/train/CLASS and PATH/test/CLASS, so"
        " rename them; if they are classes, give them other names."
    )


def _parts_in_name(folder: Path) -> set[str]:
    """Return the parts of a data set that words in a folder's name mean."""
    words = set(re.split(r"[\W_]+", folder.name.lower()))
    return {part for part, names in tree.PARTS.items() if words & {*names}}


def _inside(folder: Path) -> set[str]:
    """Return the names of a folder's folders; of one with a link to nothing none."""
    with contextlib.suppress(InputError):
        return set(map(tree.name_of, tree.folders(tree.unwrapped(folder, (), []))))
    return set()


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
    names = listed(map(tree.name_of, found))
    valid = "; valid: PATH/train/CLASS and PATH/test/CLASS, or PATH/CLASS."
    if others and not train:
        return (
            f": {names} are names of splits, but no folder for training contains folders of classes"
            f"{valid} If they are classes beside {listed(others)}, rename them."
        )
    if len(bare) == len(found) or (bare and not known):
        verb = "contain" if len(bare) > 1 else "contains"
        return f": {listed(map(tree.name_of, bare))} {verb} no folders of classes{valid}"
    for part in tree.PARTS:
        same = [each.name for each in found if tree.part_of(each) == part]
        if len(same) > 1:
            return f": {listed(same)} are both for {part}; valid: one of them."
    if not train and not known:
        return f" has a folder {names} but no folder 'train' beside it{valid}"
    return ""


def _pictures(name: str, folder: Path, files: list[Path], may_be_empty: bool) -> list[Path]:
    paths = list(filter(tree.called_picture, files))
    if not paths and not may_be_empty:
        raise refusal(f"{name}: the folder of class '{folder.name}' contains no images ({folder}).")
    return paths


def _others(classes: list[Path], files: list[list[Path]]) -> list[str]:
    """Tell which files among the pictures are called as no picture is."""
    others = _called(classes, files, lambda path: not tree.called_picture(path))
    if not others:
        return []
    return [f"Not used, because their names have no image extension: {listed(others, most=3)}."]


def _hidden(classes: list[Path], files: list[list[Path]]) -> list[str]:
    """Tell which images have names that hide them."""
    hidden = _called(classes, files, _is_hidden)
    if not hidden:
        return []
    note = (
        "Not used, because names that begin with a dot are hidden:"
        f" {many(len(hidden), 'image')} ({listed(hidden, most=3)})."
    )
    if any(name.endswith(tree.WAITING) for name in hidden):
        note += f" Those that end in {tree.WAITING} are not downloaded yet."
    return [note]


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _called(classes: list[Path], files: list[list[Path]], fits: Callable) -> list[str]:
    """Return how those of the classes' files are called that fit."""
    return [
        f"{folder.name}/{path.relative_to(folder).as_posix()}"
        for folder, inside in zip(classes, files, strict=True)
        for path in inside
        if fits(path)
    ]


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
        f"The classes are {listed(map(tree.name_of, classes))}; subfolders belong to their class"
        f" ({listed(dict.fromkeys(within))})."
    ]


def _alike(classes: list[Path]) -> list[str]:
    """Tell which classes differ in case, spaces, hyphens and underscores only."""
    named = {}
    for name in dict.fromkeys(map(tree.name_of, classes)):
        words = name.casefold().replace("_", " ").replace("-", " ").split()
        named.setdefault(" ".join(words), []).append(name)
    return [
        f"{listed(names)} are {len(names)} different classes, though their names are nearly the"
        " same."
        for names in named.values()
        if len(names) > 1
    ]


def _beside(top: Path) -> list[str]:
    lost, notes = sum(map(tree.is_picture, top.iterdir())), []
    if lost:
        notes.append(f"Not used: {lost} in '{top.name}' itself, outside the classes' folders.")
    dotted = [child for child in sorted(top.iterdir()) if child.name[0] == "." and child.is_dir()]
    mine = [each for each in dotted if each.name not in _COPIES]
    hidden = [each.name for each in mine if _holds_pictures(each)]
    if hidden:
        notes.append(f"Not used, because names that begin with a dot are hidden: {listed(hidden)}.")
    return notes


def _holds_pictures(folder: Path) -> bool:
    try:
        return any(map(tree.is_picture, folder.iterdir()))
    except OSError:  # a disk's own, that nobody may read
        return False
