"""Saved models of odd beginnings as peers: frozen bodies, pixels in other orders and scalings."""

import keras
import numpy as np
import pytest

from xkd_keras import peers
from xkd_keras.errors import InputError

SHAPE = (8, 8, 3)
PIXELS = np.random.default_rng(0).uniform(0, 255, (3, *SHAPE)).astype("float32")


def logits(model, images=PIXELS):
    return keras.ops.convert_to_numpy(model(images, training=False))


def small(*first):
    """A classifier that begins with these layers."""
    pool, last = keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5)
    return keras.Sequential([keras.Input(SHAPE), *first, pool, last])


def body():
    return [
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(4, 3),
        keras.layers.BatchNormalization(),
    ]


def frozen_body():
    model = small(*body())
    for layer in model.layers[:-2]:
        layer.trainable = False
    return model


def frozen_model():
    """As Keras' guide to transfer learning makes it: a frozen model within another."""
    inner = keras.Sequential([keras.Input(SHAPE), *body()[1:]])
    inner.trainable = False
    pixels = keras.Input(SHAPE)
    x = inner(keras.layers.Rescaling(1 / 255)(pixels), training=False)
    return keras.Model(pixels, keras.layers.Dense(5)(keras.layers.Flatten()(x)))


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("frozen", [frozen_body, frozen_model])
def test_layers_that_are_frozen_in_a_file_learn_as_those_of_a_start_do(tmp_path, frozen, policy):
    model = frozen()
    assert len(model.trainable_variables) == 2
    model.save(tmp_path / "mine.keras")
    keras.config.set_dtype_policy(policy)
    try:
        peer = peers.build(f"file:{tmp_path}/mine.keras", SHAPE, 5)
    finally:
        keras.config.set_dtype_policy("float32")
    assert len(peer.trainable_variables) == 6  # kernel, bias, gamma, beta, and those of the head
    assert not peer.get_layer("normalize").trainable


def two_readers():
    pixels = keras.Input(SHAPE)
    both = [keras.layers.Conv2D(4, 3)(pixels) for _ in range(2)]
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()(both))
    return keras.Model(pixels, keras.layers.Dense(5)(x))


@pytest.mark.parametrize(
    "model",
    [
        lambda: small(keras.layers.BatchNormalization(), keras.layers.Conv2D(4, 3)),
        lambda: small(keras.layers.DepthwiseConv2D(3), keras.layers.Conv2D(4, 3)),
        lambda: small(keras.layers.SeparableConv2D(4, 3)),
        lambda: small(keras.layers.Conv2D(6, 3, groups=3)),
        lambda: small(keras.layers.Permute((2, 3, 1)), keras.layers.Conv2D(4, 3)),
        two_readers,
    ],
    ids=["batch norm", "depthwise", "separable", "grouped", "permuted", "two"],
)
def test_blue_green_red_is_refused_where_no_one_kernel_can_be_reversed(tmp_path, model):
    model().save(tmp_path / "mine.keras")
    with pytest.raises(InputError, match="no single Conv2D reads the pixels") as caught:
        peers.build(f"file:{tmp_path}/mine.keras", SHAPE, 5, pixels="bgr")
    assert caught.value.argument == "pixels"
    assert "\n" not in str(caught.value)


def test_blue_green_red_passes_padding_and_random_flips_also_within_a_model(tmp_path):
    varied = keras.Sequential([keras.Input(SHAPE), keras.layers.RandomFlip()])
    model = small(varied, keras.layers.ZeroPadding2D(), keras.layers.Conv2D(4, 3))
    model.save(tmp_path / "mine.keras")
    peer = peers.build(f"file:{tmp_path}/mine.keras", SHAPE, 5, pixels="bgr")
    turned = PIXELS[..., ::-1] - np.array([103.939, 116.779, 123.68], "float32")
    np.testing.assert_allclose(logits(peer), logits(model, turned), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("axis", [(1, 2, 3), None, -1])
def test_a_normalisation_of_any_axes_is_kept(tmp_path, axis):
    adapted = keras.layers.Normalization(axis=axis)
    adapted.adapt(PIXELS)
    model = small(adapted, keras.layers.Conv2D(4, 3))
    model.save(tmp_path / "mine.keras")
    name, kind = f"file:{tmp_path}/mine.keras", "0..255" if axis == (1, 2, 3) else ""
    peer = peers.build(name, SHAPE, 5, pixels=kind)
    np.testing.assert_allclose(logits(peer), logits(model), rtol=1e-3, atol=1e-4)
    if kind:
        with pytest.raises(InputError, match=r"^pixels: missing\. .*Normalization of channels"):
            peers.build(name, SHAPE, 5)
