"""Which of the splits of a TFDS data set serve for training, validation and the test."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from xkd_keras.data.content import Request
from xkd_keras.data.sources import Source, Split
from xkd_keras.data.splits import FIXED_SEED, stratified_split, three
from xkd_keras.data.tree import PARTS
from xkd_keras.errors import InputError


def find(
    name: str, sizes: Mapping[str, int], labelled: Callable[[str], bool], request: Request
) -> dict[str, str]:
    """Return which split serves as train, as test and, if any, as validation.

    Args:
        name: Of the data set, for messages.
        sizes: Examples of each split.
        labelled: Whether a split has labels.
        request: Where classes are known, nothing is learned: train may be missing.

    Raises:
        InputError: There is no split for training.
    """
    present = [split for split, count in sizes.items() if count]
    named = {part: next((w for w in words if w in present), "") for part, words in PARTS.items()}
    found = {part: split for part, split in named.items() if split and labelled(split)}
    if "train" not in found and not (request.class_names and found):
        raise InputError(
            f"{name} has no 'train' split, but {', '.join(present)}.", argument="dataset"
        )
    if "test" not in found:
        found["test"] = found.pop("validation", found.get("train"))
    return found


def about(sizes: Mapping[str, int], serving: Mapping[str, str]) -> Iterator[str]:
    """Yield what of a data set's splits is not used as its name says."""
    unused = [split for split in sizes if split not in serving.values()]
    test, train = serving["test"], serving.get("train")
    if test not in (*PARTS["test"], train):
        yield f"The test images are its split '{test}'."
    elif test == train and unused:
        yield f"The test images are a fifth of its split '{train}'."
    if unused:
        yield f"These splits are not used: {', '.join(sorted(unused))}."


def about_classes(splits: Sequence[Split], class_names: Sequence[str]) -> Iterator[str]:
    """Yield that the test has classes that training has not, as where it is of other species."""
    train, _, test = (np.unique(split.labels) for split in splits)
    unknown = np.setdiff1d(test, train)
    if len(train) and len(unknown):
        first = ", ".join(class_names[i] for i in unknown[:3])
        yield (
            f"{len(unknown)} classes of the test images have no training image ({first}...):"
            " images of these classes cannot be recognised."
        )


def splits(
    sources: Mapping[str, Source], serving: Mapping[str, str], fraction: float
) -> tuple[Split, Split, Split]:
    """Return the splits for training, validation and the test.

    Args:
        sources: The examples of each split that serves.
        serving: What `find` returned.
        fraction: Of the training images, that is held out for validation; of all, where there is
            no test either.
    """
    test = _whole(sources[serving["test"]])
    if "train" not in serving:
        return Split(test.source, test.positions[:0]), Split(test.source, test.positions[:0]), test
    train = sources[serving["train"]]
    if serving["test"] == serving["train"]:
        parts = stratified_split(train.labels, three(fraction), FIXED_SEED)
        return tuple(Split(train, part) for part in parts)
    if "validation" in serving:
        return _whole(train), _whole(sources[serving["validation"]]), test
    parts = stratified_split(train.labels, (1 - fraction, fraction), FIXED_SEED)
    return Split(train, parts[0]), Split(train, parts[1]), test


def _whole(source: Source) -> Split:
    return Split(source, np.arange(len(source.labels), dtype=np.int64))
