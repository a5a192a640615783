"""Networks of keras.applications as peers, against Keras with its own preprocessing."""

import importlib

import keras
import numpy as np
import pytest

from tests.peers.test_starting import logits, shaken
from xkd_keras import peers
from xkd_keras.errors import InputError
from xkd_keras.peers import catalogue

SHAPE = (32, 32, 3)
PIXELS = np.random.default_rng(0).uniform(0, 255, (2, *SHAPE)).astype("float32")
# The module of each, where its own preprocess_input is.
MODULES = {
    "MobileNetV3Small": "mobilenet_v3",  # normalises inside
    "MobileNetV2": "mobilenet_v2",  # -1..1
    "MobileNet": "mobilenet",  # its last layer is a convolution, which it reshapes
    "EfficientNetV2B0": "efficientnet_v2",
    "EfficientNetB0": "efficientnet",  # normalises inside, by weights
    "ResNet50": "resnet",  # blue, green, red
    "ConvNeXtTiny": "convnext",
    "DenseNet121": "densenet",
    "VGG16": "vgg16",
}
# Those of which no other has the preprocessing, or the end, are tried more often.
MARKS = dict.fromkeys(MODULES, pytest.mark.exhaustive)
MARKS |= dict.fromkeys(("MobileNetV2", "MobileNetV3Small", "EfficientNetB0"), pytest.mark.slow)
MARKS |= {"ResNet50": pytest.mark.slow, "MobileNet": ()}


def as_keras_has_it(name, weights):
    """Return a network with weights that it has saved, and its answers to PIXELS."""
    make = getattr(keras.applications, name)
    options = {"weights": None, "input_shape": SHAPE, "classes": 5, "classifier_activation": None}
    model = shaken(make(**options))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
            layer.set_weights([mean, deviation**2, np.array(0)])
    model.save_weights(weights)
    again = make(**options)  # what is set is seen by Normalization when it is loaded
    again.load_weights(weights)
    module = importlib.import_module(f"keras.applications.{MODULES[name]}")
    return again, logits(again, module.preprocess_input(PIXELS.copy()))


def test_every_classifier_of_keras_is_known():
    made = {name for name in dir(keras.applications) if name[0].isupper()}
    assert set(catalogue.EXPECTED) == made


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=marks) for name, marks in MARKS.items()],
)
def test_weights_that_keras_saved_answer_plain_pixels_as_keras_does(name, tmp_path):
    model, want = as_keras_has_it(name, tmp_path / "a.weights.h5")
    assert np.ptp(want) > 0
    start = {"mean": 3.0, "std": 9.0, "start": str(tmp_path / "a.weights.h5")}
    peer = peers.build(f"applications:{name}", SHAPE, 5, **start)
    assert (peer.layers[1].name, peer.layers[-1].name) == ("normalize", "logits")
    scale = np.abs(want).max()
    np.testing.assert_allclose(logits(peer, PIXELS) / scale, want / scale, atol=1e-4)
    model.save(tmp_path / "a.keras")
    peer = peers.build(f"applications:{name}", SHAPE, 5, start=str(tmp_path / "a.keras"))
    np.testing.assert_allclose(logits(peer, PIXELS) / scale, want / scale, atol=1e-4)
    if name in ("MobileNet", "ResNet50"):  # which end in a convolution, and in a dense layer
        # With other classes everything but the last layer is the same.
        fewer = peers.build(f"applications:{name}", SHAPE, 3, **start)
        for ours, theirs in zip(fewer.get_weights()[2:-2], peer.get_weights()[2:-2], strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.fixture
def downloaded(tmp_path, monkeypatch):
    """Let Keras find the weights that it wants to download in a file written here."""
    asked = []

    def write(name):
        model = getattr(keras.applications, name)(weights=None)
        shaken(model).save_weights(tmp_path / "imagenet.weights.h5")

    def get_file(fname, origin, **options):
        asked.append(origin)
        return str(tmp_path / "imagenet.weights.h5")

    # Where keras.applications looks it up.
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    return write, asked


@pytest.mark.filterwarnings("ignore:.input_shape. is undefined or non-square")  # of Keras' model
def test_imagenet_is_what_keras_downloads(downloaded, tmp_path):
    write, asked = downloaded
    write("MobileNetV3Small")
    peer = peers.build("applications:MobileNetV3Small", SHAPE, 4, seed=1, start="imagenet")
    assert len(asked) == 1
    model = keras.applications.MobileNetV3Small(
        weights=None, input_shape=SHAPE, classifier_activation=None
    )
    model.load_weights(tmp_path / "imagenet.weights.h5")
    before = model.get_layer("logits").input  # its classifier is a convolution
    want = logits(keras.Model(model.input, before), PIXELS).reshape(2, -1)
    got = logits(keras.Model(peer.input, peer.get_layer("logits").input), PIXELS)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5 * np.abs(want).max())
    fresh = peers.build("applications:MobileNetV3Small", SHAPE, 4, seed=1)
    np.testing.assert_array_equal(peers.head(peer).kernel, peers.head(fresh).kernel)


def test_imagenet_that_cannot_be_downloaded_is_one_line(monkeypatch):
    def offline(*args, **options):
        raise Exception("URL fetch failure on\nhost: None -- unreachable")  # as Keras does

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", offline)
    with pytest.raises(InputError, match="could not get the weights of MobileNetV2") as caught:
        peers.build("applications:MobileNetV2", SHAPE, 4, start="imagenet")
    assert "\n" not in str(caught.value)
    assert caught.value.argument == "start"


def test_a_body_without_its_classifier_gives_a_new_last_layer(tmp_path):
    model = keras.applications.MobileNet(weights=None, input_shape=SHAPE, include_top=False)
    shaken(model).save_weights(tmp_path / "body.weights.h5")
    start = str(tmp_path / "body.weights.h5")
    peer = peers.build("applications:MobileNet", SHAPE, 4, start=start)
    for got, want in zip(peer.get_weights()[2:-2], model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("MobileNetV4", SHAPE, "unknown value 'applications:MobileNetV4'. Did you mean 'applic"),
        ("mobilenetv2", SHAPE, "Did you mean 'applications:MobileNetV2'?"),
        ("NASNetMobile", (16, 16, 3), "16x16 does not suit NASNetMobile"),
    ],
)
def test_what_is_no_network_of_keras_is_named(name, shape, message):
    with pytest.raises(InputError) as caught:
        peers.build(f"applications:{name}", shape, 5)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_moving_statistics_follow_as_fast_as_ours():
    peer = peers.build("applications:MobileNetV3Small", SHAPE, 2)
    momenta = {x.momentum for x in peer.layers if isinstance(x, keras.layers.BatchNormalization)}
    assert momenta == {0.9}
