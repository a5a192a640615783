"""Peers against published parameter counts, NumPy, and themselves built again."""

import importlib
import random
import re

import keras
import numpy as np
import pytest

from xkd_keras import peers
from xkd_keras.errors import InputError
from xkd_keras.peers import catalogue

# Trainable parameters at 32x32x3 with 10 and 100 classes, counted in the reference implementations.
SMALL = {
    "alexnet": (2_472_266, 2_495_396),
    "vgg11": (9_231_114, 9_277_284),
    "vgg13": (9_416_010, 9_462_180),
    "vgg16": (14_728_266, 14_774_436),
    "vgg19": (20_040_522, 20_086_692),
    "resnet20": (272_474, 278_324),
    "resnet32": (466_906, 472_756),
    "resnet44": (661_338, 667_188),
    "resnet56": (855_770, 861_620),
    "resnet110": (1_730_714, 1_736_564),
    "densenet-bc-40-12": (176_122, 188_092),
    "densenet-bc-100-12": (769_162, 800_032),
    "wrn-16-2": (691_674, 703_284),
    "wrn-28-10": (36_479_194, 36_536_884),
    "mobilenet_v2": (2_236_682, 2_351_972),
}
# At 64x64x3 with 1000 classes: torchvision's counts, less what flattening 7x7 (6x6) rather than 2x2
# (1x1) adds, plus the biases that Keras' ResNet-50 gives its convolutions.
LARGE = {
    "imagenet_alexnet": 61_100_840 - (6 * 6 - 1) * 256 * 4096,
    "imagenet_vgg16": 138_357_544 - (7 * 7 - 2 * 2) * 512 * 4096,
    "imagenet_resnet18": 11_689_512,
    "imagenet_resnet50": 25_557_032 + 26_560,
    "imagenet_densenet121": 7_978_856,
    "imagenet_mobilenet_v2": 3_504_872,
    "imagenet_mobilenet_v3": 5_483_032,
}


def trainable(model):
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def pixels(model, batch=2):
    shape = (batch, *model.input_shape[1:])
    return np.random.default_rng(0).integers(0, 256, shape).astype("float32")


def test_every_name_has_a_family_that_builds_it():
    for family, names in catalogue.FAMILIES.items():
        module = importlib.import_module(f"xkd_keras.peers.{family}")
        assert list(module.VARIANTS) == list(names)
    assert set(peers.names()) == set(SMALL) | set(LARGE)


@pytest.mark.parametrize("name", peers.names())
def test_counts_and_logits(name):
    side, classes, count = (32, 10, SMALL[name][0]) if name in SMALL else (64, 1000, LARGE[name])
    model = peers.build(name, (side, side, 3), classes, seed=0)
    assert trainable(model) == count
    if name in SMALL:
        features = model.get_layer("logits").kernel.shape[0]
        assert count + 90 * (features + 1) == SMALL[name][1]
    assert model.name == name
    assert (model.layers[1].name, model.layers[-1].name) == ("normalize", "logits")
    assert all(layer.__module__.startswith("keras.") for layer in model.layers)
    norms = [each for each in model.layers if isinstance(each, keras.layers.BatchNormalization)]
    assert all(each.momentum == 0.9 for each in norms)  # Keras' own 0.99 follows too slowly
    assert bool(norms) == ("alexnet" not in name and name != "imagenet_vgg16")
    logits = keras.ops.convert_to_numpy(model(pixels(model)))
    assert (logits.shape, logits.dtype) == ((2, classes), np.float32)
    assert np.isfinite(logits).all()
    assert np.ptp(logits) > 0


@pytest.mark.parametrize(
    ("mean", "std"), [(None, None), (100.0, 50.0), ((1, 2, 3), (40, 50, 60.5))]
)
def test_normalize_is_numpys(mean, std):
    model = peers.build("resnet20", (8, 9, 3), 2, mean=mean, std=std)
    layer = model.get_layer("normalize")
    x = pixels(model)
    expected = (x - np.asarray(127.5 if mean is None else mean)) / (127.5 if std is None else std)
    np.testing.assert_allclose(layer(x), expected, atol=2e-6)
    assert not layer.trainable_variables
    assert layer.non_trainable_variables  # the statistics are saved and converted as weights


def test_normalize_and_logits_stay_float32_under_a_mixed_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = peers.build("alexnet", (32, 32, 1), 2)
    finally:
        keras.config.set_dtype_policy("float32")
    dtypes = [model.get_layer(n).compute_dtype for n in ("normalize", "conv1", "logits")]
    assert dtypes == ["float32", "bfloat16", "float32"]
    assert model.output.dtype == "float32"


