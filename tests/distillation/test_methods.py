"""Methods against steps worked by hand in NumPy, and against Keras' own Distiller."""

import ast
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from tests.small_cohorts import IMAGES, LABELS, compiled, fit, linear
from xkd_keras.distillation import methods, schedules, teachers
from xkd_keras.distillation.methods import Course

COURSE = Course(distill_weight_max=2.0, total=60, start=6, period=10, window=4, growth="linear")
FLAT = IMAGES.reshape(48, -1).astype("float64")


def steps_by_hand(kernels, push, rate=0.1):
    """Return kernels (bias in the last row) after three steps of SGD, momentum 0.9, in float64.

    Args:
        kernels: One [73, 4] a peer.
        push: (logits of all peers, images) -> the distillation gradients by the logits.
        rate: Learning rate.
    """
    kernels = [kernel.copy() for kernel in kernels]
    speed = [np.zeros_like(kernel) for kernel in kernels]
    for t in range(3):
        rows = slice(16 * t, 16 * t + 16)
        x, y = np.c_[FLAT[rows], np.ones(16)], np.eye(4)[LABELS[rows]]
        z = [x @ kernel for kernel in kernels]
        distilled = push(z, x)
        for i in range(len(z)):
            gradient = x.T @ (softmax(z[i], -1) - y + distilled[i]) / 16
            speed[i] = 0.9 * speed[i] - rate * gradient
            kernels[i] = kernels[i] + speed[i]
    return kernels


def kernel(model):
    return np.vstack([w.astype("float64") for w in model.get_weights()])


def test_deep_mutual_learning_takes_the_steps_of_its_losses():
    """d/dz_i of mean_j KL(p_j || p_i) is p_i - mean_j p_j, at T = 1; all in the same step."""
    teacher, schedule = methods.dml(Course(distill_weight_max=0.7, total=3))
    peers = [linear("a"), linear("b"), linear("c")]
    options = {"teacher": teacher, "schedule": schedule, "temperature": 1.0}
    cohort = compiled(peers, eager=True, **options)
    start = [kernel(peer) for peer in cohort.peers.values()]

    def push(z, _):
        p = [softmax(each, -1) for each in z]
        return [0.7 * (p[i] - (p[i - 1] + p[i - 2]) / 2) for i in range(3)]

    fit(cohort)
    want = steps_by_hand(start, push)
    for peer, each in zip(cohort.peers.values(), want, strict=True):
        np.testing.assert_allclose(kernel(peer), each, atol=2e-6)


def test_xkd_takes_the_steps_of_its_equation():
    """z_T,i and r_i of the others' mastery exp(-CE), with CE a mean that forgets a fiftieth."""
    teacher, schedule = methods.xkd(Course(distill_weight_max=0.7, total=3))
    peers = [linear("a"), linear("b"), linear("c")]
    options = {"adapt": methods.own("xkd", "adapt", None), "temperature": 2.0}
    cohort = compiled(peers, eager=True, teacher=teacher, schedule=schedule, **options)
    start = [kernel(peer) for peer in cohort.peers.values()]
    learned = [np.log([4.0, 4.0, 4.0])]

    def push(z, _):
        z, labels = np.stack(z), LABELS[16 * len(learned) - 16 : 16 * len(learned)]
        mastery, pushes = np.exp(-learned[-1]), []
        for i in range(3):
            others = [j for j in range(3) if j != i]
            target = np.average(z[others], axis=0, weights=mastery[others])
            apart = 2.0 * (softmax(z[i] / 2.0, -1) - softmax(target / 2.0, -1))
            pushes.append(0.7 * mastery[others].mean() * apart)
        entropy = -log_softmax(z, -1)[:, np.arange(16), labels].mean(-1)
        learned.append(0.98 * learned[-1] + 0.02 * entropy)
        return pushes

    fit(cohort)
    want = steps_by_hand(start, push)
    np.testing.assert_allclose(cohort.mastery.cross_entropy, learned[-1], rtol=1e-5)
    for peer, each in zip(cohort.peers.values(), want, strict=True):
        np.testing.assert_allclose(kernel(peer), each, atol=2e-6)


def test_only_xkd_asks_how_far_a_teacher_has_learned():
    assert methods.own("xkd", "adapt", None) == 1.0
    assert methods.own("xkd", "adapt", 0.0) == 0.0
    assert {methods.own(name, "adapt", None) for name in methods.METHODS if name != "xkd"} == {0.0}


def test_the_readmes_cohort_in_python_is_the_default_method():
    """A weight of the wrong unit once stood there, with which nothing was learned."""
    text = (Path(__file__).parents[2] / "README.md").read_text().split("```python")[1]
    calls = [node for node in ast.walk(ast.parse(text.split("```")[0])) if hasattr(node, "func")]
    (shown,) = [call for call in calls if getattr(call.func, "id", "") == "Cohort"]
    given = {each.arg: each.value.value for each in shown.keywords}
    teacher, _ = methods.METHODS["xkd"](COURSE)
    own = {name: methods.own("xkd", name, None) for name in ("adapt", "similarity")}
    assert given == {"teacher": teacher, **own}


