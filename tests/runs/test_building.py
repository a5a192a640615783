"""Epochs become steps: schedules of lambda and of the learning rate as the flags say."""

import dataclasses
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from tests.uneven import LABELS, uneven
from xkd_keras import peers
from xkd_keras.distillation import methods, teachers
from xkd_keras.errors import InputError
from xkd_keras.flags import fields
from xkd_keras.flags.config import Config
from xkd_keras.runs import building, result


def weights(**flags):
    config = Config(epochs=8, **flags)
    _, schedule = building.distillation(config, steps=10)
    return np.asarray(schedule(np.arange(80)))


def rates(steps, **flags):
    config = Config(peer=("alexnet",), **flags)
    return np.asarray(building.learning_rate(config.peers()[0].learning, 8, 10)(np.asarray(steps)))


def test_solo_never_distils():
    assert not weights(method="solo").any()


def test_ensemble_always_distils_as_much():
    assert np.all(weights(method="ensemble", distill_weight_max=0.6) == np.float32(0.6))


def test_ramp_grows_from_its_start_to_the_end():
    got = weights(method="ramp", distill_start=2)
    assert not got[:21].any()
    np.testing.assert_allclose(got[20:], np.arange(60) / 60, atol=1e-6)


def test_mcod_distils_in_the_last_part_of_each_period():
    got = weights(method="mcod", distill_period=3, distill_duty=0.5, distill_start=2)
    want = np.zeros(80)
    want[20 + 15 : 20 + 30] = 0.5  # two periods of 30 steps after 20
    want[50 + 15 : 50 + 30] = 1.0
    np.testing.assert_allclose(got, want)


def test_periods_may_be_shorter_than_an_epoch():
    got = weights(method="mcod", distill_period=0.2, distill_growth="constant")
    np.testing.assert_array_equal(got, np.tile([0.0, 1.0], 40))


@pytest.mark.parametrize("method", ["dml", "kdcl", "kd"])
def test_other_methods_distil_all_the_time(method):
    assert np.all(weights(method=method, distill_weight_max=0.6) == np.float32(0.6))


def test_one_ramps_up_in_the_first_80_of_300_epochs():
    got = weights(method="one", distill_weight_max=2.0)
    want = 2 * np.exp(-5 * (1 - np.minimum(np.arange(80) / 21, 1)) ** 2)  # 21 = 80 * 80 / 300
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "teacher"),
    [
        *(
            ("xkd", "leave_one_out"),
            ("mcod", "mean"),
            ("solo", "mean"),
            ("ensemble", "mean"),
            ("ramp", "mean"),
        ),
        *(("dml", "pairwise"), ("kdcl", "min_logit"), ("one", "gate"), ("kd", "frozen")),
    ],
)
def test_every_method_has_its_teacher_unless_another_is_chosen(method, teacher):
    assert building.distillation(Config(method=method), 10)[0] == teacher
    assert building.distillation(Config(method=method, teacher="linear"), 10)[0] == "linear"


def test_the_names_that_flags_know_are_those_that_exist():
    assert set(fields.METHODS) == set(methods.METHODS)
    assert set(fields.TEACHERS) == {*teachers.TEACHERS, "frozen"}


def test_heads_are_on_the_last_stages_or_on_the_layers_that_a_peer_names():
    def asked(*peer, exits):
        config = Config(peer=peer, exits=exits)
        members = {each.name: peers.build(each.builder, (32, 32, 3), 4) for each in config.peers()}
        return building.exits(config, members)

    assert asked("alexnet", "resnet20", exits=0) is None
    assert asked("alexnet", "resnet20", exits=1) == {
        "alexnet": ["relu2"],
        "resnet20": ["stage2_block3_relu"],
    }
    assert asked("alexnet,exits=relu1:relu3", exits=1) == {"alexnet": ["relu1", "relu3"]}
    own = "tests.small_peers:plain"
    with pytest.raises(InputError, match=r"^exits: 'plain' has no stage before its final one; .*="):
        asked(own, exits=2)


def test_a_network_of_the_users_has_heads_on_the_layers_and_operators_of_its_own_graph():
    """Its layers were called before, in the model that the user's function returned."""
    config = Config(peer=("tests.small_peers:staged",), exits=2)
    cohort = building.build_cohort(config, uneven(), steps=2)
    (peer,) = cohort.peers.values()
    images = np.random.default_rng(0).uniform(0, 255, (3, 8, 8, 3)).astype("float32")
    x, maps = images, []
    for name in ("normalize", "first", "second"):
        x = peer.get_layer(name)(x)
        maps.append(x)
    maps = maps[1], x + peer.get_layer("branch")(x)
    _, (early,) = cohort.exits.logits(images)
    for got, read, head in zip(early, maps, cohort.exits.heads[peer.name], strict=True):
        kernel, bias = head.get_weights()
        want = np.asarray(read).mean((1, 2)) @ kernel + bias
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_metrics_of_another_program_do_not_matter_to_a_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metrics.json").write_text('{"accuracy": 0.9}')
    (peer,) = Config(peer=("applications:MobileNetV3Small,start=imagenet",)).peers()
    assert not building._of_other_classes(peer, uneven())


