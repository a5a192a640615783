"""What a network can be shipped as. Imports nothing large: a wrong flag is reported at once."""

import importlib.util
from collections.abc import Iterable, Sequence

from xkd_keras.errors import FlagError, InputError

# TFLite files, and how each is made; in the order of the tables.
VARIANTS = {
    "float32": "as trained",
    "float16": "weights in half precision, computes in float32",
    "dynamic": "weights int8, activations float32 (dynamic range)",
    "int8": "weights and activations int8 (post-training)",
    "int16x8": "weights int8, activations int16 (post-training)",
}
PRECISION = (
    "Share of answers that should be right, such as 0.95. A threshold for it is chosen on the"
    " validation images; less certain answers count as none of the classes; 0: no threshold."
    " Default: as in the last export."
)
SAVED_MODEL = "savedmodel"
# What a network is exported as where nothing is chosen. int16x8 is 20 times slower than int8 where
# there are no kernels for it, so that to try it on all images takes longer than all the rest.
KINDS = (SAVED_MODEL, "float32", "float16", "dynamic", "int8")
ONNX = "onnx"
CHOICES = (SAVED_MODEL, *VARIANTS, ONNX)
_OF_ONNX = {  # the packages of the extra in pyproject.toml, and which versions of them
    "onnx": "onnx>=1.18,<1.24",
    "onnxruntime": "onnxruntime>=1.20,<2",
    "tf2onnx": "tf2onnx>=1.17,<1.18",
}


def check_variants(names: Iterable[str]) -> None:
    """Raise FlagError for a variant that is not there, InputError where its packages are not."""
    for name in names:
        if name not in CHOICES:
            raise FlagError.unknown("variant", name, CHOICES)
    missing = missing_for_onnx() if ONNX in names else []
    if missing:
        line = f"{without_onnx(missing)[:-1]}; valid without it: {', '.join(KINDS)}."
        raise InputError(line, argument="variant")


def without_onnx(missing: Sequence[str]) -> str:
    """Return what to do about missing packages, as a sentence."""
    packages = " ".join(f"'{_OF_ONNX[name]}'" for name in missing)
    return f"onnx needs {' and '.join(missing)}; run `pip install {packages}`."


def missing_for_onnx() -> list[str]:
    """Return the packages that ONNX files need and that are not installed."""
    return [name for name in _OF_ONNX if importlib.util.find_spec(name) is None]