def test_traditional_distillation_takes_the_steps_of_its_paper():
    """d/dz of T^2 KL(q || softmax(z / T)) is T (softmax(z / T) - q), with q of a fixed teacher."""
    fixed = {"s": linear("s"), "t": linear("t")}
    _, schedule = methods.kd(Course(distill_weight_max=0.4, total=3))
    teacher = teachers.Frozen(fixed, {"s": 1.0, "t": 1.0})
    options = {"teacher": teacher, "schedule": schedule, "temperature": 4.0}
    cohort = compiled([linear("a")], eager=True, **options)
    start, other = kernel(cohort.peers["a"]), [kernel(model) for model in fixed.values()]

    def push(z, x):
        q = softmax(x @ (other[0] + other[1]) / 2 / 4, -1)
        return [0.4 * 4 * (softmax(z[0] / 4, -1) - q)]

    fit(cohort)
    (want,) = steps_by_hand([start], push)
    np.testing.assert_allclose(kernel(cohort.peers["a"]), want, atol=2e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_traditional_distillation_ends_where_keras_distiller_ends(temperature):
    """With an explicit KLDivergence, which its default loses; its halves make our lambda 1."""
    student, taught, teacher = linear("a"), linear("a"), linear("t")
    taught.set_weights(student.get_weights())
    theirs = keras.distillation.Distiller(
        teacher,
        taught,
        keras.distillation.LogitsDistillation(temperature, keras.losses.KLDivergence()),
        student_loss_weight=0.5,
    )
    theirs.compile(
        keras.optimizers.SGD(0.2, momentum=0.9),  # of half the loss: twice the rate
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=True,
    )
    fit(theirs, 3)
    frozen = teachers.Frozen({"t": teacher}, {"t": 1.0})
    fit(compiled([student], teacher=frozen, schedule=1.0, temperature=temperature), 3)
    np.testing.assert_allclose(kernel(student), kernel(taught), atol=1e-5)


def lambdas(method, steps=60):
    _, schedule = methods.METHODS[method](COURSE)
    return np.asarray(schedule(np.arange(steps)))


def test_solo_never_distils():
    assert not lambdas("solo").any()


@pytest.mark.parametrize("method", ["ensemble", "dml", "kdcl", "kd"])
def test_constant_methods_have_their_full_weight_at_every_step(method):
    np.testing.assert_array_equal(lambdas(method), np.full(60, 2.0, "float32"))


def test_mcod_is_discontinuous_and_progressively_enhanced():
    want = np.zeros(60)
    for window in range(5):  # five periods of 10 steps to the end, the last 4 of each distil
        first = 10 + 10 * (window + 1) - 4
        want[first : first + 4] = 2 * (window + 1) / 5
    np.testing.assert_allclose(lambdas("mcod"), want, rtol=1e-6)


def test_the_ablations_change_one_thing_each():
    steps = np.arange(60)
    windows = lambdas("mcod") > 0
    flat = methods.mcod(Course(2.0, 60, 6, 10, 4, "constant"))[1](steps)
    np.testing.assert_array_equal(flat, np.where(windows, np.float32(2), np.float32(0)))
    falling = np.asarray(methods.mcod(Course(2.0, 60, 6, 10, 4, "decay"))[1](steps))
    growing = lambdas("mcod")[windows]  # the mirror: as much teaching, the other way round
    np.testing.assert_allclose(falling[windows], growing[::-1], rtol=1e-6)
    assert not falling[~windows].any()
    ramp = lambdas("ramp")
    assert np.all(np.diff(ramp[6:]) > 0)
    np.testing.assert_allclose(ramp[6:], 2 * np.arange(54) / 54, atol=1e-6)


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_trains_a_cohort_of_three(name):
    teacher, schedule = methods.METHODS[name](Course(distill_weight_max=1.0, total=9, period=2))
    if teacher == "frozen":
        teacher = teachers.Frozen({"t": linear("t")}, {"t": 1.0})
    options = {"teacher": teacher, "schedule": schedule, "rate": 0.02}
    cohort = compiled([linear(p) for p in "abc"], eager=True, **options)
    history = fit(cohort, 3).history
    assert history["a_cross_entropy"][-1] < history["a_cross_entropy"][0]
    assert all(sum(history[f"{peer}_distillation"]) > 0.01 for peer in "abc")
    assert (max(history["distill_weight"]) > 0) == (name != "solo")


def test_decay_falls_from_one_to_nothing():
    got = schedules.growth(np.array([0, 0.25, 1.0]), "decay")
    np.testing.assert_allclose(got, [1, 0.75, 0])
