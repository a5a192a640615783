"""SavedModels: what they answer, and that they need nothing of ours."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy.special import softmax
from tensorflow_serving.apis import prediction_log_pb2

from tests import small_peers
from xkd_keras.errors import InputError
from xkd_keras.ship import savedmodel

SIDE = 20
NAMES = ("robin", "wren", "großer Vogel", "d", "e", "f")


@pytest.fixture(scope="module")
def models():
    shape = (SIDE, SIDE, 3)
    return {"a": small_peers.plain(shape, 6), "b": small_peers.normalised(shape, 6)}


@pytest.fixture(scope="module")
def path(models, tmp_path_factory):
    """The ensemble of two peers, the second with three quarters of the say, half of it cropped."""
    path = tmp_path_factory.mktemp("savedmodel") / "birds" / "1"
    example = np.zeros((SIDE, SIDE, 3), np.uint8)
    savedmodel.write(path, models, {"a": 0.25, "b": 0.75}, NAMES, 0.5, example, "birds")
    return path


@pytest.fixture(scope="module")
def caller(path):
    """That SavedModel, as this package calls it: no call changes it."""
    return savedmodel.Caller(path)


@pytest.fixture(scope="module")
def loaded(path):
    """That SavedModel, as anybody loads it."""
    return tf.saved_model.load(str(path))


def pixels(n):
    return np.random.default_rng(2).integers(0, 256, (n, SIDE, SIDE, 3), np.uint8)


def together(models, images):
    a, b = (models[name](np.float32(images)).numpy() for name in "ab")
    return 0.25 * a + 0.75 * b


@pytest.mark.parametrize("shape", [(SIDE, SIDE, 3), (2, 2 * SIDE, SIDE, 3), (2, SIDE, SIDE, 1)])
@pytest.mark.parametrize("kind", ["default", "uint8"])
def test_pixels_of_another_shape_are_an_error_that_can_be_caught(loaded, shape, kind):
    call = loaded.signatures[f"serving_{kind}"]
    zeros = tf.zeros(shape, "float32" if kind == "default" else kind)
    with pytest.raises(tf.errors.InvalidArgumentError, match="shape"):
        call(pixels=zeros)


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize(
    ("signature", "kind"), [("serving_default", "float32"), ("serving_uint8", "uint8")]
)
def test_pixels_become_the_weighted_mean_of_the_logits(models, loaded, signature, kind, n):
    answers = loaded.signatures[signature](pixels=tf.constant(pixels(n).astype(kind)))
    assert set(answers) == {"logits", "probabilities"}
    expected = together(models, pixels(n))
    np.testing.assert_allclose(answers["logits"], expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(answers["probabilities"], softmax(expected, axis=-1), atol=1e-5)


def encoded(image, kind):
    target = io.BytesIO()
    Image.fromarray(image).save(target, kind)
    return target.getvalue()


def test_encoded_images_of_any_size_are_prepared_as_in_evaluation(models, caller):
    # crop_ratio 0.5: of an image twice the side, what is left is its centre, to the bit.
    large = np.random.default_rng(3).integers(0, 256, (2 * SIDE, 4 * SIDE, 3), np.uint8)
    square = np.random.default_rng(4).integers(0, 256, (2 * SIDE, 2 * SIDE, 3), np.uint8)
    half = SIDE // 2
    seen = [
        large[half : half + SIDE, SIDE + half : SIDE + half + SIDE],
        square[half : half + SIDE, half : half + SIDE],
    ]
    answers = caller.of_bytes([encoded(large, "PNG"), encoded(square, "BMP")])
    expected = together(models, np.stack(seen))
    np.testing.assert_allclose(answers["logits"], expected, rtol=1e-5, atol=1e-4)
    order = np.argsort(-expected, axis=-1)[:, :5]
    np.testing.assert_array_equal(answers["classes"], order)
    named = [[label.decode() for label in row] for row in answers["labels"]]
    assert named == [[NAMES[i] for i in row] for row in order]
    top = np.take_along_axis(softmax(expected, axis=-1), order, axis=-1)
    np.testing.assert_allclose(answers["scores"], top, atol=1e-5)


def test_what_is_no_image_is_an_error_of_the_request(caller):
    with pytest.raises(tf.errors.InvalidArgumentError):
        caller.of_bytes([b"no image"])


@pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000), (60_000, 60_000)])
def test_an_image_that_would_be_too_large_is_an_error_of_the_request(caller, size):
    strip = encoded(pixels(1)[0], "PNG")
    head = struct.pack(">II", *size) + strip[24:29]
    large = strip[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + strip[33:]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"The image has .*; valid: sides up"):
        caller.of_bytes([strip, large])


def test_a_strip_is_answered_by_its_centre(caller):
    strip = encoded(np.zeros((1, 60_000, 3), np.uint8), "PNG")
    black = encoded(np.zeros((9, 9, 3), np.uint8), "PNG")
    answers = caller.of_bytes([strip, black])["logits"]
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-5, atol=1e-5)


def test_labels_are_assets(path, caller):
    assert (path / "assets" / "labels.txt").read_text().splitlines() == list(NAMES)
    assert caller.labels() == NAMES


def test_every_signature_is_warmed_up_by_a_request_that_it_can_answer(path, loaded):
    records = tf.data.TFRecordDataset(str(path / "assets.extra" / "tf_serving_warmup_requests"))
    seen = []
    for record in records:
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        assert request.model_spec.name == "birds"
        seen.append(request.model_spec.signature_name)
        inputs = {name: tf.constant(tf.make_ndarray(t)) for name, t in request.inputs.items()}
        assert loaded.signatures[seen[-1]](**inputs)["logits"].shape == (1, 6)
    assert set(seen) == set(loaded.signatures)


def test_a_process_without_this_package_classifies_a_png(models, path, tmp_path):
    (tmp_path / "image.png").write_bytes(encoded(pixels(1)[0], "PNG"))
    code = f"""
import sys, tensorflow as tf
model = tf.saved_model.load({str(path)!r})
found = model.signatures["serving_bytes"](image_bytes=tf.constant([open("image.png", "rb").read()]))
print(found["labels"].numpy()[0][0].decode())
assert not any(name.split(".")[0] == "xkd_keras" for name in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() in NAMES


def test_a_version_is_never_written_over(path, tmp_path):
    base, made = path.parent, tmp_path / "made"
    made.mkdir()
    before = (path / "saved_model.pb").read_bytes()
    with pytest.raises(InputError, match=r"^version: .*birds/1 already exists; valid: a new"):
        savedmodel.place(made, base, 1)
    assert (path / "saved_model.pb").read_bytes() == before
    assert savedmodel.versions(base) == [1]


def test_another_failure_to_place_a_version_is_told_as_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError):
        savedmodel.place(tmp_path / "gone", tmp_path / "birds", 1)


def test_versions_are_numbers_and_nothing_else(tmp_path):
    for name in ("2", "10", ".partial-3", "notes", "x1"):
        (tmp_path / name).mkdir()
    assert savedmodel.versions(tmp_path) == [2, 10]
    assert savedmodel.versions(tmp_path / "missing") == []


@pytest.mark.parametrize("content", ["", "nothing"])
def test_what_is_no_savedmodel_is_told(tmp_path, content):
    (tmp_path / "saved_model.pb").write_text(content)
    with pytest.raises(InputError, match="is not a SavedModel of xkd_keras"):
        savedmodel.Caller(tmp_path)
