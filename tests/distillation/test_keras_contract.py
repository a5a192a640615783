"""A Cohort does what a Keras program asks for, or names what it does not do.

What is right comes from plain Keras, trained beside it on the same batches.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.small_cohorts import IMAGES, LABELS, convolutional, linear
from xkd_keras import Cohort, peers
from xkd_keras.distillation.teachers import Frozen
from xkd_keras.errors import InputError


def twins():
    """Return a network and a copy of it with the same weights."""
    first = convolutional("a", 3)
    second = keras.models.clone_model(first)
    second.set_weights(first.get_weights())
    return first, second


def alone(peer, optimizer, callbacks=(), **data):
    """Train one peer in a Cohort in which nobody teaches; return it."""
    cohort = Cohort({"a": peer}, schedule=0.0)
    cohort.compile(optimizer)
    cohort.fit(*PLAIN, batch_size=16, epochs=3, shuffle=False, verbose=0, callbacks=[*callbacks])
    return cohort


def plainly(model, optimizer, callbacks=()):
    """Train the same network as any Keras program would."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    model.fit(*PLAIN, batch_size=16, epochs=3, shuffle=False, verbose=0, callbacks=[*callbacks])
    return model


PLAIN = (IMAGES, LABELS)


def agree(cohort, model):
    for own, expected in zip(cohort.peers["a"].get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(own, expected, rtol=2e-5, atol=2e-6)


class TestOptimizers:
    """What an optimizer was asked for is done, as plain Keras does it, or refused by name."""

    @pytest.mark.parametrize(
        "options",
        [
            {"use_ema": True, "ema_momentum": 0.8},
            {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 2},
            {"gradient_accumulation_steps": 3},
            {"clipnorm": 0.05},
            {"weight_decay": 0.01},
        ],
        ids=lambda options: "-".join(options),
    )
    def test_options_have_the_effect_that_they_have_in_plain_keras(self, options):
        first, second = twins()
        cohort = alone(first, keras.optimizers.SGD(0.05, momentum=0.9, **options))
        agree(cohort, plainly(second, keras.optimizers.SGD(0.05, momentum=0.9, **options)))

    def test_swapped_averages_are_those_of_plain_keras(self):
        first, second = twins()
        made = [keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.7) for _ in range(2)]
        swap = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True) for _ in range(2)]
        agree(alone(first, made[0], swap[:1]), plainly(second, made[1], swap[1:]))

    def test_averages_of_one_peer_leave_the_other_alone(self):
        peer, other = convolutional("a", 3), linear("b")
        unaveraged = keras.models.clone_model(other)
        unaveraged.set_weights(other.get_weights())
        cohort = Cohort({"a": peer, "b": other}, schedule=0.0)
        plain_sgd = keras.optimizers.SGD(0.05)
        cohort.compile({"a": keras.optimizers.SGD(0.05, use_ema=True), "b": plain_sgd})
        cohort.fit(*PLAIN, batch_size=16, epochs=2, shuffle=False, verbose=0)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        unaveraged.compile(keras.optimizers.SGD(0.05), loss)
        unaveraged.fit(*PLAIN, batch_size=16, epochs=2, shuffle=False, verbose=0)
        for own, expected in zip(other.get_weights(), unaveraged.get_weights(), strict=True):
            np.testing.assert_allclose(own, expected, rtol=2e-5, atol=2e-6)

    @pytest.mark.parametrize(
        ("optimizer", "mode", "parts"),
        [
            (
                keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
                "stop",
                ("LossScaleOptimizer", "float16"),
            ),
            (keras.optimizers.SGD(loss_scale_factor=8.0), "stop", ("loss_scale_factor",)),
            (
                keras.optimizers.SGD(gradient_accumulation_steps=2),
                "skip",
                ("gradient_accumulation_steps", "on_nonfinite='stop'"),
            ),
        ],
        ids=["LossScaleOptimizer", "loss_scale_factor", "accumulation_with_skip"],
    )
    def test_what_a_cohort_does_otherwise_is_refused_by_name(self, optimizer, mode, parts):
        with pytest.raises(InputError, match=r"^optimizer: 'a'") as caught:
            Cohort([linear("a"), linear("b")]).compile(optimizer, on_nonfinite=mode)
        assert all(part in str(caught.value) for part in parts)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("name", ["loss", "auto_scale_loss", "metrics"])
    def test_what_a_cohort_brings_itself_is_refused_by_name(self, name):
        with pytest.raises(InputError, match=f"^{name}: "):
            Cohort([linear("a")]).compile("sgd", **{name: ["mse"]})


