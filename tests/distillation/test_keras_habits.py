"""What people who know Keras type without looking it up: it works, or is told in a line."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.small_cohorts import IMAGES, LABELS, Own, compiled, convolutional, fit, linear
from xkd_keras import Cohort, losses, peers, teachers
from xkd_keras.errors import InputError


class Unsaved(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that Keras cannot make again."""

    def __call__(self, step):
        return 0.1


def small(classes=4, activation=None):
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Flatten()(inputs)
    return keras.Model(inputs, keras.layers.Dense(classes, activation)(x), name="big")


def test_what_is_not_to_decay_does_not_in_the_copies_of_an_optimizer():
    def adamw():
        optimizer = keras.optimizers.AdamW(0.01, weight_decay=5.0)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        return optimizer

    cohort = Cohort([convolutional("a", 3), linear("b")], schedule=0.0)
    alone = keras.models.clone_model(cohort.peers["a"])
    alone.set_weights(cohort.peers["a"].get_weights())
    cohort.compile(adamw())
    fit(cohort)
    alone.compile(adamw(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    alone.fit(IMAGES, LABELS, batch_size=16, shuffle=False, verbose=0)
    for own, want in zip(cohort.peers["a"].get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(own, want, rtol=2e-5, atol=2e-6)


def test_an_optimizer_that_cannot_be_copied_is_taken_by_name():
    cohort = Cohort([linear("a"), linear("b")])
    with pytest.raises(InputError, match=r"^optimizer: SGD cannot be copied .*; valid: a dict by"):
        cohort.compile(keras.optimizers.SGD(Unsaved()))
    cohort.compile({name: keras.optimizers.SGD(Unsaved()) for name in "ab"})


def test_a_learning_rate_is_not_assigned_to_one_peer_alone():
    cohort = compiled([linear("a"), linear("b")])
    with pytest.raises(AttributeError):
        cohort.optimizer.learning_rate.assign(0.5)
    cohort.optimizer.learning_rate = 0.5
    rates = [float(one.learning_rate) for one in cohort.optimizer.by_peer.values()]
    assert rates == [0.5, 0.5]
    assert float(cohort.optimizer.learning_rate) == 0.5


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (teachers.Frozen({"big": small(4, "softmax")}, {"big": 1.0}), r"'big \(teacher\)' ends"),
        (teachers.Frozen({"big": small(7)}, {"big": 1.0}), "the numbers of logits differ"),
        (small(), r"received a model; valid: xkd_keras\.teachers\.Frozen"),
        ("frozen", r"received 'frozen'; valid: xkd_keras\.teachers\.Frozen"),
    ],
    ids=["softmax", "classes", "model", "name"],
)
def test_a_trained_network_that_cannot_teach_is_told(teacher, message):
    with pytest.raises(InputError, match=message):
        Cohort([linear("a")], teacher=teacher)


def test_weights_of_classes_that_were_given_to_fit_are_not_saved(tmp_path):
    cohort = compiled([linear("a")])
    path = tmp_path / "a.keras"
    fit(cohort, class_weight={1: 7.0}, callbacks=[keras.callbacks.ModelCheckpoint(path)])
    again = keras.models.load_model(path)
    assert again.class_weights is None
    fit(again, class_weight={1: 7.0})


@pytest.mark.parametrize("given", [("mse",), (None, None, ["accuracy"])])
def test_a_loss_in_keras_place_is_told(given):
    with pytest.raises(InputError, match=r"^loss: is set by the Cohort"):
        Cohort([linear("a")]).compile("sgd", *given)


def test_how_a_step_runs_is_kept_with_a_cohort(tmp_path):
    cohort = Cohort([linear("a")])
    cohort.compile("sgd", steps_per_execution=3, run_eagerly=True, jit_compile=False)
    cohort.save(tmp_path / "a.keras")
    again = keras.models.load_model(tmp_path / "a.keras")
    assert (again.steps_per_execution, again.run_eagerly, again.jit_compile) == (3, True, False)


def test_a_policy_for_all_layers_does_not_round_what_a_cohort_is_given():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        cohort = Cohort([peers.build("resnet20", (16, 16, 3), 4)], teacher=teachers.Gate())
    finally:
        keras.config.set_dtype_policy("float32")
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype("float32")
    alone = cohort.peers["resnet20"].predict(pixels, verbose=0)
    np.testing.assert_array_equal(cohort.predict(pixels, verbose=0)["resnet20"], alone)
    assert cohort._teacher.compute_dtype == "float32"


def test_peers_may_come_one_after_the_other():
    assert list(Cohort(linear(name) for name in "ab").peers) == ["a", "b"]


def two_inputs():
    one, two = (keras.Input((6, 6, 2), name=name) for name in ("one", "two"))
    x = keras.layers.Flatten()(one + two)
    return keras.Model({"one": one, "two": two}, keras.layers.Dense(4)(x), name="two")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weights": [2, 1]}, r"^weights: received \[2, 1\]; valid: a dict, a weight by name"),
        ({"distill": 0.5}, "^distill: received 0.5; valid: a dict, a factor by name"),
        ({"exits": 2}, "^exits: received 2; valid: a dict, layers by name"),
        ({"recompute": ["a"]}, r"^recompute: received \['a'\]; valid: a dict, layers by name"),
        ({"class_weights": "balanced"}, "^class_weights: received 'balanced'; valid: a number for"),
        ({"peers": [two_inputs()]}, "^peers: 'two' has 2 inputs; valid: one, images"),
    ],
)
def test_an_argument_of_another_kind_is_one_line(given, message):
    with pytest.raises(InputError, match=message) as caught:
        Cohort(**{"peers": [linear("a")], **given})
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_cohort_loads_where_it_was_imported(tmp_path):
    """With layers of this package in its peers, in a process that has done nothing else."""
    cohort = Cohort([peers.fused(peers.build("resnet20", (16, 16, 3), 4))])
    cohort.save(tmp_path / "a.keras")
    code = (
        "import keras; from xkd_keras import Cohort, losses, optimizers;"
        f"print(list(keras.models.load_model({str(tmp_path / 'a.keras')!r}).peers))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['resnet20']"


@keras.saving.register_keras_serializable("tests")
class Inner(keras.layers.Layer):
    """A teacher whose layer is made by its first call, as Keras lets layers be."""

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.mixture = keras.layers.Dense(4)

    def call(self, logits, labels, **_):
        mixed = self.mixture(tf.stop_gradient(tf.reduce_mean(logits, axis=0)))
        self.add_loss(tf.reduce_mean(losses.cross_entropy(labels, mixed)))
        return tf.broadcast_to(mixed, tf.shape(logits))


def test_a_teacher_without_a_build_of_its_own_learns(tmp_path):
    teacher = Inner()
    cohort = compiled([linear("a"), linear("b")], teacher=teacher)
    before = teacher.mixture.kernel.numpy()
    fit(cohort)
    assert set(cohort.optimizer.by_peer) == {"a", "b", "ensemble"}
    assert np.abs(teacher.mixture.kernel.numpy() - before).min() > 0
    cohort.save(tmp_path / "cohort.keras")
    with pytest.warns(UserWarning, match="the layer does not have a `build"):  # of Keras
        again = keras.models.load_model(tmp_path / "cohort.keras")
    np.testing.assert_array_equal(again.teacher.mixture.kernel, teacher.mixture.kernel)
    fit(again)


def test_a_network_with_a_layer_of_the_same_name_as_ours_is_trained():
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Rescaling(1 / 255, name="normalize")(inputs)
    fit(compiled([keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(x)), name="a")]))


