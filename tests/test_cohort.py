"""The Cohort against steps worked by hand, its peers trained apart, and as Keras users use it."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

from xkd_keras import Cohort, distill, schedules
from xkd_keras.errors import InputError

RNG = np.random.default_rng(2)
IMAGES = RNG.normal(size=(48, 6, 6, 2)).astype("float32")
LABELS = RNG.integers(0, 4, 48)


def linear(name):
    """Logits = flattened image times kernel plus bias: small enough to differentiate by hand."""
    inputs = keras.Input((6, 6, 2))
    logits = keras.layers.Dense(4, name=f"{name}_logits")(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, logits, name=name)


def convolutional(name, width, **kwargs):
    inputs = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(width, 3, activation="relu", **kwargs)(inputs)
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(x)), name=name)


def compiled(peers, rate=0.1, **kwargs):
    cohort = Cohort(peers, **kwargs)
    cohort.compile(keras.optimizers.SGD(rate, momentum=0.9))
    return cohort


def fit(cohort, epochs=1, **kwargs):
    data = (IMAGES, LABELS)
    return cohort.fit(*data, batch_size=16, epochs=epochs, shuffle=False, verbose=0, **kwargs)


def by_hand(weights, schedule, temperature, rate, momentum=0.9):
    """Return kernels and biases after one pass of DESIGN's algorithm in NumPy float64."""
    weights = [[w.astype("float64") for w in pair] for pair in weights]
    speed = [[np.zeros_like(w) for w in pair] for pair in weights]
    for t in range(3):
        x = IMAGES[16 * t : 16 * t + 16].reshape(16, -1).astype("float64")
        y = np.eye(4)[LABELS[16 * t : 16 * t + 16]]
        logits = [x @ kernel + bias for kernel, bias in weights]
        target = softmax(np.mean(logits, axis=0) / temperature, -1)
        for i, z in enumerate(logits):
            labelled = softmax(z, -1) - y
            distilled = temperature * (softmax(z / temperature, -1) - target)
            dz = (labelled + schedule[t] * distilled) / 16
            for j, gradient in enumerate([x.T @ dz, dz.sum(0)]):
                speed[i][j] = momentum * speed[i][j] - rate * gradient
                weights[i][j] = weights[i][j] + speed[i][j]
    return weights


def test_three_steps_are_those_worked_by_hand():
    cohort = compiled([linear("a"), linear("b")], schedule=schedules.Windows(2.0, 3, 1, 1))
    start = [peer.get_weights() for peer in cohort.peers.values()]
    fit(cohort)
    want = by_hand(start, [2 / 3, 4 / 3, 2], 3.0, 0.1)
    for peer, (kernel, bias) in zip(cohort.peers.values(), want, strict=True):
        np.testing.assert_allclose(peer.get_weights()[0], kernel, atol=2e-6)
        np.testing.assert_allclose(peer.get_weights()[1], bias, atol=2e-6)


def test_lambda_changes_from_step_to_step_within_one_traced_function():
    cohort = compiled([linear("a"), linear("b")], schedule=schedules.Windows(1.0, 3, 3, 1))
    seen = []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(float(logs["distill_weight"]))
    )
    fit(cohort, callbacks=[callback])
    np.testing.assert_allclose(seen, [0, 0, 1 / 3], rtol=1e-6)  # running means over the epoch