class TestPeers:
    """No variable belongs to two networks, and every network returns logits [B, C]."""

    def test_one_network_given_twice_is_refused(self):
        peer = linear("a")
        with pytest.raises(InputError, match=r"^peers: peer 'a' and peer 'b' share the variable"):
            Cohort({"a": peer, "b": peer})

    def test_a_shared_layer_is_refused(self):
        inputs, shared = keras.Input((6, 6, 2)), keras.layers.Dense(4, name="shared")
        flat = keras.layers.Flatten()(inputs)
        first = keras.Model(inputs, shared(flat), name="a")
        second = keras.Model(inputs, shared(keras.layers.Dropout(0.5)(flat)), name="b")
        with pytest.raises(InputError, match="shared/kernel"):
            Cohort([first, second])

    def test_a_peer_that_is_its_own_frozen_teacher_is_refused(self):
        peer = linear("a")
        with pytest.raises(InputError, match="peer 'a' and the teacher's 'old' share"):
            Cohort([peer], teacher=Frozen({"old": peer}, {"old": 1.0}))

    def test_a_frozen_copy_may_teach(self):
        first, second = twins()
        Cohort({"a": first}, teacher=Frozen({"old": second}, {"old": 1.0}))

    @pytest.mark.parametrize(
        ("make", "told"),
        [
            (lambda x: keras.layers.Dense(4, "softmax")(keras.layers.Flatten()(x)), "softmax"),
            (lambda x: keras.layers.Softmax()(keras.layers.Flatten()(x)), "softmax"),
            (lambda x: keras.layers.Activation("sigmoid")(keras.layers.Flatten()(x)), "sigmoid"),
            (lambda x: keras.ops.softmax(keras.layers.Flatten()(x)), "ends in softmax"),
            (lambda x: keras.layers.Dense(4, "relu")(keras.layers.Flatten()(x)), "ends in relu"),
            (
                lambda x: keras.layers.Activation("linear", dtype="float32")(
                    keras.ops.cast(keras.layers.ReLU()(keras.layers.Flatten()(x)), "float16")
                ),
                "ends in relu",
            ),
            (lambda x: [keras.layers.Flatten()(x)] * 2, "2 outputs"),
            (lambda x: {"logits": keras.layers.Flatten()(x)}, "outputs by name"),
            (lambda x: keras.layers.Dense(10)(x), r"\[None, 6, 6, 10\]"),
        ],
        ids=[
            *("dense_softmax", "softmax", "sigmoid", "ops_softmax", "dense_relu", "below_casts"),
            *("two", "dict", "no_pooling"),
        ],
    )
    def test_what_are_no_logits_is_told_when_the_cohort_is_made(self, make, told):
        inputs = keras.Input((6, 6, 2))
        with pytest.raises(InputError, match=f"^peers: 'bad' .*{told}.*valid: ") as caught:
            Cohort([keras.Model(inputs, make(inputs), name="bad")])
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "last",
        [
            keras.layers.GlobalAveragePooling2D(),  # of what a relu gave, as SqueezeNet's
            lambda x: keras.ops.log_softmax(keras.layers.Flatten()(x)),  # logits, if shifted ones
            lambda x: keras.ops.cast(keras.layers.Dense(4)(keras.layers.Flatten()(x)), "float32"),
        ],
        ids=["pooled", "log_softmax", "cast"],
    )
    def test_whatever_may_have_either_sign_is_taken_for_logits(self, last):
        inputs = keras.Input((6, 6, 2))
        Cohort([keras.Model(inputs, last(keras.layers.Conv2D(4, 3, activation="relu")(inputs)))])

    def test_keras_applications_with_their_default_head_are_told_what_to_do(self):
        network = keras.applications.MobileNetV3Small(
            (32, 32, 3), weights=None, classes=4, include_preprocessing=False
        )
        wrapped = keras.Sequential([keras.Input((32, 32, 3)), network], name="wrapped")
        with pytest.raises(InputError, match=r"softmax.*classifier_activation=None"):
            Cohort([wrapped])


