"""A person's own images: one folder per class. Every file is decoded before training starts."""

import concurrent.futures
import dataclasses
import hashlib
import os
import pathlib

import numpy as np
import tensorflow as tf
import tqdm

from xkd_keras.data import names, preparation
from xkd_keras.data.content import Content, Request
from xkd_keras.data.sources import Arrays, Encoded, Files, Source, Split
from xkd_keras.data.splits import FIXED_SEED, TRAIN_VALIDATION_TEST, stratified_split
from xkd_keras.errors import InputError

# Pictures of formats that TensorFlow cannot read are named too, rather than silently not used.
_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".ico"),
}
# How people call folders of splits, in any case.
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}


@dataclasses.dataclass(frozen=True)
class _File:
    path: pathlib.Path
    label: str
    part: str  # train, validation, test, or "" where we cut the splits


@dataclasses.dataclass(frozen=True)
class _Image:
    """A file that could be decoded: its digest, and what is to be kept of it in memory."""

    digest: bytes
    kept: np.ndarray | bytes | None


def read(name: str, request: Request) -> Content:
    """Read a folder PATH/CLASS/..., or PATH/train/CLASS/... and PATH/test/CLASS/...

    Args:
        name: `folder:PATH`.
        request: What `load` was asked for.

    Returns:
        Its content. Without folders of their own, 70 % of each class are train, 10 % validation and
        20 % test; with train and test only, validation is held out of train.

    Raises:
        InputError: An unusable layout, or a damaged file (unless they are to be skipped).
    """
    root = pathlib.Path(names.folder_path(name))
    chosen = names.resolve(name, None, request.image_size, request.augment)
    files = _find(name, root)
    keep = _what_to_keep(files, chosen, request.cache_bytes)
    images, bad = _decode_all(files, chosen.image_size, keep)
    skipped = tuple((str(file.path.relative_to(root)), reason) for file, reason in bad)
    if skipped and not request.skip_unreadable:
        raise InputError(_unreadable(name, skipped), argument="dataset")
    files = [file for file, image in zip(files, images, strict=True) if image]
    images = [image for image in images if image]
    class_names = _class_names(name, files)
    labels = np.array([class_names.index(file.label) for file in files], np.int32)
    splits = _splits(name, files, class_names, labels, request.validation_fraction)
    source = _source(files, images, labels, keep)
    return Content(
        class_names,
        chosen,
        *(Split(source, positions) for positions in splits),
        _digest(root, files, images),
        skipped,
    )


def _find(name: str, root: pathlib.Path) -> list[_File]:
    """List the image files, in an order that does not depend on the file system."""
    parts = {"": root}
    if _holds_folders(root / "train"):  # else "train" is a class, beside "car" and "plane"
        validation = "validation" if (root / "validation").is_dir() else "val"
        folders = {"train": root / "train", "validation": root / validation, "test": root / "test"}
        parts = {part: folder for part, folder in folders.items() if folder.is_dir()}
        if "test" not in parts:
            raise InputError(
                f"{name} has a folder 'train' but no folder 'test' beside it. "
                f"Valid: PATH/train/CLASS and PATH/test/CLASS, or PATH/CLASS.",
                argument="dataset",
            )
    _refuse_other_names(name, root, parts)
    files = [
        _File(path, folder.name, part)
        for part, top in parts.items()
        for folder in sorted(top.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
        for path in _images_under(name, folder)
    ]
    if not files:
        raise InputError(
            f"{name} holds no folders with images. Valid: one folder of images per class.",
            argument="dataset",
        )
    return files


def _holds_folders(path: pathlib.Path) -> bool:
    return path.is_dir() and any(
        child.is_dir() and not child.name.startswith(".") for child in path.iterdir()
    )


def _refuse_other_names(name: str, root: pathlib.Path, parts) -> None:
    """Refuse folders that look like splits: they would be taken for classes, or left out."""
    used = parts.values()
    strange = [
        repr(folder.name)
        for folder in sorted(root.iterdir() if root.is_dir() else ())
        if folder.name.lower() in _SPLITS and folder not in used and _holds_folders(folder)
    ]
    if strange:
        raise InputError(
            f"{name} has folders of classes in {', '.join(strange)}: valid names are train, test "
            "and validation (or val).",
            argument="dataset",
        )


def _images_under(name: str, folder: pathlib.Path) -> list[pathlib.Path]:
    paths = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in _SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not paths:
        raise InputError(
            f"{name}: the folder of class '{folder.name}' holds no images ({folder}).",
            argument="dataset",
        )
    return paths


def _what_to_keep(files: list[_File], chosen, cache_bytes: int) -> str:
    """Return "arrays" (decoded and resized), "encoded" or "files" (read again each epoch)."""
    decoded = len(files) * chosen.image_size**2 * 3
    # An inception crop is cut out of the whole picture, so resized ones are of no use to it.
    if chosen.augment != "inception" and decoded <= cache_bytes:
        return "arrays"
    return "encoded" if sum(f.path.stat().st_size for f in files) <= cache_bytes else "files"


def _decode_all(files: list[_File], image_size: int, keep: str):
    """Decode every file: a list of _Image (None where it failed) and of (_File, reason)."""
    spec = tf.TensorSpec([None, None, 3], tf.uint8)
    resize = tf.function(
        lambda image: tf.cast(preparation.evaluation(image, image_size, 1.0), tf.uint8),
        input_signature=[spec],
    )

    def attempt(file: _File) -> _Image | str:
        try:
            encoded = file.path.read_bytes()
            _refuse_colour_table(encoded)
            image = preparation.decode(encoded)
        except (OSError, ValueError, tf.errors.OpError) as error:
            return _reason(file.path, error)
        kept = {"arrays": lambda: resize(image).numpy(), "encoded": lambda: encoded}
        return _Image(hashlib.sha256(encoded).digest(), kept.get(keep, lambda: None)())

    # Threads suffice: TensorFlow decodes outside of Python's lock.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        progress = tqdm.tqdm(
            pool.map(attempt, files), "checking images", len(files), leave=False, disable=None
        )
        results = list(progress)
    images = [result if isinstance(result, _Image) else None for result in results]
    return images, [(f, r) for f, r in zip(files, results, strict=True) if isinstance(r, str)]


