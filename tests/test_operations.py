"""Graphs within graphs, opened: they compute, learn and stay what they are."""

import keras
import numpy as np
import pytest

from tests.small_cohorts import Own, compiled
from xkd_keras import operations
from xkd_keras.distillation import recompute, similar
from xkd_keras.errors import InputError
from xkd_keras.peers import graphs, stages

L = keras.layers
IMAGES = np.random.default_rng(3).uniform(0, 255, (12, 16, 16, 3)).astype("float32")
LABELS = np.arange(12) % 4


def block(x, width, name):
    x = L.Conv2D(width, 3, padding="same", use_bias=False, name=f"{name}_conv")(x)
    x = L.BatchNormalization(name=f"{name}_bn")(x)
    return L.ReLU(name=f"{name}_relu")(x)


def first(x):
    return block(block(x, 4, "one"), 4, "two")


def second(x):
    x = L.MaxPooling2D(name="pool_1")(x)
    x = block(x, 6, "three")
    return x + block(x, 6, "four")


def body(x):
    return L.MaxPooling2D(name="pool_2")(second(first(x)))


def ending(x):
    x = block(x, 8, "five")
    return L.Dense(4, name="end")(L.Dropout(0.5, seed=7)(L.GlobalAveragePooling2D()(x)))


def written_flat(name):
    keras.utils.set_random_seed(5)
    image = keras.Input((16, 16, 3))
    return keras.Model(image, ending(body(L.Rescaling(1 / 255)(image))), name=name)


def nested(name, **call):
    """The same, in three models: a Sequential that holds a graph that holds another."""
    keras.utils.set_random_seed(5)
    into = keras.Input((16, 16, 4))
    inner = keras.Model(into, second(into), name="inner")
    image = keras.Input((16, 16, 3))
    middle = keras.Model(image, L.MaxPooling2D(name="pool_2")(inner(first(image))), name="middle")
    small = keras.Input((4, 4, 6))
    end = keras.Sequential([small, keras.Model(small, ending(small), name="tail")], name="end")
    pixels = keras.Input((16, 16, 3))
    x = middle(L.Rescaling(1 / 255)(pixels), **call)
    return keras.Model(pixels, end(x), name=name)


KINDS = nested, written_flat


def small(name):
    """A peer that costs next to nothing."""
    layers = [L.MaxPooling2D(4), L.Flatten(), L.Dense(4)]
    return keras.Sequential([keras.Input((16, 16, 3)), *layers], name=name)


def opened(model):
    return operations.flat(graphs.graph(model))


def same(one, other):
    weights = written_flat("w").get_weights()
    one.set_weights(weights)
    other.set_weights(weights)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_an_opened_graph_computes_what_it_did_with_the_same_variables(policy, training):
    keras.config.set_dtype_policy(policy)
    try:
        model = nested("a")
        flat = opened(model)
    finally:
        keras.config.set_dtype_policy("float32")
    assert not any(isinstance(layer, keras.Model) for layer in flat.layers)
    assert {id(v) for v in flat.variables} == {id(v) for v in model.variables}
    generators = [layer.seed_generator for layer in flat.layers if isinstance(layer, L.Dropout)]
    answers = []
    for one in (model, flat):
        generators[0].state.assign([7, 0])
        answers.append(keras.ops.convert_to_numpy(one(IMAGES, training=training)))
    np.testing.assert_array_equal(*answers)


def test_normalisations_of_a_body_that_is_called_as_in_inference_move_as_keras_moves_them():
    """As Keras' guide to transfer learning calls a frozen body."""
    moved = []
    for open_it in (False, True):
        model = nested("a", training=False)
        before = model.get_weights()
        (opened(model) if open_it else model)(IMAGES, training=True)
        moved.append([np.any(x != y) for x, y in zip(model.get_weights(), before, strict=True)])
    assert moved[0] == moved[1]


