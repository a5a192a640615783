"""The Cohort's arithmetic against steps worked by hand and against its peers trained apart."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

from tests.small_cohorts import IMAGES, LABELS, compiled, convolutional, fit, linear
from xkd_keras import Cohort
from xkd_keras.data import balance
from xkd_keras.distillation import losses, schedules, teachers
from xkd_keras.errors import InputError
from xkd_keras.runs import scoring


def by_hand(weights, schedule, temperature, rate, momentum=0.9):
    """Return kernels and biases after a pass of the README's equations in NumPy float64."""
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


def test_validation_tells_lambda_of_the_last_step_not_of_the_one_to_come():
    """Of three steps an epoch, counted from 0, those with odd numbers distil."""
    cohort = compiled(
        [linear("a"), linear("b")], schedule=lambda step: tf.cast(step % 2, "float32")
    )
    history = fit(cohort, validation_data=(IMAGES, LABELS), epochs=2).history
    assert history["val_distill_weight"] == [0.0, 1.0]


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


def sure(logits, weights, **_):
    """A teacher of one's own, whose gate is soft: how sure it is."""
    mean = tf.tensordot(weights, logits, 1)
    gate = tf.reduce_max(tf.nn.softmax(mean), -1)
    return tf.broadcast_to(mean, tf.shape(logits)), tf.broadcast_to(gate, tf.shape(logits)[:2])


def squared(teacher_logits, logits, labels, temperature):
    """A term of one's own, which does not think of gradients."""
    return tf.reduce_mean((teacher_logits - logits) ** 2, -1)


@pytest.mark.parametrize(
    ("teacher", "term"),
    [*((name, "kl") for name in teachers.TEACHERS), (sure, "kl"), ("leave_one_out", squared)],
)
def test_no_peers_loss_reaches_another_peer(teacher, term):
    cohort = compiled([linear("a"), linear("b"), linear("c")], teacher=teacher, term=term)
    variables = [peer.trainable_variables for peer in cohort.peers.values()]
    for i in range(3):
        with tf.GradientTape() as tape:
            logits = cohort._logits(IMAGES, training=True)
            labelled, distilled, _ = cohort._terms(IMAGES, tf.constant(LABELS), logits)
            loss = tf.reduce_sum(labelled[i] + distilled[i])
        for j, gradients in enumerate(tape.gradient(loss, variables)):
            moved = any(g is not None and np.any(g.numpy()) for g in gradients)
            assert moved == (i == j), (i, j)


def test_regularisation_losses_of_a_peer_are_minimised_too():
    peer = convolutional("a", 4, kernel_regularizer=keras.regularizers.L2(0.5))
    cohort = compiled([peer], schedule=0.0)
    kernel = peer.layers[1].kernel
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(losses.cross_entropy(LABELS, peer(IMAGES)))
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

    z = np.stack([p(IMAGES[:41]) for p in cohort.peers.values()]).astype("f8")
    y, rows = LABELS[:41], np.arange(41)
    mean = z.mean(0)
    q = softmax(mean / 3, -1)

    def kl(a, b):
        return np.mean(np.sum(softmax(a, -1) * (log_softmax(a, -1) - log_softmax(b, -1)), -1))

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
        "pairwise_kl": np.mean([kl(z[0], z[1]), kl(z[1], z[0])]),
        "agreement": np.mean(z[0].argmax(-1) == z[1].argmax(-1)),
        "distill_weight": 0.5,
        "loss": np.sum(labelled),  # without the teacher, whose weight changes from window to window
    }
    assert got == pytest.approx(want, rel=1e-4)


