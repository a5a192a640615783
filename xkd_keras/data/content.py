"""What the readers of TFDS data sets and of folders take and give."""

import dataclasses

from xkd_keras.data.names import Preparation
from xkd_keras.data.sources import Split


@dataclasses.dataclass(frozen=True)
class Request:
    """What the readers need of `load`'s arguments; named as there."""

    image_size: tuple[int, int]
    augment: str
    validation_fraction: float
    data_dir: str | None
    skip_unreadable: bool
    cache_bytes: int
    duplicates: str = "warn"
    class_names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Content:
    """What a reader gives: all examples in their splits, and a digest of images and labels."""

    class_names: tuple[str, ...]
    preparation: Preparation
    train: Split
    validation: Split
    test: Split
    digest: str
    skipped: tuple[tuple[str, str], ...] = ()
    duplicates: tuple[tuple[str, tuple[str, ...]], ...] = ()
    notes: tuple[str, ...] = ()
