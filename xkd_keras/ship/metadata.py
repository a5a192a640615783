"""Standard TFLite metadata: what an app reads to use a file without being told how.

The metadata of a TFLite model is a FlatBuffer of `metadata_schema.fbs` (tflite-support) in an entry
of the model's own FlatBuffer, and a ZIP with the files that it names, appended to the model. The
packages that used to write it are no longer kept, so the few tables that a classifier needs are
built here; the numbers of their fields are those of that schema.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from xkd_keras.errors import InputError
from xkd_keras.ship import tables

ENTRY, IDENTIFIER = b"TFLITE_METADATA", b"M001"
LABELS, THRESHOLD, CROP_RATIO = "labels.txt", "threshold.txt", "crop_ratio.txt"
_RGB = 1  # ColorSpaceType
_IMAGE_PROPERTIES = 2  # ContentProperties
_NORMALIZATION_OPTIONS, _SCORE_THRESHOLDING_OPTIONS = 1, 3  # ProcessUnitOptions
_TENSOR_AXIS_LABELS = 2  # AssociatedFileType
_PARSER = "1.0.0"


def pack(
    model: bytes,
    name: str,
    description: str,
    labels: Sequence[str],
    threshold: float = 0.0,
    crop_ratio: float = 1.0,
) -> bytes:
    """Return a TFLite model of an image classifier with metadata; anything later would drop it.

    Args:
        model: A TFLite file: one image of pixels 0..255 -> the probabilities of the classes.
        name: Of the network.
        description: A line for people.
        labels: The classes in the order of the output.
        threshold: Probability below which an answer is none; 0: there is none.
        crop_ratio: As in evaluation; see `data.preparation.evaluation`.

    Returns:
        The same model with metadata that says: an RGB image, pixels as they are (mean 0, standard
        deviation 1, as normalisation is in the model), one probability a label.
    """
    whole = tables.read(model)
    _, height, width, _ = whole.subgraphs[0].tensors[whole.subgraphs[0].inputs[0]].shape
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(
        _metadata(name, description, int(height), int(width), threshold), np.uint8
    )
    whole.buffers.append(buffer)
    entry.name, entry.buffer = ENTRY, len(whole.buffers) - 1
    whole.metadata = [*(whole.metadata or []), entry]
    packed = io.BytesIO(tables.write(whole))
    packed.seek(0, io.SEEK_END)
    with zipfile.ZipFile(packed, "a") as archive:
        # A fixed date: the same model makes the same file.
        archive.writestr(zipfile.ZipInfo(LABELS), as_lines(labels))
        # Exactly: the threshold is an answer of the file, and rounded up it would reject that one.
        if threshold:  # beside its entry in the metadata, for apps that do not read those
            archive.writestr(zipfile.ZipInfo(THRESHOLD), f"{float(threshold)!r}\n")
        if crop_ratio != 1:  # for which the metadata have no entry
            archive.writestr(zipfile.ZipInfo(CROP_RATIO), f"{float(crop_ratio)!r}\n")
    return packed.getvalue()


def as_lines(labels: Sequence[str]) -> str:
    """Return the content of a file of labels.

    Raises:
        InputError: A label holds the end of a line: readers would take it for two.
    """
    for label in labels:
        if "\n" in label or "\r" in label:
            raise InputError(
                f"received {label!r}, which contains a line break; valid: names of one line, as"
                " label files have one name per line.",
                argument="class_names",
            )
    return "".join(f"{label}\n" for label in labels)


def from_lines(text: str) -> tuple[str, ...]:
    """Return the labels of such a file; a label may hold what Python too takes for a line's end."""
    return tuple(text.split("\n")[:-1])


def labels(model: bytes) -> tuple[str, ...]:
    """Return the labels packed in a TFLite file.

    Raises:
        InputError: There are none.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            return from_lines(archive.read(LABELS).decode())
    except (zipfile.BadZipFile, KeyError):
        raise InputError(
            "contains no labels; valid: a file made by xkd_keras.export, with its metadata."
        ) from None


def crop_ratio(model: bytes) -> float:
    """Return how images are to be cropped for a TFLite file: what was given to `pack`."""
    with zipfile.ZipFile(io.BytesIO(model)) as archive:
        return float(archive.read(CROP_RATIO)) if CROP_RATIO in archive.namelist() else 1.0


def _metadata(name: str, description: str, height: int, width: int, threshold: float) -> bytes:
    """Return the ModelMetadata of an image classifier as a FlatBuffer."""
    build = flatbuffers.Builder(1024)

    def text(value: str) -> tuple[str, int]:
        return "UOffsetTRelative", build.CreateString(value)

    def table(fields: Mapping[int, tuple[str, int]]) -> tuple[str, int]:
        build.StartObject(max(fields) + 1)
        for slot, (kind, value) in fields.items():
            getattr(build, f"Prepend{kind}Slot")(slot, value, 0)
        return "UOffsetTRelative", build.EndObject()

    def several(*members: tuple[str, int]) -> tuple[str, int]:
        build.StartVector(4, len(members), 4)
        for _, offset in reversed(members):
            build.PrependUOffsetTRelative(offset)
        return "UOffsetTRelative", build.EndVector()

    def numbers(value: float) -> tuple[str, int]:
        return "UOffsetTRelative", build.CreateNumpyVector(np.array([value], np.float32))

    size = table({0: ("Uint32", width), 1: ("Uint32", height)})
    image = table({0: ("Int8", _RGB), 1: size})
    content = table({0: ("Uint8", _IMAGE_PROPERTIES), 1: image})
    scaling = table({0: numbers(0.0), 1: numbers(1.0)})
    unit = table({0: ("Uint8", _NORMALIZATION_OPTIONS), 1: scaling})
    stats = table({0: numbers(255.0), 1: numbers(0.0)})
    pixels = table(
        {
            0: text("image"),
            1: text("RGB pixels, 0 to 255; the model normalises them itself."),
            3: content,
            4: several(unit),
            5: stats,
        }
    )
    file = table({0: text(LABELS), 1: text("Classes."), 2: ("Int8", _TENSOR_AXIS_LABELS)})
    range_ = table({0: numbers(1.0), 1: numbers(0.0)})
    outputs = {0: text("probability"), 1: text("Of each class."), 5: range_, 6: several(file)}
    if threshold:
        least = table({0: ("Float32", threshold)})
        outputs[4] = several(table({0: ("Uint8", _SCORE_THRESHOLDING_OPTIONS), 1: least}))
    probabilities = table(outputs)
    graph = table({2: several(pixels), 3: several(probabilities)})
    whole = table({0: text(name), 1: text(description), 3: several(graph), 7: text(_PARSER)})
    build.Finish(whole[1], IDENTIFIER)
    return bytes(build.Output())