def _refuse_colour_table(encoded: bytes) -> None:
    """Raise for a BMP with a table of colours: TensorFlow would take its indices for greys."""
    if encoded[:2] != b"BM" or len(encoded) < 54 or encoded[28:30] != b"\x08\x00":
        return
    start = 14 + int.from_bytes(encoded[14:18], "little")
    table = np.frombuffer(encoded[start : start + 1024], np.uint8)
    grey = np.arange(len(table) // 4, dtype=np.uint8)[:, None]
    if not np.array_equal(table.reshape(-1, 4)[:, :3], np.repeat(grey, 3, axis=1)):
        raise ValueError("a BMP with a table of colours; save it as PNG")


def _reason(path: pathlib.Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if not path.stat().st_size:
        return "empty file"
    # "{{function_node ...}} Invalid PNG data, size 80 [Op:DecodeImage]"
    return str(error).split("}} ")[-1].split(" [Op:")[0].splitlines()[0]


def _unreadable(name: str, skipped) -> str:
    file, reason = skipped[0]
    more = f", and {len(skipped) - 1} more cannot be read" if len(skipped) > 1 else ""
    return (
        f"{name}: {file} cannot be read ({reason}){more}; "
        f"skip_unreadable leaves {'them' if more else 'it'} out."
    )


def _class_names(name: str, files: list[_File]) -> tuple[str, ...]:
    """Sorted names of the classes of train; the other parts may have no others."""
    classes = {file.label for file in files if file.part in ("", "train")}
    if len(classes) < 2:
        raise InputError(
            f"{name} has {len(classes)} class with readable images to train on "
            f"({', '.join(sorted(classes)) or 'none'}). Valid: two or more.",
            argument="dataset",
        )
    broken = [one for one in sorted(classes) if "\n" in one or "\r" in one]
    if broken:
        raise InputError(
            f"{name}: the name of class {broken[0]!r} holds the end of a line. Valid: one line, as"
            " files of labels have one name on each.",
            argument="dataset",
        )
    for part in ("validation", "test"):
        strange = sorted({file.label for file in files if file.part == part} - classes)
        if strange:
            raise InputError(
                f"{name}: class {', '.join(map(repr, strange))} of {part} is not among "
                f"those of train: {', '.join(sorted(classes))}.",
                argument="dataset",
            )
    return tuple(sorted(classes))


def _splits(name, files, class_names, labels, fraction) -> tuple[np.ndarray, ...]:
    """Positions of train, validation and test."""
    parts = np.array([file.part for file in files])
    train, validation, test = (np.flatnonzero(parts == p) for p in ("train", "validation", "test"))
    if not parts[0]:
        _check_enough(name, class_names, labels, len(TRAIN_VALIDATION_TEST))
        return stratified_split(labels, TRAIN_VALIDATION_TEST, FIXED_SEED)
    if not len(test):
        raise InputError(f"{name}: the folder 'test' holds no readable images.", argument="dataset")
    if not len(validation):
        _check_enough(name, class_names, labels[train], 2)
        kept, held_out = stratified_split(labels[train], (1 - fraction, fraction), FIXED_SEED)
        train, validation = train[kept], train[held_out]
    return train, validation, test


def _check_enough(name: str, class_names, labels: np.ndarray, parts: int) -> None:
    sizes = np.bincount(labels, minlength=len(class_names))
    if sizes.min() < parts:
        smallest = class_names[int(sizes.argmin())]
        raise InputError(
            f"{name}: class '{smallest}' has {sizes.min()} readable images, too few to "
            f"cut into {parts} splits. Valid: {parts} or more a class.",
            argument="dataset",
        )


def _source(files, images, labels: np.ndarray, keep: str) -> Source:
    if keep == "arrays":
        return Arrays(np.stack([image.kept for image in images]), labels)
    if keep == "encoded":
        return Encoded([image.kept for image in images], labels)
    return Files([str(file.path) for file in files], labels)


def _digest(root: pathlib.Path, files, images) -> str:
    digest = hashlib.sha256()
    for file, image in zip(files, images, strict=True):
        digest.update(file.path.relative_to(root).as_posix().encode() + b"\0" + image.digest)
    return digest.hexdigest()
