"""What is known of a file: its size and checksum, and how well it answers."""

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xkd_keras.errors import InputError
from xkd_keras.report import by_class
from xkd_keras.runs import scoring

TOLERANCE = 1e-4  # of what computes in float32: logits, relative to 1 or more; probabilities
SMALLEST = 1e-7  # an int8 file says 0 where the network was sure: its logarithm must be finite
_SCORES = ("top1", "balanced_accuracy", "cross_entropy", "brier", "ece")


def size(path: Path) -> dict[str, object]:
    """Return the sha256, the size and the gzip size in bytes, of a file or all of a directory.

    A directory's sha256 is that of its files' names and sha256 sums, in the order of the names, as
    `sha256sum` prints them.
    """
    if path.is_file():
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        return {"sha256": digest, "bytes": len(content), "gzip_bytes": _zipped(content)}
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    parts = [(name, files[name].read_bytes()) for name in sorted(files)]
    lines = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in parts)
    return {
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "bytes": sum(len(content) for _, content in parts),
        "gzip_bytes": sum(_zipped(content) for _, content in parts),
    }


def _zipped(content: bytes) -> int:
    return len(gzip.compress(content, mtime=0))


def weights(kernels: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the `sparsity`, the share of zeros, and the `unique_weights` of kernels.

    Unique weights are the different values in one output channel, the most of any: folding a batch
    norm and quantising scale each channel by a factor of its own; clusters survive only there.

    Args:
        kernels: [channels out, ...], as a file stores them.
    """
    zeros = sum(int(np.sum(kernel == 0)) for kernel in kernels)
    total = sum(kernel.size for kernel in kernels)
    return {
        "sparsity": zeros / total if total else 0.0,
        "unique_weights": max((len(np.unique(c)) for kernel in kernels for c in kernel), default=0),
    }


def largest_difference(logits: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest difference of logits, relative where those of reference are above 1."""
    return float(np.max(np.abs(logits - reference) / np.maximum(1.0, np.abs(reference))))


def same(file: str, difference: float) -> None:
    """Raise InputError where a float32 file is further from Keras than rounding explains."""
    if not difference <= TOLERANCE:
        raise InputError(
            f"{file}: differs from the Keras model by {difference:.2g}, more than {TOLERANCE:g}."
        )


def quality(labels: np.ndarray, reference: np.ndarray, given: np.ndarray) -> Mapping[str, float]:
    """Return how well probabilities answer, and how far they are from a reference.

    Top-1 and balanced accuracy, cross-entropy, Brier score and ece as `scoring.scores`; for each
    class how many images got it rightly and how many got it at all (`right`, `answered`); the share
    of images with the reference's answer, and the largest difference of a probability.

    Args:
        labels: int [n], the true classes.
        reference: float [n, classes], the Keras peer's probabilities.
        given: float [n, classes], the file's.
    """
    answers = given.argmax(-1)
    scores = scoring.scores(labels, np.log(np.maximum(given, SMALLEST)))
    right, answered = by_class.counts(labels, answers, given.shape[-1])
    return {
        **{key: scores[key] for key in _SCORES},
        "right": right.tolist(),
        "answered": answered.tolist(),
        "agreement": float(np.mean(answers == reference.argmax(-1))),
        "max_difference": float(np.abs(given - reference).max()),
    }