def test_a_model_that_was_opened_is_saved_as_it_was(tmp_path):
    model = nested("a")
    config = model.get_config()
    opened(model)
    assert model.get_config() == config
    model.save(tmp_path / "a.keras")
    again = keras.models.load_model(tmp_path / "a.keras")
    np.testing.assert_array_equal(*(one.predict(IMAGES, verbose=0) for one in (model, again)))


class Doubling(keras.Model):
    """More than its graph."""

    def call(self, x):
        return 2 * super().call(x)


def test_a_model_with_a_call_of_its_own_or_several_inputs_stays_one_layer():
    into, other = keras.Input((2,)), keras.Input((2,))
    double = Doubling(into, L.Dense(2)(into))
    both = keras.Model([into, other], L.Add()([into, other]))
    image = keras.Input((2,))
    x = double(image)
    model = keras.Model(image, keras.Sequential([keras.Input((2,)), L.Dense(3)])(both([x, image])))
    flat = opened(model)
    assert [layer for layer in flat.layers if isinstance(layer, keras.Model)] == [double, both]
    pairs = np.float32([[1, 2]])
    np.testing.assert_array_equal(*(one.predict(pairs, verbose=0) for one in (model, flat)))


def test_layers_of_one_name_are_not_put_side_by_side():
    """As Keras gives the name dense to the first Dense, in each process again."""
    into = keras.Input((3,))
    part = keras.Model(into, L.Dense(3, name="dense")(into))
    model = keras.Sequential([keras.Input((3,)), part, L.Dense(2, name="dense")])
    assert operations.flat(model) is model
    assert operations.flat(part) is part


def test_a_graph_with_nothing_nested_is_returned_as_it_is():
    model = written_flat("a")
    assert operations.flat(model) is model
    alone = Own("own")  # has no graph
    assert operations.flat(alone) is alone


def test_a_model_may_stay_closed_by_its_name():
    model = nested("a")
    flat = operations.flat(model, closed=["inner"])
    assert [layer.name for layer in flat.layers if isinstance(layer, keras.Model)] == ["inner"]
    cohort = compiled([model, nested("b")], exits={"a": ["middle"]}, recompute={"b": ["middle"]})
    cohort.fit(IMAGES, LABELS, batch_size=6, verbose=0)
    assert [head.kernel.shape[0] for head in cohort.exits.heads["a"]] == [6]


def test_a_peer_with_a_call_of_its_own_is_trained_as_it_is_evaluated():
    """Its graph has one Dense; its call doubles the logits."""
    image = keras.Input((2,))
    peer, plain = (kind(image, L.Dense(3)(image)) for kind in (Doubling, keras.Model))
    assert graphs.graph(peer) is None
    assert similar.features(peer) is None
    assert similar.features(plain) is not None
    (logits,) = recompute.forward(peer)(np.float32([[1, 2]]))
    np.testing.assert_array_equal(logits, peer.predict(np.float32([[1, 2]]), verbose=0))
    with pytest.raises(InputError, match="is not a functional model"):
        recompute.forward(peer, at=["dense"])


def test_stages_and_cuts_are_those_of_the_network_written_flat():
    for find in (stages.ends, stages.cuts):
        one, other = ([n.rstrip("_0123456789") for n in find(make("a"))] for make in KINDS)
        assert one == other
        assert len(one) > 1


@pytest.mark.parametrize(
    "options",
    [
        {"exits": {"a": ["two_relu", "four_relu"]}},
        {"similarity": 1.5, "recompute": {"a": ["two_relu", "pool_2"]}},
    ],
    ids=["exits", "features"],
)
def test_a_network_in_parts_learns_what_it_learns_in_one(options):
    cohorts = []
    for make in KINDS:
        keras.utils.set_random_seed(5)
        cohorts.append(compiled([make("a"), small("b")], seed=1, **options))
    one, other = (cohort.peers for cohort in cohorts)
    same(one["a"], other["a"])
    other["b"].set_weights(one["b"].get_weights())
    for cohort in cohorts:
        cohort.fit(IMAGES, LABELS, batch_size=4, shuffle=False, verbose=0)
    for x, y in zip(one["a"].get_weights(), other["a"].get_weights(), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)
