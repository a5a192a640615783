"""Data: `load` a data set, then `train_batches` and `eval_batches` for Keras.

Names resolve when first used: importing TensorFlow takes seconds, and `check`, which the command
line calls first, does without it.
"""

import importlib

_LAZY = {
    "Dataset": "dataset",
    "about_reading": "dataset",
    "check": "names",
    "check_augment": "names",
    "eval_batches": "pipeline",
    "has_test": "layout",
    "holds_training_images": "layout",
    "is_folder": "names",
    "images": "pipeline",
    "labels": "pipeline",
    "places": "pipeline",
    "load": "dataset",
    "read": "dataset",
    "readable": "dataset",
    "resolve": "names",
    "same": "names",
    "size_text": "names",
    "steps_per_epoch": "pipeline",
    "train_batches": "pipeline",
    "training_files": "layout",
    "usual_batch": "pipeline",
}
__all__ = sorted(_LAZY)


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