class TestBatches:
    """Labels, weights and images as programs give them."""

    def compiled(self, **kwargs):
        cohort = Cohort([linear("a"), convolutional("b", 2)])
        cohort.compile(keras.optimizers.SGD(0.1), **kwargs)
        return cohort

    @pytest.mark.parametrize(
        ("labels", "told"),
        [
            (LABELS.astype("float32"), r"received float32; valid: class numbers, 0 to 3"),
            (np.eye(4)[LABELS], r"received shape \(.*4\); valid: class numbers"),
            (np.eye(4)[LABELS][:, None, :], r"received shape .*; valid: class numbers"),
            (np.where(np.arange(48) == 40, 4, LABELS), r"received 4; valid: 0 to 3"),
            (np.where(np.arange(48) == 3, -1, LABELS), r"received -1; valid: 0 to 3"),
        ],
        ids=["floats", "one_hot", "one_hot_in_rows", "too_large", "negative"],
    )
    @pytest.mark.parametrize("method", ["fit", "evaluate"])
    def test_labels_that_are_no_class_numbers_are_one_line(self, method, labels, told):
        with pytest.raises(InputError, match=f"^labels: {told}") as caught:
            getattr(self.compiled(), method)(IMAGES, labels, batch_size=16, verbose=0)
        assert "\n" not in str(caught.value)

    def test_under_xla_a_label_out_of_range_does_not_end_in_silence(self):
        labels = np.where(np.arange(48) == 5, 7, LABELS)
        with pytest.raises(FloatingPointError, match="non-finite loss: peer a, in epoch 1"):
            self.compiled(jit_compile=True).fit(IMAGES, labels, batch_size=16, verbose=0)

    def test_labels_in_rows_of_one_are_taken(self):
        first, second = self.compiled(), self.compiled()
        second.set_weights(first.get_weights())
        losses = [
            cohort.evaluate(IMAGES, labels, verbose=0, return_dict=True)["loss"]
            for cohort, labels in ((first, LABELS), (second, LABELS[:, None]))
        ]
        assert losses[0] == losses[1]

    @pytest.mark.slow
    def test_pixels_in_0_to_1_are_warned_of_once_where_peers_take_0_to_255(self, capfd):
        cohort = Cohort([peers.build("resnet20", (32, 32, 3), 4)])
        cohort.compile(keras.optimizers.SGD(0.01))
        images = np.random.default_rng(0).uniform(size=(8, 32, 32, 3)).astype("float32")
        cohort.fit(images, LABELS[:8], batch_size=4, epochs=2, verbose=0)
        assert capfd.readouterr().err.count("0..255") == 1
        cohort.optimizer.iterations.assign(0)
        cohort.fit(255 * images, LABELS[:8], batch_size=4, verbose=0)
        assert "0..255" not in capfd.readouterr().err

    @pytest.mark.slow
    def test_a_replica_without_an_image_changes_nothing_but_the_count(self, two_cpus):
        """33 images in batches of 16 on two devices: one of them has none of the last batch."""
        with two_cpus.scope():
            cohort = Cohort([convolutional("a", 3), linear("b")])
            cohort.compile(keras.optimizers.SGD(0.1))
        single = Cohort([convolutional("a", 3), linear("b")])
        for name, peer in single.peers.items():
            peer.set_weights(cohort.peers[name].get_weights())
        single.compile(keras.optimizers.SGD(0.1))
        data = IMAGES[:33], LABELS[:33]
        spread = cohort.evaluate(*data, batch_size=16, verbose=0, return_dict=True)
        whole = single.evaluate(*data, batch_size=16, verbose=0, return_dict=True)
        assert spread == pytest.approx(whole, rel=1e-5, abs=1e-6)
        answers = cohort.predict(IMAGES[:33], batch_size=16, verbose=0)
        expected = single.predict(IMAGES[:33], batch_size=16, verbose=0)
        np.testing.assert_allclose(answers["a"], expected["a"], rtol=1e-5, atol=1e-6)
        cohort.fit(*data, batch_size=16, shuffle=False, verbose=0)
        assert all(np.isfinite(w).all() for w in cohort.peers["a"].get_weights())

    def test_a_replica_without_an_image_adds_no_gradient(self, two_cpus):
        """The step is that of the one image, divided by the two devices as always."""
        with two_cpus.scope():
            cohort = Cohort([linear("a")], schedule=0.0)
            cohort.compile(keras.optimizers.SGD(0.1))
        kernel, bias = cohort.peers["a"].get_weights()
        cohort.fit(IMAGES[:1], LABELS[:1], batch_size=16, verbose=0)
        logits = IMAGES[:1].reshape(1, -1) @ kernel + bias
        p = np.exp(logits - logits.max())
        slope = p / p.sum() - np.eye(4)[LABELS[:1]]
        np.testing.assert_allclose(
            cohort.peers["a"].get_weights()[1], bias - 0.1 * slope[0] / 2, rtol=1e-4, atol=1e-6
        )


def test_export_names_what_to_use_instead():
    with pytest.raises(InputError, match=r"cohort\.peers\['a'\]\.export"):
        Cohort([linear("a"), linear("b")]).export("somewhere")


def test_summary_lists_the_peers_and_their_parameters(capsys):
    Cohort([linear("a"), linear("b")]).summary()
    shown = capsys.readouterr().out
    assert "a (Functional)" in shown
    assert "b (Functional)" in shown
    assert "292" in shown  # 72 x 4 + 4 of each
    assert "584" in shown


def test_steps_of_uneven_sizes_run_eagerly_too():
    cohort = Cohort([linear("a")])
    cohort.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    history = cohort.fit(IMAGES[:10], LABELS[:10], batch_size=4, verbose=0)
    assert tf.math.is_finite(history.history["loss"][0])