def test_two_replicas_end_with_the_loss_and_weights_of_one(two_cpus):
    """No batch normalisation here, so equal up to the order of sums: 1e-5 over 9 steps."""

    def trained():
        keras.utils.set_random_seed(0)
        regular = {"kernel_regularizer": keras.regularizers.L2(0.5)}
        peers = [convolutional("a", 4), convolutional("b", 8, **regular)]
        options = {"label_smoothing": 0.2, "ema": 0.9}
        return compiled(peers, schedule=schedules.Windows(1.0, 9, 3, 2), **options)

    one = trained()
    with two_cpus.scope():
        two = trained()
    logs = [fit(cohort, 3, validation_data=(IMAGES, LABELS)).history for cohort in (one, two)]
    assert logs[0].keys() == logs[1].keys()
    for name in logs[0]:
        np.testing.assert_allclose(logs[0][name], logs[1][name], rtol=1e-4, atol=1e-5, err_msg=name)
    live = [one.get_weights(), two.get_weights()]
    with one.averaged(), two.averaged():
        averages = [one.get_weights(), two.get_weights()]
    for found in (live, averages):
        for a, b in zip(*found, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.abs(live[1][0] - averages[1][0]).max() > 1e-3
    assert int(np.asarray(two.optimizer.iterations)) == 9


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


@pytest.mark.slow
def test_xla_trains_to_the_same_weights():
    one, two = compiled([linear("a"), linear("b")]), compiled([linear("a"), linear("b")])
    two.set_weights(one.get_weights())
    two.compile(keras.optimizers.SGD(0.1, momentum=0.9), jit_compile=True)
    fit(one)
    fit(two)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_class_weights_do_what_weights_of_the_images_do():
    table = [0.5, 2.0, 0.0, 1.5]
    one, two = (
        compiled([linear("a"), linear("b")], class_weights=weights) for weights in (table, None)
    )
    two.set_weights(one.get_weights())
    fit(one)
    fit(two, sample_weight=np.array(table)[LABELS])
    for x, y in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    assert Cohort.from_config(one.get_config()).class_weights == table


def test_class_weights_may_be_a_dict_as_keras_has_them():
    cohort = Cohort([linear("a")], class_weights={1: 5.0, 3: 0.5})
    assert cohort.class_weights == [1.0, 5.0, 1.0, 0.5]
    with pytest.raises(InputError, match=r"^class_weights: .* of class 'rose'; valid: 0 to 3"):
        Cohort([linear("a")], class_weights={"rose": 2.0})


def test_a_mixed_image_has_the_mean_of_its_classes_weights():
    table = np.array([0.5, 2.0, 0.0, 1.5])
    labels = tf.one_hot(LABELS, 4) * 0.7 + 0.3 * tf.one_hot(LABELS[::-1], 4)
    (got,) = losses.by_class([np.ones((2, 48), np.float32)], labels, table)
    want = 0.7 * table[LABELS] + 0.3 * table[LABELS[::-1]]
    np.testing.assert_allclose(got, np.stack([want, want]), rtol=1e-5)


@pytest.mark.parametrize("given", [[1.0, 1.0], [1.0, -1.0, 1.0, 1.0], [float("nan")] * 4])
def test_class_weights_that_fit_no_classes_are_refused(given):
    with pytest.raises(InputError, match=r"^class_weights: received .*; valid: 4 numbers"):
        Cohort([linear("a")], class_weights=given)


@pytest.mark.slow
def test_balanced_weights_raise_balanced_accuracy_where_500_images_stand_against_25():
    rng = np.random.default_rng(8)
    labels = np.repeat([0, 1], [500, 25])
    images = rng.normal(size=(525, 3, 3, 1)).astype("float32") + labels[:, None, None, None] * 0.5
    found = {}
    for kind in ("none", "balanced"):
        inputs = keras.Input((3, 3, 1))
        logits = keras.layers.Dense(2, kernel_initializer="zeros")(keras.layers.Flatten()(inputs))
        weights = balance.class_weights(kind, labels, 2)
        cohort = compiled([keras.Model(inputs, logits, name="a")], class_weights=weights)
        cohort.fit(images, labels, batch_size=105, epochs=30, verbose=0)
        answers = cohort.predict(images, verbose=0)["a"]
        found[kind] = scoring.scores(labels, answers)
    assert found["none"]["top1"] > 0.94  # nearly always the large class
    assert found["none"]["balanced_accuracy"] < 0.65
    assert found["balanced"]["balanced_accuracy"] > 0.75
