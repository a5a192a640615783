"""A person's own images: one folder per class. Every file is decoded before training starts."""

import collections
import hashlib
import pathlib

import numpy as np

from xkd_keras.console import few, many, printable
from xkd_keras.data import decoding, duplicates, layout, names, shrunk, tree
from xkd_keras.data.content import Content, Request
from xkd_keras.data.layout import File
from xkd_keras.data.sources import Arrays, Encoded, Files, Source, Split
from xkd_keras.data.splits import FIXED_SEED, TRAIN_VALIDATION_TEST, stratified_split, three
from xkd_keras.data.tree import refusal

_PARTS = tuple(tree.PARTS)
_SMALLEST = 32  # pixels; what most networks need
_TOLD = 3  # classes that are too small, of which there may be hundreds


def read(name: str, request: Request) -> Content:
    """Read a folder PATH/CLASS/..., or PATH/train/CLASS/... and PATH/test/CLASS/...

    Args:
        name: `folder:PATH`.
        request: What `load` was asked for.

    Returns:
        Its content. Without folders of their own, 70 % of each class are train, 10 % validation and
        20 % test. With a folder train, test images that are missing are a fifth of it, and those of
        validation a part of the rest. Where the classes are known, all images of a folder without
        parts are test, and a part may be empty.

    Raises:
        InputError: An unusable layout, a damaged file (unless they are to be skipped), or files
            that are there twice (if they are to stop it).
    """
    root = pathlib.Path(names.folder_path(name)).resolve()
    chosen = names.resolve(name, None, request.image_size, request.augment)
    files, parts, notes = layout.find(name, root, request.class_names)
    _check_known(name, files, request.class_names)
    if not request.class_names:  # decoding may take minutes
        _class_names(name, files, files)
        _check_enough(name, files, "image")
    keep = decoding.what_to_keep(files, chosen, request.cache_bytes)
    trains = chosen.cuts and not request.class_names
    copies = shrunk.Copies(chosen.image_size, request.cache_bytes) if trains else None
    images, bad, arrays = decoding.decode_all(files, chosen.image_size, keep, copies)
    skipped = tuple((_shown(root, file), reason) for file, reason in bad)
    if skipped and not request.skip_unreadable:
        raise refusal(_unreadable(name, skipped))
    readable = [(file, image) for file, image in zip(files, images, strict=True) if image]
    readable, dropped = _without_duplicates(root, readable, request.duplicates)
    asked = files
    files, images = ([pair[i] for pair in readable] for i in (0, 1))
    class_names = request.class_names or _class_names(name, files, asked)
    labels = np.array([class_names.index(file.label) for file in files], np.int32)
    splits = _splits(name, files, labels, request, "test" in parts)
    trained = copies and copies.source([image.copy for image in images], labels)
    source = _source(files, images, arrays, labels, "files" if trained else keep)
    trained = trained or source
    trained.names = source.names = tuple(_shown(root, file) for file in files)
    return Content(
        class_names,
        chosen,
        *map(Split, (trained, source, source), splits),
        _digest(root, files, images),
        skipped,
        dropped or _harmful(name, root, readable, splits, request.duplicates),
        (*map(printable, notes), *_enlarged(images, min(chosen.image_size), request.image_size)),
    )


def _enlarged(images: list[decoding.Image], side: int, asked) -> tuple[str, ...]:
    """Tell of most images being much smaller than the size that nobody asked for."""
    usual = int(np.median([image.side for image in images])) if images else side
    smaller = max(usual, _SMALLEST)
    if any(asked) or smaller > 0.75 * side:
        return ()
    return (
        f"At least half of the images have a side of {usual} pixels or less and are enlarged to"
        f" {side}; training with an image_size of {smaller} would be {(side / smaller) ** 2:.0f}"
        " times as fast.",
    )


def _shown(root: pathlib.Path, file: File) -> str:
    return printable(file.path.relative_to(root).as_posix())


def _without_duplicates(root: pathlib.Path, pairs: list, wish: str) -> tuple[list, tuple]:
    """Return files and images without copies, if they are to be dropped, and what those were."""
    if wish != "drop":
        return pairs, ()
    facts = _facts(pairs, [file.part for file, _ in pairs])
    kept = duplicates.kept(*facts)
    gone = sorted(set(range(len(pairs))) - set(kept))
    dropped = tuple(("left out", (_shown(root, pairs[i][0]),)) for i in gone)
    return [pairs[i] for i in kept], dropped


def _harmful(name: str, root: pathlib.Path, pairs: list, splits, wish: str) -> tuple:
    """Return what is wrong, and the files, for each group of the same; raises if it is to stop."""
    parts = np.full(len(pairs), "", object)
    for part, positions in zip(_PARTS, splits, strict=True):
        parts[positions] = part
    found = duplicates.harmful(*_facts(pairs, parts))
    paths = [_shown(root, file) for file, _ in pairs]
    if wish == "stop":
        duplicates.refuse(name, found, paths)
    return tuple((each.what, tuple(paths[i] for i in each.places)) for each in found)