def test_lambda_zero_ends_where_the_peers_trained_apart_end():
    """Tolerance 1e-6: the same arithmetic, but in another graph."""
    peers = [convolutional("a", 4), convolutional("b", 8)]
    apart = [keras.models.clone_model(peer) for peer in peers]
    for copy, peer in zip(apart, peers, strict=True):
        copy.set_weights(peer.get_weights())
        copy.compile(
            keras.optimizers.SGD(0.1, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        fit(copy, epochs=3)
    fit(compiled(peers, schedule=0.0), epochs=3)
    for copy, peer in zip(apart, peers, strict=True):
        for ours, theirs in zip(peer.get_weights(), copy.get_weights(), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("teacher", ["mean", "leave_one_out"])
def test_no_peers_loss_reaches_another_peer(teacher):
    cohort = compiled([linear("a"), linear("b"), linear("c")], teacher=teacher)
    variables = [peer.trainable_variables for peer in cohort.peers.values()]
    for i in range(3):
        with tf.GradientTape() as tape:
            labelled, distilled = cohort._terms(LABELS, cohort._logits(IMAGES, training=True))
            loss = tf.reduce_sum(labelled[i] + distilled[i])
        for j, gradients in enumerate(tape.gradient(loss, variables)):
            moved = any(g is not None and np.any(g.numpy()) for g in gradients)
            assert moved == (i == j), (i, j)


def test_regularisation_losses_of_a_peer_are_minimised_too():
    peer = convolutional("a", 4, kernel_regularizer=keras.regularizers.L2(0.5))
    cohort = compiled([peer], schedule=0.0)
    kernel = peer.layers[1].kernel
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(distill.cross_entropy(LABELS, peer(IMAGES)))
    want = kernel.numpy() - 0.1 * (tape.gradient(loss, kernel.value) + 2 * 0.5 * kernel)
    cohort.fit(IMAGES, LABELS, batch_size=48, verbose=0)
    np.testing.assert_allclose(kernel.numpy(), want, atol=1e-6)


def test_each_peer_has_its_own_optimizer():
    peers = {"slow": linear("a"), "fast": linear("b")}
    cohort = Cohort(peers)
    rates = {"slow": 0.0, "fast": 0.1}
    cohort.compile({name: keras.optimizers.SGD(rate) for name, rate in rates.items()})
    before = {name: peer.get_weights() for name, peer in peers.items()}
    fit(cohort)
    assert np.array_equal(peers["slow"].get_weights()[0], before["slow"][0])
    assert not np.array_equal(peers["fast"].get_weights()[0], before["fast"][0])


def test_metrics_are_exact_with_a_masked_last_batch():
    cohort = compiled({"a": linear("a"), "b": convolutional("b", 4)}, schedule=0.5)
    mask = np.ones(48, "float32")
    mask[41:] = 0
    broken = IMAGES.copy()
    broken[41:] = 1e3  # would show in every mean
    data = tf.data.Dataset.from_tensor_slices((broken, LABELS, mask)).batch(16)
    got = cohort.evaluate(data, verbose=0, return_dict=True)

    z = np.stack([p.predict(IMAGES[:41], verbose=0) for p in cohort.peers.values()]).astype("f8")
    y, rows = LABELS[:41], np.arange(41)
    mean = z.mean(0)
    q = softmax(mean / 3, -1)
    labelled = -log_softmax(z, -1)[:, rows, y].mean(-1)
    distilled = (9 * np.sum(q * (np.log(q) - log_softmax(z / 3, -1)), -1)).mean(-1)
    want = {
        "a_cross_entropy": labelled[0],
        "b_cross_entropy": labelled[1],
        "a_distillation": distilled[0],
        "b_distillation": distilled[1],
        "a_top1": np.mean(z[0].argmax(-1) == y),
        "b_top1": np.mean(z[1].argmax(-1) == y),
        "ensemble_top1": np.mean(mean.argmax(-1) == y),
        "ensemble_cross_entropy": -log_softmax(mean, -1)[rows, y].mean(),
        "agreement": np.mean(z[0].argmax(-1) == z[1].argmax(-1)),
        "distill_weight": 0.5,
        "loss": np.sum(labelled),  # without the teacher, whose weight changes from window to window
    }
    assert got == pytest.approx(want, rel=1e-4)


def test_predict_returns_every_peers_logits_and_their_weighted_mean():
    peers = {"a": linear("a"), "b": linear("b")}
    cohort = compiled(peers, weights={"a": 3, "b": 1})
    got = cohort.predict(IMAGES, verbose=0)
    a, b = (peer.predict(IMAGES, verbose=0) for peer in peers.values())
    np.testing.assert_allclose(got["a"], a, atol=1e-6)
    np.testing.assert_allclose(got["ensemble"], 0.75 * a + 0.25 * b, atol=1e-5)


def test_two_replicas_end_with_the_loss_and_weights_of_one(two_cpus):
    """No batch normalisation here, so equal up to the order of sums: 1e-5 over 9 steps."""

    def trained():
        keras.utils.set_random_seed(0)
        peers = [convolutional("a", 4), convolutional("b", 8)]
        return compiled(peers, schedule=schedules.Windows(1.0, 9, 3, 2))

    one = trained()
    with two_cpus.scope():
        two = trained()
    logs = [fit(cohort, 3, validation_data=(IMAGES, LABELS)).history for cohort in (one, two)]
    assert logs[0].keys() == logs[1].keys()
    for name in logs[0]:
        np.testing.assert_allclose(logs[0][name], logs[1][name], rtol=1e-4, atol=1e-5, err_msg=name)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert int(np.asarray(two.optimizer.iterations)) == 9


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
    with pytest.raises(tf.errors.InvalidArgumentError, match="label value of 9"):
        cohort.fit(IMAGES, np.full(48, 9), verbose=0)


def test_training_weighs_examples_as_keras_does():
    weights = np.linspace(0, 2, 48).astype("float32")
    one = linear("a")
    apart = keras.models.clone_model(one)
    apart.set_weights(one.get_weights())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    apart.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, jit_compile=False)
    fit(apart, 2, sample_weight=weights)
    fit(compiled([one], schedule=0.0), 2, sample_weight=weights)
    for a, b in zip(one.get_weights(), apart.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_two_replicas_minimise_the_same_regularisation_loss(two_cpus):
    def trained():
        keras.utils.set_random_seed(0)
        peer = convolutional("a", 4, kernel_regularizer=keras.regularizers.L2(0.5))
        return compiled([peer], schedule=0.0)

    one = trained()
    with two_cpus.scope():
        two = trained()
    for cohort in (one, two):
        fit(cohort)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_batches_that_replicas_cannot_share_evenly_are_trained_and_evaluated(two_cpus):
    """17 images in batches of 4: the last has one, and a replica none."""
    with two_cpus.scope():
        cohort = compiled([linear("a"), linear("b")])
    logs = cohort.fit(IMAGES[:17], LABELS[:17], batch_size=4, verbose=0).history
    assert np.isfinite(logs["loss"][0])
    assert int(np.asarray(cohort.optimizer.iterations)) == 5
    odd = cohort.evaluate(IMAGES[:17], LABELS[:17], batch_size=3, verbose=0, return_dict=True)
    z = cohort.peers["a"](IMAGES[:17]).numpy()
    assert odd["a_top1"] == pytest.approx(np.mean(z.argmax(-1) == LABELS[:17]))


def test_xla_trains_to_the_same_weights():
    one, two = compiled([linear("a"), linear("b")]), compiled([linear("a"), linear("b")])
    two.set_weights(one.get_weights())
    two.compile(keras.optimizers.SGD(0.1, momentum=0.9), jit_compile=True)
    fit(one)
    fit(two)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_distillation_term_that_is_not_finite_stops_too():
    cohort = compiled([linear("a"), linear("b")], teacher=lambda logits, weights: logits * np.inf)
    with pytest.raises(FloatingPointError, match="non-finite loss: peer a, b, step 0"):
        fit(cohort)


def test_a_teacher_of_ones_own_gets_tensors():
    def heaviest(logits, weights):
        return tf.broadcast_to(logits[tf.argmax(weights)], tf.shape(logits))

    peers = {"a": linear("a"), "b": linear("b")}
    cohort = compiled(peers, teacher=heaviest, weights={"a": 1, "b": 3})
    logs = cohort.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    assert logs["b_distillation"] == pytest.approx(0, abs=1e-6)
    assert logs["a_distillation"] > 0.01


def test_one_optimizer_object_given_for_two_peers_becomes_two():
    sgd = keras.optimizers.SGD(0.1)
    cohort = Cohort([linear("a"), linear("b")])
    cohort.compile({"a": sgd, "b": sgd})
    fit(cohort)
    assert len({id(optimizer) for optimizer in cohort.optimizer.by_peer.values()}) == 2


@pytest.mark.parametrize("what", ["loss", "metrics"])
def test_a_loss_or_metrics_of_ones_own_are_refused(what):
    with pytest.raises(InputError, match=f"{what}: a Cohort has its own"):
        Cohort([linear("a")]).compile("sgd", **{what: "mse"})


def test_a_peer_of_one_logit_is_refused():
    inputs = keras.Input((6, 6, 2))
    binary = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(inputs)), name="o")
    with pytest.raises(InputError, match=r"'o' has 1 logits; valid: .* two or more"):
        Cohort([binary])


def test_optimizers_of_other_peers_are_refused():
    with pytest.raises(InputError, match="optimizer: received one for c; valid: one for each of a"):
        Cohort([linear("a")]).compile({"c": "sgd"})
