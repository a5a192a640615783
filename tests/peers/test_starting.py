"""A peer that starts from trained weights: against the network that has them, in plain Keras."""

import keras
import numpy as np
import pytest

from xkd_keras import peers
from xkd_keras.errors import InputError
from xkd_keras.peers import graphs

SHAPE = (8, 8, 3)
PIXELS = np.random.default_rng(0).uniform(0, 255, (3, *SHAPE)).astype("float32")


def logits(model, images=PIXELS):
    return keras.ops.convert_to_numpy(model(images, training=False))


def features(model, images=PIXELS):
    return logits(keras.Model(model.input, model.get_layer("logits").input), images)


def shaken(model):
    """Return the model with weights, and moving statistics, that no initializer gives."""
    rng = np.random.default_rng(5)
    for layer in graphs.leaves(model):
        if layer.name != "normalize":
            sizes = [(w, 0.5 + rng.random(w.shape)) for w in layer.get_weights()]
            layer.set_weights([w * s if w.any() else 0.1 * s for w, s in sizes])
    return model


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network with unusual statistics of pixels, and its two files."""
    model = shaken(peers.build("resnet20", SHAPE, 5, mean=(10, 20, 30), std=(40, 50, 60), seed=1))
    directory = tmp_path_factory.mktemp("trained")
    model.save(directory / "five.keras")
    model.save_weights(directory / "five.weights.h5")
    return model, directory


FILES = pytest.mark.parametrize("file", ["five.keras", "five.weights.h5"])


@FILES
def test_a_peer_that_starts_from_its_own_file_is_the_network_of_it(trained, file):
    model, directory = trained
    peer = peers.build("resnet20", SHAPE, 5, mean=99.0, start=str(directory / file))
    np.testing.assert_array_equal(logits(peer), logits(model))


@FILES
@pytest.mark.parametrize(("classes", "new_head"), [(3, False), (5, True)])
def test_other_classes_get_a_new_last_layer_of_their_number(trained, file, classes, new_head):
    model, directory = trained
    start = {"start": str(directory / file), "new_head": new_head}
    peer = peers.build("resnet20", SHAPE, classes, seed=2, **start)
    fresh = peers.build("resnet20", SHAPE, classes, seed=2)
    np.testing.assert_array_equal(features(peer), features(model))
    for got, want in zip(peers.head(peer).weights, peers.head(fresh).weights, strict=True):
        np.testing.assert_array_equal(got, want)
    assert (peer.layers[1].name, peer.layers[-1].name) == ("normalize", "logits")
    assert all(layer.trainable for layer in peer.layers[2:])


def test_images_of_another_size_are_taken(trained):
    model, directory = trained
    peer = peers.build("resnet20", (12, 16, 3), 5, start=str(directory / "five.keras"))
    for got, want in zip(peer.weights, model.weights, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("name", "start", "message"),
    [
        ("resnet32", "five.keras", "layers with weights, and resnet32 has"),
        ("resnet32", "five.weights.h5", "five.weights.h5' does not fit resnet32"),
        ("wrn-16-2", "five.keras", "valid: weights of wrn-16-2"),
        ("resnet20", "broken.keras", "Keras model (it is not a zip archive)"),
        ("resnet20", "broken.weights.h5", "cannot be read"),
        ("resnet20", "none.keras", "there is no file"),
        ("resnet20", "five.txt", "valid: a file ending in .keras or .h5"),
        ("resnet20", "imagenet", "valid: applications:NAME, or a file"),
        ("imagenet_resnet50", "imagenet", "valid: applications:ResNet50, or a file"),
    ],
)
def test_weights_that_cannot_be_used_are_named(trained, tmp_path, name, start, message):
    _, directory = trained
    for broken in ("broken.keras", "broken.weights.h5", "five.txt"):
        (tmp_path / broken).write_text("not a file of Keras")
    where = directory if start.startswith("five") and "txt" not in start else tmp_path
    shape = (64, 64, 3) if "imagenet" in name else SHAPE
    given = start if start == "imagenet" else str(where / start)
    with pytest.raises(InputError) as caught:
        peers.build(name, shape, 5, start=given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.argument == "start"


def small(*first, ends_in="softmax", classes=5):
    """A classifier as one that knows Keras would write it."""
    last = keras.layers.Dense(classes, ends_in, name="predictions")
    body = [keras.layers.Conv2D(4, 3, strides=2), keras.layers.BatchNormalization()]
    pool = keras.layers.GlobalAveragePooling2D()
    model = keras.Sequential([keras.Input(SHAPE), *first, *body, pool, last])
    return shaken(model) if not first else model


def inside():
    mean = keras.layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.1, 0.2, 0.3])
    return [keras.layers.Rescaling(1 / 255), mean]


def ends(last):
    """A classifier with something of its own behind its last layer."""
    pixels = keras.Input(SHAPE)
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(pixels))
    return keras.Model(pixels, last(keras.layers.Dense(5, name="dense")(x)))


def whole():
    """A classifier in another model, with a softmax in a third."""
    soft = keras.Sequential([keras.Input((5,)), keras.layers.Softmax()])
    pixels = keras.Input(SHAPE)
    return keras.Model(pixels, soft(ends(lambda z: z)(pixels)))


def joined(z):
    return keras.layers.Add(name="joined")([z, z])


def two_inputs():
    one, two = keras.Input(SHAPE), keras.Input(SHAPE)
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(one) + two)
    return keras.Model([one, two], keras.layers.Dense(5)(x))


@pytest.mark.parametrize("classes", [5, 2])
def test_a_saved_model_sees_the_pixels_that_it_knows_once(tmp_path, classes):
    model = small(*inside())
    model.save(tmp_path / "mine.keras")
    peer = peers.build(f"file:{tmp_path}/mine.keras", SHAPE, classes, mean=3.0, std=7.0)
    assert (peer.name, peer.output_shape) == ("mine", (None, classes))
    assert (peer.layers[1].name, peer.layers[-1].name) == ("normalize", "logits")
    scaled = PIXELS / 255
    want = (scaled - np.array([0.4, 0.5, 0.6])) / np.sqrt([0.1, 0.2, 0.3])
    np.testing.assert_allclose(peer.get_layer("normalize")(PIXELS), want, rtol=1e-4, atol=1e-5)
    if classes == 5:  # a softmax is left out, and is what is left to do
        got = keras.ops.softmax(logits(peer))
        np.testing.assert_allclose(got, logits(model), rtol=1e-4, atol=1e-6)


def test_a_saved_peer_is_itself(trained):
    model, directory = trained
    peer = peers.build(f"file:{directory}/five.keras", SHAPE, 5)
    np.testing.assert_allclose(logits(peer), logits(model), rtol=1e-5, atol=1e-5)
    assert [layer.name for layer in peer.layers] == [layer.name for layer in model.layers]
    fewer = peers.build(f"file:{directory}/five.keras", SHAPE, 2)
    np.testing.assert_allclose(features(fewer), features(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "by_hand"),
    [
        ("0..255", lambda x: x),
        ("0..1", lambda x: x / 255),
        ("-1..1", lambda x: x / 127.5 - 1),
        ("imagenet", lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        ("bgr", lambda x: x[..., ::-1] - np.array([103.939, 116.779, 123.68])),
    ],
)
def test_a_saved_model_without_normalisation_is_told_what_pixels_it_knows(tmp_path, kind, by_hand):
    model = small(ends_in=None)
    model.save(tmp_path / "mine.keras")
    peer = peers.build(f"file:{tmp_path}/mine.keras", SHAPE, 5, pixels=kind)
    want = logits(model, by_hand(PIXELS).astype("float32"))
    np.testing.assert_allclose(logits(peer), want, rtol=1e-4, atol=1e-4)


def test_a_nested_body_is_kept_and_its_last_layer_replaced(tmp_path):
    body = keras.Sequential([keras.Input(SHAPE), keras.layers.Conv2D(4, 3, name="logits")])
    pixels = keras.Input(SHAPE)
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(pixels)
    x = keras.layers.GlobalAveragePooling2D()(body(x))
    model = keras.Model(pixels, keras.layers.Softmax()(keras.layers.Dense(5)(x)))
    model.save(tmp_path / "mine.keras")
    peer = peers.build(f"file:{tmp_path}/mine.keras", SHAPE, 5)
    got = keras.ops.softmax(logits(peer))
    np.testing.assert_allclose(got, logits(model), rtol=1e-4, atol=1e-6)
    assert peers.build(f"file:{tmp_path}/mine.keras", SHAPE, 9).output_shape == (None, 9)


def test_a_model_that_is_nested_whole_is_a_peer_and_its_last_layer_may_be_replaced(tmp_path):
    model = whole()
    model.save(tmp_path / "mine.keras")
    peer = peers.build(f"file:{tmp_path}/mine.keras", SHAPE, 5)
    np.testing.assert_allclose(keras.ops.softmax(logits(peer)), logits(model), rtol=1e-4, atol=1e-6)
    assert not any(isinstance(layer, keras.Model) for layer in peer.layers)
    other = peers.build(f"file:{tmp_path}/mine.keras", SHAPE, 3)
    np.testing.assert_array_equal(features(other), features(peer))


@pytest.mark.parametrize(
    "ending",
    [
        lambda z: keras.ops.cast(z, "float32"),
        lambda z: keras.layers.Identity()(keras.layers.Dropout(0.5)(z)),
        lambda z: keras.layers.Softmax()(keras.ops.cast(z, "float32")),
    ],
    ids=["cast", "identity and dropout", "cast and softmax"],
)
def test_what_leaves_logits_as_they_are_may_follow_the_last_layer(tmp_path, ending):
    model = ends(ending)
    model.save(tmp_path / "mine.keras")
    peer = peers.build(f"file:{tmp_path}/mine.keras", SHAPE, 5)
    got, want = (keras.ops.softmax(z) if z.min() < 0 else z for z in (logits(peer), logits(model)))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "softmax",
    [keras.layers.Softmax(), keras.layers.Activation("softmax"), keras.ops.softmax],
    ids=["layer", "activation", "operation"],
)
def test_gates_inside_a_saved_model_stay_and_the_softmax_at_its_end_goes(tmp_path, softmax):
    pixels = keras.Input(SHAPE)
    x = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 127.5, -1.0)(pixels))
    x = keras.layers.Multiply()([x, keras.layers.Activation("sigmoid")(x)])  # swish
    attention = keras.layers.Softmax(axis=-1)(keras.layers.Dense(4)(x))
    x = keras.layers.GlobalAveragePooling2D()(x * attention)
    model = keras.Model(pixels, softmax(keras.layers.Dense(5)(x)))
    model.save(tmp_path / "mine.keras")
    peer = peers.build(f"file:{tmp_path}/mine.keras", SHAPE, 5)
    got = keras.ops.softmax(logits(peer))
    np.testing.assert_allclose(got, logits(model), rtol=1e-4, atol=1e-6)
    again = peers.build(f"file:{tmp_path}/mine.keras", SHAPE, 2)
    np.testing.assert_allclose(features(again), features(peer), rtol=1e-5, atol=1e-6)


def test_a_normalisation_within_a_saved_model_keeps_its_statistics_in_half_precision(tmp_path):
    adapted = keras.layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])
    pixels = keras.Input(SHAPE)
    x = keras.layers.Conv2D(3, 1)(keras.layers.Rescaling(1 / 25.0)(pixels))
    learned = keras.layers.Normalization()
    learned.adapt(logits(keras.Model(pixels, x)))
    x = keras.layers.GlobalAveragePooling2D()(adapted(learned(x)))
    model = keras.Model(pixels, keras.layers.Dense(5)(x))
    model.save(tmp_path / "mine.keras")
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        peer = peers.build(f"file:{tmp_path}/mine.keras", SHAPE, 5)
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(logits(peer), logits(model), rtol=0.1, atol=0.05)


def test_a_saved_model_computes_in_the_precision_of_the_run(trained):
    model, directory = trained
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        peer = peers.build(f"file:{directory}/five.keras", SHAPE, 5)
    finally:
        keras.config.set_dtype_policy("float32")
    dtypes = [peer.get_layer(n).compute_dtype for n in ("normalize", "stem", "logits")]
    assert dtypes == ["float32", "bfloat16", "float32"]
    for got, want in zip(peer.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("model", "options", "argument", "message"),
    [
        (lambda: small(), {}, "pixels", "missing. "),
        (lambda: small(), {"pixels": "0.1"}, "pixels", "unknown value '0.1'. Did you mean '0..1'?"),
        (lambda: small(*inside()), {"pixels": "0..1"}, "pixels", "normalises pixels itself"),
        (lambda: small(*inside()), {"start": "imagenet"}, "start", "already has trained weights"),
        (
            lambda: keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten()]),
            {},
            "peer",
            "is not a graph from images to classes",
        ),
        (
            lambda: keras.Sequential(
                [keras.Input(SHAPE), *inside(), keras.layers.Flatten(), keras.layers.Dense(5)]
            ),
            {"image_shape": (9, 9, 3)},
            "peer",
            "is for images of 8x8x3 and cannot take 9x9x3",
        ),
        (lambda: ends(lambda z: z / 2.0), {}, "peer", "'dense', is followed by '"),
        (lambda: ends(keras.layers.ReLU(name="cut")), {}, "peer", "is followed by 'cut'; valid: a"),
        (lambda: ends(joined), {}, "peer", "is followed by 'joined'; valid: a model that"),
        (two_inputs, {}, "peer", "is not a graph from images to classes"),
        (
            lambda: keras.Sequential([keras.Input(SHAPE), *inside(), keras.layers.Conv2D(3, 3)]),
            {},
            "peer",
            "is not a graph from images to classes",
        ),
    ],
)
def test_a_saved_model_that_cannot_be_a_peer_is_refused(
    tmp_path, model, options, argument, message
):
    model().save(tmp_path / "mine.keras")
    options = {"image_shape": SHAPE, "num_classes": 5, **options}
    with pytest.raises(InputError) as caught:
        peers.build(f"file:{tmp_path}/mine.keras", **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.argument == argument
