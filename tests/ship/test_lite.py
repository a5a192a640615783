"""Every TFLite variant against Keras, and what is no such file."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from tests import statistics
from xkd_keras import peers
from xkd_keras.errors import InputError
from xkd_keras.peers import densenet, mobilenet
from xkd_keras.ship import lite, variants

SHAPE = (20, 20, 3)


def images(n, shape=SHAPE):
    """Smooth images: quantisation is measured on something like pictures."""
    rough = np.random.default_rng(1).integers(0, 256, (n, 4, 4, 3))
    return tf.image.resize(rough, shape[:2]).numpy().astype(np.uint8)


@pytest.fixture(scope="module")
def model():
    """A network with batch norm whose moving statistics are those of the images."""
    return settled(peers.build("tests.small_peers:normalised", SHAPE, 5, seed=3))


def settled(model):
    """Give batch norm the statistics of images, as training does."""
    return statistics.settle(model, images(64, model.input_shape[1:]))


@pytest.fixture(scope="module")
def convert(model):
    with lite.converters(model) as function:
        yield function


@pytest.mark.parametrize(
    ("variant", "tolerance"),
    [("float32", 1e-5), ("float16", 0.01), ("dynamic", 0.03), ("int8", 0.05), ("int16x8", 0.03)],
)
def test_a_variant_answers_as_keras_does(model, convert, variant, tolerance):
    given = images(32)
    expected = softmax(model.predict(given, verbose=0), axis=-1)
    answers = lite.Lite(convert(variant, images(50)))(given)
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, expected, atol=tolerance)


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_images_that_are_computed_side_by_side_keep_their_places(convert, threads):
    content, given = convert("int8", images(50)), images(8)
    call, alone = lite.Lite(content, threads), [lite.Lite(content, 1)(i[None])[0] for i in given]
    for chosen in (slice(0), slice(1), slice(None), slice(None, None, -1)):
        answers = call(given[chosen])
        np.testing.assert_array_equal(answers, np.reshape(alone[chosen], (-1, call.classes)))


@pytest.mark.parametrize(("variant", "tolerance"), [("float32", 1e-5), ("int8", 0.05)])
def test_a_temperature_divides_the_logits_whichever_way_it_comes_in(model, variant, tolerance):
    given = images(32)
    expected = softmax(model.predict(given, verbose=0) / 2.5, axis=-1)
    with lite.converters(model, 2.5) as convert:
        folded = convert(variant, images(50))
    with lite.converters(model) as convert:
        after = lite.tempered(convert(variant, images(50)), 2.5)
    for content in (folded, after):
        np.testing.assert_allclose(lite.Lite(content)(given), expected, atol=tolerance)


def test_one_image_starts_no_thread(convert, monkeypatch):
    call, one = lite.Lite(convert("float32", None)), images(1)
    expected = call(np.concatenate([one] * 2))[:1]
    monkeypatch.delattr(lite.concurrent.futures, "ThreadPoolExecutor")
    np.testing.assert_array_equal(call(one), expected)


def test_weights_of_an_int8_file_take_a_byte_each(model, convert):
    whole, small = convert("float32", None), convert("int8", images(20))
    kernels = sum(v.numpy().size for v in model.trainable_variables if len(v.shape) > 1)
    from tensorflow.lite.python import schema_py_generated as schema

    def stored(content):
        buffers = schema.ModelT.InitFromPackedBuf(content).buffers
        return [b.data.size for b in buffers if b.data is not None]

    assert sum(stored(whole)) >= 4 * kernels
    assert kernels <= sum(stored(small)) < 2 * kernels + 2000


def test_floats_are_found_inside_but_not_at_the_edges(convert):
    assert lite.floats(convert("int8", images(20))) == []
    assert lite.floats(convert("dynamic", None))


def test_a_network_without_an_int8_form_is_refused():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Lambda(lambda t: tf.math.erfinv(t / 300.0), output_shape=(8, 8, 3))(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    with (
        lite.converters(model) as convert,
        pytest.raises(
            InputError, match="cannot be made from this network: TFLite has no operation Erfinv"
        ),
    ):
        convert("int8", images(4, (8, 8, 3)))


@pytest.mark.parametrize("content", [b"", b"no model", b"\0\0\0\0TFL3" + b"\0" * 40])
def test_what_is_no_tflite_file_is_told(content):
    line = r"is not a TFLite model that can run here \(.+\); valid: a file of"
    with pytest.raises(InputError, match=line):
        lite.Lite(content)


def test_a_tflite_file_of_something_else_is_told():
    inputs = keras.Input((7,))
    with lite.converters(keras.Model(inputs, keras.layers.Dense(2)(inputs))) as convert:
        content = convert("float32", None)
    with pytest.raises(InputError, match="is not an image classifier made by"):
        lite.Lite(content)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["alexnet", "vgg11", "resnet20", "densenet-bc-40-12", "mobilenet_v2"]
)
def test_every_family_passes_through_every_variant(name, monkeypatch):
    """Stage by stage as the papers have them, of fewer blocks; not all in all kinds of weights."""
    stages = (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 2, 2)
    monkeypatch.setitem(densenet.VARIANTS, "densenet-bc-40-12", (16, 12))
    monkeypatch.setitem(mobilenet.VARIANTS, "mobilenet_v2", stages)
    whole = name in ("resnet20", "vgg11")
    model = settled(peers.build(name, (32, 32, 3), 10, seed=0))
    given = images(8, (32, 32, 3))
    expected = softmax(model.predict(given, verbose=0), axis=-1)
    with lite.converters(model) as convert:
        for variant in variants.VARIANTS if whole else ("float32", "int8"):
            answers = lite.Lite(convert(variant, given))(given)
            np.testing.assert_allclose(answers, expected, atol=0.15, err_msg=variant)