def _facts(pairs: list, parts) -> tuple[list, list, list]:
    return [image.digest for _, image in pairs], [file.label for file, _ in pairs], list(parts)


def _unreadable(name: str, skipped) -> str:
    file, reason = skipped[0]
    more = f", and {len(skipped) - 1} more cannot be read" if len(skipped) > 1 else ""
    return (
        f"{name}: {file} cannot be read ({reason}){more}; "
        f"skip_unreadable leaves {'them' if more else 'it'} out."
    )


def _check_known(name: str, files: list[File], known: tuple[str, ...]) -> None:
    """Raise for a class that is none of those known, if any are."""
    strange = sorted({file.label for file in files} - set(known))
    if known and strange:
        raise refusal(
            f"{name}: its class '{strange[0]}' is unknown to the run; valid: {', '.join(known)}."
        )


def _class_names(name: str, files: list[File], asked: list[File]) -> tuple[str, ...]:
    """Sorted names of the classes of train; the other parts may have no others.

    Args:
        name: Of the data set, for messages.
        files: Those that are kept.
        asked: All that were found: none of their classes may disappear.
    """
    classes, wanted = (
        {file.label for file in each if file.part in ("", "train")} for each in (files, asked)
    )
    if lost := sorted(wanted - classes):
        noun = "class" if len(lost) == 1 else "classes"
        raise refusal(
            f"{name}: no image of {noun} {tree.listed(lost)} is left: all are"
            " unreadable, or copies of others; valid: one or more, or a folder without that"
            " class."
        )
    if len(classes) < 2:
        raise refusal(
            f"{name} has {len(classes)} class with readable images to train on"
            f" ({', '.join(sorted(classes)) or 'none'}); valid: two or more."
        )
    broken = [one for one in sorted(classes) if "\n" in one or "\r" in one]
    if broken:
        raise refusal(
            f"{name}: the name of class {broken[0]!r} contains a line break; valid: names of one"
            " line, as label files have one name per line."
        )
    for part in ("validation", "test"):
        strange = sorted({file.label for file in files if file.part == part} - classes)
        if strange:
            raise refusal(
                f"{name}: class {tree.listed(strange)} of {part} is not among "
                f"those of train: {', '.join(sorted(classes))}."
            )
    return tuple(sorted(classes))


def _splits(name, files, labels, request: Request, tested: bool):
    """Return the positions of train, validation and test; `tested`: there is a folder of test."""
    parts = np.array([file.part for file in files], object)
    train, validation, test = (np.flatnonzero(parts == part) for part in _PARTS)
    if request.class_names:
        return train, validation, np.flatnonzero((parts == "test") | (parts == ""))
    if not parts[0]:
        _check_enough(name, files, "readable image")
        return stratified_split(labels, three(request.validation_fraction), FIXED_SEED)
    if tested and not len(test):
        raise refusal(f"{name}: the folder 'test' contains no readable images.")
    _check_enough(name, files, "readable image")
    if not tested:
        train, test = _held_out(train, labels, TRAIN_VALIDATION_TEST[-1])
    if not len(validation):
        train, validation = _held_out(train, labels, request.validation_fraction)
    return train, validation, test


def _held_out(positions: np.ndarray, labels: np.ndarray, share: float) -> list[np.ndarray]:
    """Return the positions without a share of each class, and that share."""
    parts = stratified_split(labels[positions], (1 - share, share), FIXED_SEED)
    return [positions[part] for part in parts]


def _check_enough(name: str, files: list[File], noun: str) -> None:
    """Raise for classes with fewer images than there are splits to divide them into."""
    there = {file.part for file in files} - {""}
    parts = len(TRAIN_VALIDATION_TEST) - len(there - {"train"})
    sizes = collections.Counter(file.label for file in files if file.part in ("", "train"))
    small = [
        f"'{label}' has {many(size, noun)}" for label, size in sorted(sizes.items()) if size < parts
    ]
    if small:
        raise refusal(
            f"{name}: class {few(small, _TOLD)}, too few to divide into {parts} splits; valid:"
            f" {parts} or more per class."
        )


def _source(files, images, arrays: np.ndarray, labels: np.ndarray, keep: str) -> Source:
    if keep == "arrays" and images:
        whole = len(images) == len(arrays)
        return Arrays(arrays if whole else arrays[[image.place for image in images]], labels)
    if keep == "encoded":
        return Encoded([image.kept for image in images], labels)
    return Files([str(file.path) for file in files], labels)


def _digest(root: pathlib.Path, files, images) -> str:
    digest = hashlib.sha256()
    for file, image in zip(files, images, strict=True):
        digest.update(file.path.relative_to(root).as_posix().encode() + b"\0" + image.digest)
    return digest.hexdigest()
