"""The Cohort as Keras users use it: callbacks, saving, labels as they come, and what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.small_cohorts import IMAGES, LABELS, compiled, convolutional, fit, linear
from xkd_keras import Cohort
from xkd_keras.distillation import schedules
from xkd_keras.errors import InputError


def test_predict_returns_every_peers_logits_and_their_weighted_mean():
    peers = {"a": linear("a"), "b": linear("b")}
    cohort = compiled(peers, weights={"a": 3, "b": 1})
    got = cohort.predict(IMAGES, verbose=0)
    a, b = (peer.predict(IMAGES, verbose=0) for peer in peers.values())
    np.testing.assert_allclose(got["a"], a, atol=1e-6)
    np.testing.assert_allclose(got["ensemble"], 0.75 * a + 0.25 * b, atol=1e-5)


def test_a_non_finite_loss_names_only_the_peer_where_it_began():
    cohort = compiled({"good": linear("a"), "bad": linear("b")}, schedule=0.25)
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (
            batch == 1 and cohort.peers["bad"].layers[-1].bias.assign(np.full(4, np.nan))
        )
    )
    with pytest.raises(FloatingPointError, match=r"^non-finite loss: peer bad, step 2, lambda 0"):
        fit(cohort, callbacks=[callback])


def test_keras_callbacks_work(tmp_path):
    cohort = compiled([linear("a"), linear("b")])
    best = tmp_path / "best.keras"
    callbacks = [
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2),
        keras.callbacks.ReduceLROnPlateau("val_a_top1", mode="max"),
        keras.callbacks.EarlyStopping("val_a_top1", mode="max", start_from_epoch=3),
        keras.callbacks.ModelCheckpoint(best, "val_loss", save_best_only=True),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
    ]
    history = fit(cohort, 2, validation_data=(IMAGES, LABELS), callbacks=callbacks)
    assert float(cohort.optimizer.by_peer["b"].learning_rate) == pytest.approx(0.025)
    assert len(history.history["val_loss"]) == 2
    assert best.exists()


def test_early_stopping_puts_back_every_peer_as_it_was_in_the_best_epoch():
    """With a rate that makes things worse, the best epoch is the first; no epoch stops the run."""
    cohort = compiled([linear("a"), convolutional("b", 4)], rate=1.0)
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append((logs["val_loss"], cohort.get_weights()))

    stopping = keras.callbacks.EarlyStopping(patience=9, restore_best_weights=True)
    held_out = IMAGES[:16], LABELS[::-1][:16]
    fit(cohort, 4, validation_data=held_out, callbacks=[Watch(), stopping])
    losses = [loss for loss, _ in seen]
    assert int(np.argmin(losses)) < 3
    for now, then in zip(cohort.get_weights(), seen[np.argmin(losses)][1], strict=True):
        np.testing.assert_array_equal(now, then)


def test_training_that_was_backed_up_ends_as_if_it_had_not_been_interrupted(tmp_path):
    def trained(stop=None, directory=None):
        keras.utils.set_random_seed(3)
        cohort = Cohort([linear("a"), convolutional("b", 4)])
        cohort.compile(keras.optimizers.Adam(0.01))
        kept = [keras.callbacks.BackupAndRestore(directory)] if directory else []

        class Stop(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == stop:
                    raise KeyboardInterrupt

        fit(cohort, 4, callbacks=[*kept, Stop()])
        return cohort

    with pytest.raises(KeyboardInterrupt):
        trained(2, tmp_path / "backup")
    again, whole = trained(directory=tmp_path / "backup"), trained()
    for one, other in zip(again.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_class_weights_count_in_a_tf_data_pipeline_as_in_plain_keras():
    weights = {0: 1.0, 1: 5.0, 2: 0.5, 3: 2.0}
    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(16)
    cohort, alone = Cohort([linear("a")], schedule=0.0), linear("alone")
    alone.set_weights(cohort.peers["a"].get_weights())
    cohort.compile(keras.optimizers.SGD(0.1))
    alone.compile(
        keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    for model in (cohort, alone):
        model.fit(data, epochs=2, class_weight=weights, shuffle=False, verbose=0)
    for one, other in zip(cohort.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_class_weights_do_not_count_in_what_is_said_of_accuracy():
    histories = []
    for weights in (None, {0: 100.0}, None):
        keras.utils.set_random_seed(0)
        cohort = compiled([linear("a"), linear("b")], rate=0.0)
        fit(cohort, class_weight={1: 7.0})  # before it: nothing of it stays
        histories.append(fit(cohort, class_weight=weights).history)
    plain, weighted, again = histories
    assert weighted["a_top1"] == plain["a_top1"]
    assert weighted["a_cross_entropy"] == pytest.approx(plain["a_cross_entropy"])
    assert weighted["loss"][0] > 2 * plain["loss"][0]
    assert again == plain


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({4: 2.0}, "^class_weight: received a weight of class 4; valid: 0 to 3"),
        ({0: -1.0}, "^class_weight: received .*; valid: 4 numbers"),
    ],
)
def test_class_weights_of_no_class_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        fit(compiled([linear("a")]), class_weight=given)
    with pytest.raises(InputError, match="the Cohort has class_weights"):
        fit(compiled([linear("a")], class_weights=[1, 2, 3, 4]), class_weight={0: 1.0})


def test_a_saved_cohort_goes_on_as_if_it_had_not_been_interrupted(tmp_path):
    peers = [linear("a"), convolutional("b", 4)]
    cohort = compiled(peers, schedule=schedules.Windows(1.0, 6, 2, 1), weights={"a": 1, "b": 2})
    fit(cohort)
    cohort.save(tmp_path / "cohort.keras")
    again = keras.models.load_model(tmp_path / "cohort.keras")
    fit(cohort)
    fit(again)
    assert int(again.optimizer.iterations) == 6
    for a, b in zip(cohort.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"peers": []}, "peers: received none"),
        ({"peers": ["alexnet"]}, "peers: received 'alexnet'; valid: Keras models"),
        ({"peers": {"a": 3}}, "peers: received 3; valid: Keras models"),
        ({"peers": linear("a")}, "peers: received one model; valid: a list of models"),
        ({"peers": [linear("a"), linear("a")]}, "peers: the name 'a' is used twice"),
        ({"peers": {"ensemble": linear("a")}}, "peers: the name 'ensemble' is taken"),
        ({"temperature": 0}, "temperature: received 0; valid: a number above 0"),
        ({"teacher": "maen"}, "teacher: unknown value 'maen'. Did you mean 'mean'"),
        ({"weights": {"a": 1}}, "weights: received {'a': 1}; valid: one >= 0 for each of a, b"),
        ({"weights": {"a": 0, "b": 0}}, "weights: received .* not all 0"),
    ],
)
def test_what_a_cohort_cannot_be_made_of_is_said(kwargs, message):
    with pytest.raises(InputError, match=message):
        Cohort(**{"peers": [linear("a"), linear("b")], **kwargs})


def test_peers_with_different_numbers_of_classes_are_refused():
    inputs = keras.Input((6, 6, 2))
    other = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Flatten()(inputs)), name="o")
    with pytest.raises(InputError, match=r"numbers of logits differ: .*4.*5"):
        Cohort([linear("a"), other])


def test_labels_may_come_in_a_column_as_those_of_cifar():
    one, two = compiled([linear("a")]), compiled([linear("a")])
    two.peers["a"].set_weights(one.peers["a"].get_weights())
    one.fit(IMAGES, LABELS, shuffle=False, verbose=0)
    two.fit(IMAGES, LABELS[:, None], shuffle=False, verbose=0)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_labels_that_are_no_class_numbers_are_refused():
    cohort = compiled([linear("a")])
    with pytest.raises(ValueError, match=r"labels: received shape .* valid: class numbers"):
        cohort.fit(IMAGES, np.eye(4, dtype="float32")[LABELS], verbose=0)
    with pytest.raises(InputError, match="labels: received 9; valid: 0 to 3"):
        cohort.fit(IMAGES, np.full(48, 9), verbose=0)


def test_a_distillation_term_that_is_not_finite_stops_too():
    cohort = compiled([linear("a"), linear("b")], teacher=lambda logits, **_: logits * np.inf)
    with pytest.raises(FloatingPointError, match="non-finite loss: peer a, b, step 0"):
        fit(cohort)


def test_a_teacher_of_ones_own_gets_tensors():
    def heaviest(logits, weights, **_):
        return tf.broadcast_to(logits[tf.argmax(weights)], tf.shape(logits))

    peers = {"a": linear("a"), "b": linear("b")}
    cohort = compiled(peers, teacher=heaviest, weights={"a": 1, "b": 3})
    logs = cohort.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    assert logs["b_distillation"] == pytest.approx(0, abs=1e-6)
    assert logs["a_distillation"] > 0.01


def test_a_teacher_that_takes_other_arguments_is_refused_before_training():
    with pytest.raises(InputError, match=r"teacher: .* valid: a name, or a function of \(logits"):
        Cohort([linear("a"), linear("b")], teacher=lambda logits, weights: logits)


def test_one_optimizer_object_given_for_two_peers_becomes_two():
    sgd = keras.optimizers.SGD(0.1)
    cohort = Cohort([linear("a"), linear("b")])
    cohort.compile({"a": sgd, "b": sgd})
    fit(cohort)
    assert len({id(optimizer) for optimizer in cohort.optimizer.by_peer.values()}) == 2


@pytest.mark.parametrize("what", ["loss", "metrics"])
def test_a_loss_or_metrics_of_ones_own_are_refused(what):
    with pytest.raises(InputError, match=f"{what}: is set by the Cohort"):
        Cohort([linear("a")]).compile("sgd", **{what: "mse"})


def test_a_peer_of_one_logit_is_refused():
    inputs = keras.Input((6, 6, 2))
    binary = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(inputs)), name="o")
    with pytest.raises(InputError, match=r"'o' has 1 logits; valid: .* two or more"):
        Cohort([binary])


def test_optimizers_of_other_peers_are_refused():
    with pytest.raises(InputError, match="optimizer: received one for c; valid: one for each of a"):
        Cohort([linear("a")]).compile({"c": "sgd"})
