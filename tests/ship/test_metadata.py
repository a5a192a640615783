"""TFLite metadata: read back by the field numbers of the schema, not by what wrote it."""

import io
import zipfile

import flatbuffers
import numpy as np
import pytest
from flatbuffers import encode, number_types, packer
from flatbuffers.table import Table

from tests import small_peers
from xkd_keras.errors import InputError
from xkd_keras.ship import lite, metadata

LABELS = ("a bird", "größe", "no\x0bline")


@pytest.fixture(scope="module")
def model():
    """A TFLite file of three classes, without metadata."""
    with lite.converters(small_peers.plain((16, 12, 3), 3)) as convert:
        return convert("float32", None)


@pytest.fixture(scope="module")
def packed(model):
    return metadata.pack(model, "small", "A test.", LABELS)


def child(table, slot, vector=False):
    """Return the table in a slot, or the tables of a vector."""
    at = table.Offset(4 + 2 * slot)
    assert at, f"slot {slot} is empty"
    if not vector:
        return Table(table.Bytes, table.Indirect(at + table.Pos))
    start = table.Vector(at)
    return [Table(table.Bytes, table.Indirect(start + 4 * i)) for i in range(table.VectorLen(at))]


def text(table, slot):
    return table.String(table.Offset(4 + 2 * slot) + table.Pos).decode()


def scalar(table, slot, flags):
    return table.Get(flags, table.Offset(4 + 2 * slot) + table.Pos)


def floats(table, slot):
    at = table.Offset(4 + 2 * slot)
    start = table.Vector(at)
    return [table.Get(number_types.Float32Flags, start + 4 * i) for i in range(table.VectorLen(at))]


@pytest.mark.parametrize("change", [lambda model: model, lambda model: lite.tempered(model, 2.0)])
def test_constants_are_aligned_as_the_schema_asks(model, change):
    """`force_align: 16` of Buffer.data, checked at the bytes of the file."""
    from tensorflow.lite.python import schema_py_generated as schema

    packed = metadata.pack(change(model), "small", "A test.", LABELS)
    tables = schema.Model.GetRootAsModel(packed, 0)
    starts = [
        buffer._tab.Vector(offset)
        for buffer in (tables.Buffers(i) for i in range(tables.BuffersLength()))
        if (offset := buffer._tab.Offset(4))
    ]
    assert len(starts) > 4
    assert [start % 16 for start in starts] == [0] * len(starts)


@pytest.fixture(scope="module")
def root(packed):
    from tensorflow.lite.python import schema_py_generated as schema

    return _root(schema, packed)


def _root(schema, packed):
    """Return the metadata's root table, found through the entry in the model."""
    tables = schema.Model.GetRootAsModel(packed, 0)
    entries = [tables.Metadata(i) for i in range(tables.MetadataLength())]
    (entry,) = [each for each in entries if each.Name() == b"TFLITE_METADATA"]
    content = tables.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
    assert flatbuffers.util.BufferHasIdentifier(content, 0, b"M001")
    return Table(bytearray(content), encode.Get(packer.uoffset, content, 0))


def test_metadata_describe_an_rgb_image_of_plain_pixels(root):
    assert (text(root, 0), text(root, 1)) == ("small", "A test.")
    (graph,) = child(root, 3, vector=True)
    (pixels,) = child(graph, 2, vector=True)
    content = child(pixels, 3)
    assert scalar(content, 0, number_types.Uint8Flags) == 2  # ImageProperties
    image = child(content, 1)
    assert scalar(image, 0, number_types.Int8Flags) == 1  # RGB
    size = child(image, 1)
    assert scalar(size, 0, number_types.Uint32Flags) == 12  # width
    assert scalar(size, 1, number_types.Uint32Flags) == 16
    (unit,) = child(pixels, 4, vector=True)
    assert scalar(unit, 0, number_types.Uint8Flags) == 1  # NormalizationOptions
    options = child(unit, 1)
    assert (floats(options, 0), floats(options, 1)) == ([0.0], [1.0])
    stats = child(pixels, 5)
    assert (floats(stats, 0), floats(stats, 1)) == ([255.0], [0.0])


def test_metadata_name_the_file_of_labels(root, packed):
    (graph,) = child(root, 3, vector=True)
    (probabilities,) = child(graph, 3, vector=True)
    (file,) = child(probabilities, 6, vector=True)
    assert scalar(file, 2, number_types.Int8Flags) == 2  # TENSOR_AXIS_LABELS
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.read(text(file, 0)).decode() == "".join(f"{each}\n" for each in LABELS)
    assert metadata.labels(packed) == LABELS


def test_a_threshold_is_in_the_metadata_and_beside_the_labels(model, packed):
    from tensorflow.lite.python import schema_py_generated as schema

    with_threshold = metadata.pack(model, "small", "A test.", LABELS, 0.8125)
    (graph,) = child(_root(schema, with_threshold), 3, vector=True)
    (probabilities,) = child(graph, 3, vector=True)
    (unit,) = child(probabilities, 4, vector=True)
    assert scalar(unit, 0, number_types.Uint8Flags) == 3  # ScoreThresholdingOptions
    assert scalar(child(unit, 1), 0, number_types.Float32Flags) == 0.8125
    with zipfile.ZipFile(io.BytesIO(with_threshold)) as archive:
        assert float(archive.read("threshold.txt")) == 0.8125
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert "threshold.txt" not in archive.namelist()


@pytest.mark.parametrize("threshold", [255 / 256, float(np.float32(0.1)), 1e-5])
def test_a_threshold_is_kept_to_the_last_bit(model, threshold):
    # It is an answer of the file itself: rounded up, it would reject the answer that it is.
    packed = metadata.pack(model, "small", "A test.", LABELS, threshold)
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert float(archive.read("threshold.txt")) == threshold


def test_a_crop_is_beside_the_labels_where_there_is_one(model, packed):
    cropped = metadata.pack(model, "small", "A test.", LABELS, crop_ratio=0.875)
    with zipfile.ZipFile(io.BytesIO(cropped)) as archive:
        assert archive.read("crop_ratio.txt") == b"0.875\n"
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.namelist() == ["labels.txt"]


def test_packing_changes_no_answer_and_is_repeatable(model, packed):
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 12, 3))
    np.testing.assert_array_equal(lite.Lite(packed)(images), lite.Lite(model)(images))
    assert metadata.pack(model, "small", "A test.", LABELS) == packed


def test_a_file_without_labels_is_told(model):
    with pytest.raises(InputError, match="contains no labels; valid: a file made by"):
        metadata.labels(model)


@pytest.mark.parametrize("label", ["two\nlines", "two\rlines"])
def test_a_label_of_two_lines_is_refused_as_readers_would_count_one_more(model, label):
    with pytest.raises(InputError, match=r"class_names: received 'two\\[nr]lines'"):
        metadata.pack(model, "small", "A test.", [*LABELS[:2], label])