def test_convolutions_start_he_normal_by_fan_out_and_differ():
    model = peers.build("vgg16", (32, 32, 3), 10, seed=3)
    first, second = (
        keras.ops.convert_to_numpy(model.get_layer(f"block4_conv{i}").kernel) for i in (2, 3)
    )
    assert first.std() == pytest.approx(np.sqrt(2 / (9 * 512)), rel=0.01)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.01


def test_strided_convolutions_pad_both_sides():
    model = peers.build("resnet20", (8, 8, 3), 2)
    assert model.get_layer("stage2_block1_conv1_pad").padding == ((1, 1), (1, 1))
    assert model.get_layer("stage2_block1_conv1").padding == "valid"
    assert model.get_layer("stage2_block1_conv1").output.shape == (None, 4, 4, 32)


def test_seed_and_label_decide_the_weights():
    def weights(**options):
        return peers.build("alexnet", (32, 32, 3), 4, **options).get_weights()

    def kernels_differ(a, b):
        kernels = [(v, w) for v, w in zip(a, b, strict=True) if v.ndim > 1][1:]  # not normalize's
        return all(np.abs(v - w).max() > 0.01 for v, w in kernels)

    first = weights(seed=7, label="a")
    peers.build("tests.small_peers:plain", (8, 8, 3), 2)
    random.random()
    for v, w in zip(first, weights(seed=7, label="a"), strict=True):
        np.testing.assert_array_equal(v, w)
    assert kernels_differ(first, weights(seed=7, label="b"))
    assert kernels_differ(first, weights(seed=8, label="a"))
    assert kernels_differ(weights(label="a"), weights(label="a"))  # no seed, no repeat


def test_seed_and_label_decide_the_dropout():
    def dropped(label):
        name = "tests.small_peers:normalised"
        model = peers.build(name, (16, 16, 3), 2, seed=7, label=label)
        (layer,) = (each for each in model.layers if isinstance(each, keras.layers.Dropout))
        ones = np.ones((4, 1280), "float32")
        return keras.ops.convert_to_numpy(layer(ones, training=True))

    first = dropped("a")
    assert (first == 0).mean() == pytest.approx(0.2, abs=0.03)
    np.testing.assert_array_equal(first, dropped("a"))
    assert (first != dropped("b")).any()


def test_seeding_leaves_the_callers_random_numbers_alone():
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    peers.build("tests.small_peers:normalised", (16, 16, 3), 2, seed=5)
    assert (random.random(), np.random.random()) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("vgg-16", (32, 32, 3), 10),
            "peer: unknown value 'vgg-16'. Did you mean 'vgg16'? valid: alexnet,",
        ),
        (
            ("vgg11", (8, 8, 3), 10),
            "image_shape: 8x8 is too small for peer 'vgg11', which needs at least 32x32",
        ),
        (
            ("vgg11", (32, 32), 10),
            "image_shape: received (32, 32); valid: (height, width, channels)",
        ),
        (("vgg11", (32, 32, None), 10), "image_shape: received (32, 32, None)"),
        (("vgg11", (32, 32, 3), 1), "num_classes: received 1; valid: a whole number, 2 or more"),
        (("vgg11", (32, 32, 3), 2.5), "num_classes: received 2.5"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        peers.build(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"label": "a/b"}, "label: received 'a/b'"),
        ({"label": ""}, "label: received ''"),
        ({"mean": (1, 2)}, "mean: received (1, 2); valid: one number, or 3 (one per channel)"),
        ({"std": (1, 0, 1)}, "std: received (1, 0, 1); valid: one number above 0, or 3"),
        ({"std": float("nan")}, "std: received nan"),
        ({"mean": "grey"}, "mean: received 'grey'"),
    ],
)
def test_bad_options(option, message):
    with pytest.raises(InputError, match=re.escape(message)):
        peers.build("alexnet", (32, 32, 3), 10, **option)


@pytest.mark.parametrize("name", sorted({*SMALL, *LARGE}))
def test_smallest_side_is_true(name):
    """One pixel less than MIN_SIDE is refused; MIN_SIDE itself leaves something to classify."""
    module = importlib.import_module(f"xkd_keras.peers.{peers.BUILDERS[name]}")
    side = module.MIN_SIDE
    with pytest.raises(InputError, match=f"at least {side}x{side}"):
        peers.build(name, (side - 1, 2 * side, 3), 2)
    if name in ("alexnet", "vgg11", "resnet20", "densenet-bc-40-12", "wrn-16-2", "mobilenet_v2"):
        model = peers.build(name, (side, side + 3, 1), 2)
        assert np.isfinite(model(pixels(model))).all()
