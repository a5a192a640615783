"""What the answers of several networks on the same images say: who confuses what, who differs."""

from collections.abc import Mapping, Sequence

import numpy as np

from xkd_keras.data import splits

MATRIX = 30  # classes that a person can still read in one matrix; of more, the most confused
MOST_CONFUSED = 20
NEAR = 0.005  # of top-1: half a point, which nobody will notice
ENOUGH = 200  # validation images: of fewer, half a point is not even one
MORE = (
    "Where a data set has no validation images of its own, a larger --validation_fraction gives"
    " more."
)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share measured on `n` images; (0, 1) for n = 0."""
    if not n:
        return 0.0, 1.0
    z = 1.959963984540054
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(float(centre - half), 0.0), min(float(centre + half), 1.0)


def guesses(share: float, data: Mapping) -> bool:
    """Whether a network with this top-1 may know no more than to name the largest class.

    Args:
        share: Top-1 on the test images.
        data: `examples` and `class_counts` by split, and `class_names`, as in metrics.json.
    """
    largest = largest_class(data)
    least = largest[1] if largest else 1 / len(data["class_names"])
    return wilson(share, data["examples"]["test"])[0] <= least


def uneven(data: Mapping) -> bool:
    """Whether training or test images are of uneven classes; `data` has `class_counts` if known."""
    counts = data.get("class_counts", {})
    return any(splits.uneven(counts.get(split, [])) for split in ("train", "test"))


def largest_class(data: Mapping) -> tuple[str, float] | None:
    """Return the class with the most test images and its share; None of an earlier version."""
    counts = data.get("class_counts", {}).get("test", [])
    if not sum(counts):
        return None
    most = int(np.argmax(counts))
    return data["class_names"][most], counts[most] / sum(counts)


def shipped(metrics: Mapping, manifest: Mapping | None) -> str:
    """Return the network that a person ships: the one advised, else the best, else the smallest."""
    chosen = advised(manifest) if manifest else None
    peers = metrics["peers"]
    if chosen and chosen["network"] in peers:
        return chosen["network"]
    return max(peers, key=lambda name: (peers[name]["top1"], -peers[name]["parameters"]))


def timed(artifacts: Sequence[Mapping]) -> list[Mapping]:
    """Return the TFLite files whose latency was measured."""
    return [each for each in artifacts if each["kind"] == "tflite" and "latency_ms" in each]


def advised(manifest: Mapping) -> Mapping | None:
    """Return the TFLite file to take: the fastest of those nearly as accurate as the best.

    Nearly is half a point, on the validation images: the test images only tell how well the choice
    does. None without files whose latency was measured, or with fewer than `ENOUGH` validation
    images.
    """
    files = timed(manifest["artifacts"])
    if not files or manifest["examples"]["validation"] < ENOUGH:
        return None
    best = max(entry["validation_top1"] for entry in files)
    near = [entry for entry in files if entry["validation_top1"] >= best - NEAR]
    return min(near, key=lambda e: (e["latency_ms"]["median"], e["bytes"]))


def confusion(labels: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """Return int [classes, classes]: how many images of a class (row) got an answer (column)."""
    flat = np.bincount(labels * classes + answers, minlength=classes * classes)
    return flat.reshape(classes, classes)


def confused_pairs(counts: np.ndarray) -> list[tuple[int, int, int]]:
    """Return (true class, answer, images) for every confusion, the most frequent first."""
    pairs = [(int(t), int(a), int(counts[t, a])) for t, a in np.argwhere(counts) if t != a]
    return sorted(pairs, key=lambda pair: -pair[2])


def classes_shown(counts: np.ndarray) -> list[int]:
    """Return the classes of the matrix: all, or of many the most confused, side by side."""
    if len(counts) <= MATRIX:
        return list(range(len(counts)))
    ranked = [index for true, answer, _ in confused_pairs(counts) for index in (true, answer)]
    return list(dict.fromkeys(ranked))[:MOST_CONFUSED]