def test_a_teacher_learns_from_networks_that_know_no_shape():
    fit(compiled({"a": Own(), "b": linear("b")}, teacher="gate"))


@pytest.mark.parametrize("form", [lambda x: [x], lambda x: {"keras_tensor": x}])
def test_images_come_in_any_form_that_keras_takes_one_input_in(form):
    cohort, twin = (compiled([linear("a"), linear("b")], schedule=0.0) for _ in range(2))
    for name, peer in cohort.peers.items():
        twin.peers[name].set_weights(peer.get_weights())
    cohort.fit(form(IMAGES), LABELS, batch_size=16, shuffle=False, verbose=0)
    fit(twin)
    np.testing.assert_allclose(
        cohort.predict(form(IMAGES), verbose=0)["a"], twin.predict(IMAGES, verbose=0)["a"], 1e-5
    )
    got = cohort.evaluate(form(IMAGES), LABELS, verbose=0, return_dict=True)
    assert got == pytest.approx(twin.evaluate(IMAGES, LABELS, verbose=0, return_dict=True), 1e-5)


def test_two_inputs_are_told():
    with pytest.raises(InputError, match=r"^images: received 2 inputs; valid: one, \[batch, h"):
        compiled([linear("a")]).predict([IMAGES, IMAGES], verbose=0)


def test_statistics_of_the_data_that_are_shared_are_refused_and_what_is_said_instead_works():
    first, second = (keras.layers.Normalization(name=name) for name in ("first", "second"))
    for layer in (first, second):
        layer.adapt(IMAGES)

    def network(name, normalize):
        inputs = keras.Input((6, 6, 2))
        x = keras.layers.Flatten()(normalize(inputs))
        return keras.Model(inputs, keras.layers.Dense(4)(x), name=name)

    with pytest.raises(InputError, match=r"valid: for each .* of its own, adapted as 'first' was"):
        Cohort([network("a", first), network("b", first)])
    fit(compiled([network("a", first), network("b", second)]))


@pytest.mark.parametrize(("mean", "std", "warns"), [(None, None, True), (0.5, 0.25, False)])
def test_pixels_of_0_to_1_are_warned_of_where_bytes_are_expected(mean, std, warns, capfd):
    peer = peers.build("tests.small_peers:plain", (16, 16, 3), 4, mean=mean, std=std)
    cohort = compiled([peer])
    cohort.fit(np.ones((4, 16, 16, 3), "float32"), LABELS[:4], verbose=0)
    assert ("lie in 0..1" in capfd.readouterr().err) == warns
