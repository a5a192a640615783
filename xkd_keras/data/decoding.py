"""Every file of a folder is decoded before training starts: what cannot be read is told then."""

import concurrent.futures
import dataclasses
import errno
import functools
import hashlib
import itertools
import math
import os
import pathlib

import numpy as np
import tensorflow as tf

from xkd_keras import console
from xkd_keras.console import is_utf8, printable
from xkd_keras.data import preparation
from xkd_keras.data.layout import File
from xkd_keras.errors import InputError

# Of a disk in the network or a process with too many files: no file is damaged.
PASSING = {errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
PASSING |= {errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH}

_WAITING = 4096  # files that threads have before them


@dataclasses.dataclass(frozen=True)
class Image:
    """A file that could be decoded: digest, shorter side, and what is to be kept in memory.

    `place` is its position among all files; `copy` is what training reads instead, see `shrunk`.
    """

    digest: bytes
    side: int
    place: int
    kept: bytes | None
    copy: bytes | None


def what_to_keep(files: list[File], chosen, cache_bytes: int) -> str:
    """Return "arrays" (decoded and resized), "encoded" or "files" (read again each epoch)."""
    decoded = len(files) * math.prod(chosen.image_size) * 3
    # An inception crop is cut out of the whole picture, so resized ones are of no use to it.
    if not chosen.cuts and decoded <= cache_bytes:
        return "arrays"
    return "encoded" if sum(_size(file.path) for file in files) <= cache_bytes else "files"


def _size(path: pathlib.Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link to nothing, which `decode_all` tells
        return 0


def decode_all(files: list[File], image_size: tuple[int, int], keep: str, copies):
    """Decode every file: a list of Image (None where it failed) and of (File, reason).

    Of decoded pictures it returns all as one array, too: [files, H, W, 3].
    """
    look = _resizer(image_size) if keep == "arrays" else _look
    arrays = np.zeros((len(files) if keep == "arrays" else 0, *image_size, 3), np.uint8)

    def attempt(place: int, file: File) -> Image | str:
        if not is_utf8(str(file.path)):
            return "its path is not UTF-8"  # and what is written of it would not be, either
        try:
            encoded = file.path.read_bytes()
            image, side = look(encoded)
        except (OSError, ValueError, tf.errors.OpError) as error:
            if getattr(error, "errno", None) in PASSING:
                raise InputError(
                    f"{printable(str(file.path))}: {error.strerror}; the file may be intact, so"
                    " try again.",
                    argument="dataset",
                ) from None
            return _reason(file.path, error)
        if keep == "arrays":
            arrays[place] = image
        trains = copies and file.part in ("", "train")
        copy = copies.copy_of(encoded, image.numpy()) if trains else None
        kept = encoded if keep == "encoded" else None
        return Image(hashlib.sha256(encoded).digest(), int(side), place, kept, copy)

    # Threads suffice: TensorFlow decodes outside of Python's lock.
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        # Some at a time: each that is waited for takes 2 KB, and there may be millions.
        starts = range(0, len(files), _WAITING)
        looked = itertools.chain.from_iterable(
            pool.map(attempt, range(i, i + _WAITING), files[i : i + _WAITING]) for i in starts
        )
        results = list(console.counted(looked, len(files), "checking images"))
    finally:  # after Ctrl-C, nobody waits for thousands of files
        pool.shutdown(cancel_futures=True)
    images = [result if isinstance(result, Image) else None for result in results]
    bad = [(f, r) for f, r in zip(files, results, strict=True) if isinstance(r, str)]
    return images, bad, arrays


@functools.lru_cache(maxsize=8)  # optimising the graph of all formats takes half a second
def _resizer(image_size: tuple[int, int]):
    """Return a function like `_look`, of the picture as evaluation sees it."""

    def resized(encoded):
        image, side = _look(encoded)
        return tf.cast(preparation.evaluation(image, image_size, 1.0), tf.uint8), side

    # (Of a function with a name, TensorFlow's errors tell where it is defined, not what is wrong.)
    spec = tf.TensorSpec([], tf.string)
    return tf.function(lambda x: resized(x), input_signature=[spec], autograph=False)


def _look(encoded) -> tuple[tf.Tensor, tf.Tensor]:
    """Return a picture, uint8 [H, W, 3], and its shorter side."""
    image = preparation.decode(encoded)
    return image, tf.reduce_min(tf.shape(image)[:2])


def _reason(path: pathlib.Path, error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if not path.stat().st_size:
        return "empty file"
    # "{{function_node ...}} Invalid PNG data, size 80 [Op:DecodeImage]"
    text = str(error).split("}} ")[-1].split(" [Op:")[0].splitlines()[0]
    return text.removeprefix("assertion failed: [").removesuffix("]")
