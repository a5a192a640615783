"""What is computed again gives the numbers of what was kept; how often each operation then runs."""

import collections
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from xkd_keras import Cohort, peers
from xkd_keras.distillation import recompute
from xkd_keras.errors import InputError
from xkd_keras.peers import stages

IMAGES = np.random.default_rng(3).uniform(0, 255, (12, 8, 8, 3)).astype("float32")
LABELS = np.arange(12) % 4
CUTS = ["relu_1", "relu_3"]


def residual(name, dropout=0.0):
    """Four convolutions, the second and third beside a shortcut; dropout in the last stretch."""
    keras.utils.set_random_seed(5)
    layers = keras.layers
    x = inputs = keras.Input((8, 8, 3))
    for i in range(1, 5):
        y = layers.Conv2D(6, 3, padding="same", use_bias=False, name=f"conv_{i}")(x)
        y = layers.BatchNormalization(name=f"bn_{i}")(y)
        y = y + x if i == 3 else y
        y = layers.Dropout(dropout, seed=7)(y) if i == 4 and dropout else y
        x = layers.ReLU(name=f"relu_{i}")(y)
    return keras.Model(
        inputs, layers.Dense(4, name="end")(layers.GlobalAveragePooling2D()(x)), name=name
    )


def trained(at, fused=True, images=IMAGES, **options):
    """Return all variables of two peers after three steps."""
    members = [residual("a"), residual("b", dropout=0.5)]
    members = [peers.fused(each) for each in members] if fused else members
    cuts = {"a": at, "b": at} if at else None
    cohort = Cohort(members, 0.8, recompute=cuts, seed=1, **options)
    cohort.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    cohort.fit(images, LABELS, batch_size=4, epochs=1, shuffle=False, verbose=0)
    return {
        (name, place, variable.path.rpartition("/")[2]): np.array(variable)
        for name, peer in cohort.peers.items()
        for place, variable in enumerate(peer.variables)
    }


def same(plain, again, rtol=2e-5, atol=1e-6):
    assert plain.keys() == again.keys()
    for name, value in plain.items():
        np.testing.assert_allclose(again[name], value, rtol=rtol, atol=atol, err_msg=str(name))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param(
            {"similarity": 1.5, "adapt": 1.0, "teacher": "leave_one_out"}, marks=pytest.mark.slow
        ),
        {"exits": {"a": ["relu_2"], "b": ["relu_3"]}},
    ],
    ids=["logits", "features", "exits"],
)
def test_a_network_that_computes_again_learns_the_same(options):
    plain, again = trained([], **options), trained(CUTS, **options)
    assert any("moving_mean" in name for name in plain)
    same(plain, again)


@pytest.mark.slow
def test_moving_statistics_of_stock_layers_move_once_a_step_and_integers_are_taken():
    pixels = IMAGES.astype("uint8")
    plain, again = trained([], fused=False, images=pixels), trained(CUTS, False, pixels)
    same(plain, again)


@pytest.mark.slow
def test_replicas_that_compute_again_learn_the_same(two_cpus):
    with two_cpus.scope():
        plain, again = trained([]), trained(CUTS)
    same(plain, again)


@pytest.mark.slow
def test_half_precision_and_a_float16_loss_scale_go_with_it():
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        plain, again = trained([]), trained(CUTS)
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    same(plain, again, 2e-3, 2e-3)


def convolutions(peer, at):
    """Return how often each convolution's forward pass is in the graph of a gradient."""
    call = recompute.forward(peer, (), at)

    @tf.function
    def gradients(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(call(images)[0])
        return tape.gradient(loss, peer.trainable_variables)

    operations = gradients.get_concrete_function(tf.constant(IMAGES)).graph.get_operations()
    return collections.Counter(each.type for each in operations)["Conv2D"]


def test_all_but_the_last_stretch_is_computed_twice_unless_it_holds_dropout():
    assert convolutions(residual("a"), []) == 4
    assert convolutions(residual("a"), CUTS) == 4 + 3  # conv_4 is after the last cut
    assert convolutions(residual("b", dropout=0.5), [*CUTS, "relu_4"]) == 4 + 3


@pytest.mark.parametrize(
    ("at", "told"),
    [
        (["relu_9"], r"recompute: unknown layer \(of 'a'\) 'relu_9'\. Did you mean 'relu_"),
        (
            ["bn_3"],
            r"recompute: '\w+' also uses what was computed before 'bn_3' in 'a'; valid: ",
        ),
    ],
)
def test_layers_that_cannot_be_kept_are_refused_by_name(at, told):
    with pytest.raises(InputError) as caught:
        Cohort([residual("a"), residual("b")], recompute={"a": at})
    assert re.match(told, str(caught.value))


def test_a_cohort_that_computes_again_is_saved_and_loaded(tmp_path):
    cohort = Cohort([residual("a"), residual("b")], recompute={"a": CUTS})
    cohort.save(tmp_path / "cohort.keras")
    assert keras.models.load_model(tmp_path / "cohort.keras").recompute == {"a": CUTS, "b": []}


def test_what_is_kept_is_what_the_estimate_finds_least():
    """By hand: six outputs of 10 numbers and an input of 3, in a chain.

    Kept: one tensor after each part of the sum, 63, and the largest stretch. In three parts (21)
    these are the third (stretch of 33, with the input) and the sixth output; the last cuts nothing.
    """
    x = inputs = keras.Input((3,))
    for i in range(6):
        x = keras.layers.Dense(10, name=f"dense_{i}")(x)
    found = stages.cuts(keras.Model(inputs, x))
    kept = {"dense_1": 10, "dense_3": 10}  # in three parts of 21: 23, 20 is too few, then 30, 10
    assert found == sorted(found)
    assert memory(found) <= memory(kept)
    assert all(memory(found) <= memory([f"dense_{i}"]) for i in range(5))


def memory(names):
    """What is kept and the largest stretch, of the chain above."""
    sizes, stretch, largest = [3] + [10] * 6, 0, 0
    for place, size in enumerate(sizes):
        stretch += size
        largest = max(largest, stretch)
        stretch = 0 if f"dense_{place - 1}" in names else stretch
    return largest + 10 * len(names)