@pytest.mark.parametrize("precision", ["none", "bfloat16"])
def test_a_users_module_does_not_set_the_precision_of_all_networks(
    tmp_path, monkeypatch, precision
):
    text = """
import keras
from tests.small_peers import regular
keras.config.set_dtype_policy("mixed_float16")
"""
    (tmp_path / f"sets_float16_{precision}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    own = (f"sets_float16_{precision}:regular,name=regular", "tests.small_peers:staged")
    config = Config(peer=own, mixed_precision=precision)
    data = dataclasses.replace(uneven(), image_shape=(20, 20, 3))
    try:
        cohort = building.build_cohort(config, data, steps=2)
        result._save_models(config, tmp_path, cohort)
    finally:
        keras.config.set_dtype_policy("float32")
    images = np.random.default_rng(0).uniform(0, 255, (3, 20, 20, 3)).astype("float32")
    for name, peer in cohort.peers.items():
        trained = {layer.compute_dtype for layer in peer.layers}
        assert trained == {"float32", *({precision} - {"none"})}
        saved = keras.models.load_model(tmp_path / f"peers/{name}.keras")
        assert {layer.compute_dtype for layer in saved.layers} == {"float32"}
        np.testing.assert_allclose(saved(images), peer(images), atol=2)  # of about 100


@pytest.mark.parametrize(
    ("flags", "adapt", "similarity"),
    [
        ({"method": "xkd"}, 1.0, 1.5625),
        ({"method": "xkd", "exits": 1}, 1.0, 0.0),
        ({"method": "xkd", "distill_similarity": 7.0, "distill_adapt": 0.0}, 0.0, 7.0),
        ({"method": "mcod"}, 0.0, 0.0),
        ({"method": "mcod", "distill_similarity": 7.0}, 0.0, 7.0),
    ],
)
def test_what_a_method_sets_is_said_where_nothing_else_is(flags, adapt, similarity):
    config = building.resolved(Config(**flags))
    assert (config.distill_adapt, config.distill_similarity) == (adapt, similarity)


@pytest.mark.parametrize("name", ["gate", "best"])
def test_a_teacher_gets_an_optimizer_where_it_learns_something(name, monkeypatch):
    class Still(keras.layers.Layer):
        def call(self, logits, **_):
            return logits

    monkeypatch.setitem(teachers.TEACHERS, "best", Still)
    config = Config(peer=("tests.small_peers:plain",), teacher=name)
    classes = SimpleNamespace(image_shape=(20, 20, 3), class_names=("a", "b"), mean=None, std=None)
    classes.train = SimpleNamespace(labels=np.arange(2))
    cohort = building.build_cohort(config, classes, 10)
    assert ("ensemble" in cohort.optimizer.by_peer) == (name == "gate")


def test_every_option_reaches_the_cohort():
    given = {"temperature": 2.5, "mix": "mixup", "seed": 7, "label_smoothing": 0.125, "ema": 0.75}
    of_teaching = {"distill_term": "pearson", "distill_adapt": 0.5, "distill_similarity": 0.375}
    options = ("tests.small_peers:plain,weight=3", "tests.small_peers:normalised,distill=0.25")
    config = Config(peer=options, class_weights="balanced", **given, **of_teaching)
    data = dataclasses.replace(uneven(), image_shape=(20, 20, 3))
    cohort = building.build_cohort(config, data, 10)
    assert {name: getattr(cohort, name) for name in given} == given
    assert (cohort.term, cohort.adapt, cohort.similarity) == ("pearson", 0.5, 0.375)
    assert cohort.shares == {"plain": 0.75, "normalised": 0.25}
    assert cohort.distill == {"plain": 1.0, "normalised": 0.25}
    want = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=LABELS)
    np.testing.assert_allclose(np.asarray(cohort.class_weights)[[0, 1, 3]], want, rtol=1e-6)


def test_the_rate_falls_at_the_given_epochs():
    got = rates([29, 30, 59, 60], learning_rate=1.0, learning_rate_epochs="3:6")
    np.testing.assert_allclose(got, [1, 0.1, 0.1, 0.01], rtol=1e-6)


def test_the_rate_is_cosine_over_the_whole_run_after_warm_up():
    got = rates(
        [0, 10, 40, 80], learning_rate=1.0, learning_rate_schedule="cosine", warmup_epochs=1
    )
    np.testing.assert_allclose(got, [0.1, np.cos(np.pi / 16) ** 2, 0.5, 0], atol=1e-6)


@pytest.mark.parametrize(("kind", "name"), [("sgd", "SGD"), ("adamw", "AdamW")])
def test_the_optimizer_is_the_peers(kind, name):
    config = Config(peer=(f"alexnet,optimizer={kind},weight_decay=0.02,clip_norm=3",))
    optimizer = building.optimizer(config.peers()[0].learning, 8, 10)
    assert type(optimizer).__name__ == name
    assert optimizer.global_clipnorm == 3
    assert (optimizer.l2 if kind == "sgd" else optimizer.weight_decay) == 0.02


def test_a_batch_that_the_devices_cannot_share_is_refused(two_cpus, monkeypatch):
    monkeypatch.setattr(building.cluster, "strategy", lambda *_: two_cpus)
    assert building.set_up(Config(batch_size=50)) is two_cpus
    with pytest.raises(InputError, match=r"^batch_size: received 51; valid: a multiple of the 2 "):
        building.set_up(Config(batch_size=51))
    assert building.set_up(Config()) is two_cpus  # the data will say
    with pytest.raises(InputError, match=r"^jit_compile: received on, but XLA .* of 2 devices"):
        building.set_up(Config(jit_compile="on"))


def test_a_batch_of_a_run_on_other_devices_is_refused_where_these_cannot_share_it():
    config = Config(batch_size=128)
    data = SimpleNamespace(train=range(1000))
    assert building.with_batch(config, data, 4) == config
    shared = building.with_batch(Config(), data, 3)
    assert (shared.batch_size, shared.eval_batch_size) == (126, 258)  # 256 is none of 3
    with pytest.raises(InputError, match=r"^batch_size: received 128; valid: a multiple of the 3"):
        building.with_batch(config, data, 3)
