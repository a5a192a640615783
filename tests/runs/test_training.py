"""A whole run on real images, and what it leaves behind."""

import contextlib
import dataclasses
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from tests.folders import picture
from tests.small_runs import NORMALISED, PLAIN, configuration
from xkd_keras import data as datasets
from xkd_keras import train
from xkd_keras.devices import collectives
from xkd_keras.distillation import nonfinite
from xkd_keras.errors import FlagError, InputError
from xkd_keras.flags import config as configs
from xkd_keras.runs import building, history, training
from xkd_keras.runs import directory as rundir


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data_dir):
    """A run of one network that is given no batch size: its configuration, metrics and words."""
    run_dir, said = tmp_path_factory.mktemp("alone") / "run", io.StringIO()
    config = configuration(run_dir, data_dir, peer=(PLAIN,), epochs=1, batch_size=None)
    with contextlib.redirect_stdout(said):
        metrics = training.run(config)
    return config, metrics, said.getvalue()


def test_changed_images_are_refused(data_dir, tmp_path):
    config = configuration(tmp_path, data_dir, epochs=1)
    data = rundir.load_dataset(config)
    rundir.record(config, tmp_path, data)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/epoch-0001.npz").touch()
    with pytest.raises(InputError, match="images of 'digits' have changed since"):
        rundir.record(config, tmp_path, dataclasses.replace(data, fingerprint="other"))


def test_a_damaged_record_of_the_images_is_written_anew(data_dir, tmp_path):
    config = configuration(tmp_path, data_dir, epochs=1)
    data = rundir.load_dataset(config)
    rundir.record(config, tmp_path, data)
    whole = (tmp_path / "data.json").read_text()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/epoch-0001.npz").touch()
    (tmp_path / "data.json").write_text(whole[:40])
    rundir.record(config, tmp_path, data)
    assert (tmp_path / "data.json").read_text() == whole


def test_a_directory_of_other_things_is_refused(data_dir, tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(InputError, match="is neither empty nor a run"):
        training.run(configuration(tmp_path, data_dir))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_a_mistake_before_training_leaves_the_directory_free(data_dir, tmp_path):
    with pytest.raises(InputError, match=r"^batch_size"):
        training.run(configuration(tmp_path / "run", data_dir, batch_size=201))
    assert not (tmp_path / "run").exists()
    wild = (PLAIN.replace("0.01", "1e30"),)
    with pytest.raises(InputError, match="non-finite loss: peer plain"):
        training.run(configuration(tmp_path / "run", data_dir, peer=wild))
    config = configuration(tmp_path / "run", data_dir, epochs=1)
    assert training.run(config)["training"]["steps"] == 4
    assert configs.read(tmp_path / "run/config.flags") == building.resolved(config)


def test_few_images_have_at_least_four_steps_where_no_batch_size_is_given(alone):
    config, metrics, _ = alone
    assert (metrics["training"]["batch_size"], metrics["training"]["steps"]) == (32, 6)
    assert configs.read(Path(config.run_dir) / "config.flags").batch_size == 32
    assert training.run(config)["peers"] == metrics["peers"]  # it is complete


def test_all_machines_are_told_all_that_a_run_was_begun_with(data_dir, tmp_path, monkeypatch):
    config = configuration(tmp_path, data_dir)
    begun = {"distill_similarity": 0.0, "distill_adapt": 0.5, "optimizer": "adamw"}
    monkeypatch.setattr(rundir, "claim", lambda *_: dataclasses.replace(config, **begun))
    told = {}

    def tell(strategy, text):
        told.update(json.loads(text))
        raise InputError("enough")

    monkeypatch.setattr(collectives, "text_from_chief", tell)
    with pytest.raises(InputError, match="enough"):
        training.run(config)
    assert told.items() >= begun.items()
    assert set(told) == {name for name in vars(config) if getattr(configs.Config(), name) is None}


def test_a_network_that_fails_without_a_word_when_it_is_saved_is_told_in_a_line():
    class Mute(keras.layers.Layer):
        def get_config(self):
            raise NotImplementedError

    model = keras.Sequential([keras.Input([2]), Mute()])
    with pytest.raises(InputError, match=r"'x' could not be loaded after saving \(NotImpl"):
        rundir.check_loads("x", model)


@keras.saving.register_keras_serializable("tests")
class Forgetful(keras.layers.Layer):
    """A layer that is saved without what it was made with."""

    def __init__(self, by=1.0, name=None):
        super().__init__(name=name)
        self.by = by

    def call(self, x):
        return x * self.by

    def get_config(self):
        return {"name": self.name}


def test_a_network_that_draws_at_random_is_not_told_to_answer_otherwise():
    class Noisy(keras.layers.Dropout):
        def call(self, inputs, training=False):
            return super().call(inputs, training=True)

    with keras.saving.custom_object_scope({"Noisy": Noisy}):
        rundir.check_loads("x", keras.Sequential([keras.Input([50]), Noisy(0.5)]))


def test_a_network_that_answers_otherwise_after_loading_is_told_before_training():
    models = [keras.Sequential([keras.Input([2]), Forgetful(by)]) for by in (1.0, 3.0)]
    rundir.check_loads("x", models[0])
    with pytest.raises(InputError, match=r"^peer: 'x' gives other outputs after saving"):
        rundir.check_loads("x", models[1])


@pytest.mark.slow
def test_a_peer_that_sits_out_every_step_stops_the_run(data_dir, tmp_path):
    wild = (PLAIN.replace("0.01", "1e30"), NORMALISED)
    config = configuration(tmp_path, data_dir, peer=wild, on_nonfinite="skip", method="solo")
    with pytest.raises(InputError, match=r"peer plain, in .*epoch [12]; valid: a lower"):
        training.run(config)


@pytest.mark.slow
def test_a_run_in_half_precision_finds_its_loss_scale_in_a_later_epoch(
    data_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(nonfinite, "FIRST_SCALE", 2.0**40)  # it has to fall for 20 steps and more
    config = configuration(tmp_path, data_dir, epochs=12, mixed_precision="float16")
    metrics = training.run(config)
    assert 15 < metrics["training"]["skipped"]["plain"] < 40  # of 48 steps


def test_a_run_in_half_precision_saves_networks_of_single_precision(data_dir, tmp_path):
    half = {"peer": (NORMALISED,), "epochs": 1, "mixed_precision": "float16"}
    metrics = training.run(configuration(tmp_path, data_dir, **half))
    assert metrics["training"]["skipped"] == {"normalised": 0}
    for path in (tmp_path / "peers").iterdir():
        layers = keras.models.load_model(path).layers
        assert {layer.compute_dtype for layer in layers} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"


def test_a_users_own_layer_is_found_again_or_refused_before_training(data_dir, tmp_path):
    peer = "tests.small_peers:with_own_layer,learning_rate=0.01"
    config = configuration(tmp_path / "a", data_dir, epochs=1, peer=(peer,))
    assert training.run(config)["peers"]["with_own_layer"]["file"]
    peer = "tests.small_peers:with_unknown_layer"
    with pytest.raises(InputError, match="'with_unknown_layer' could not be loaded after saving"):
        training.run(configuration(tmp_path / "b", data_dir, peer=(peer,)))


def noted(config, steps, devices=1):
    """Return the notes of a run of so many steps an epoch."""
    data = rundir.load_dataset(config)
    own = building.build_cohort(config, data, steps)
    cohort = {name: getattr(own, name) for name in ("peers", "similarity", "schedule")}
    cohort["distribute_strategy"] = SimpleNamespace(num_replicas_in_sync=devices)
    return list(training._notes(config, SimpleNamespace(**cohort), data, config.epochs * steps))


@pytest.mark.parametrize(("start", "told"), [(5, True), (0, False)])
def test_a_method_that_never_distils_says_so(data_dir, start, told):
    options = {"epochs": 2, "method": "mcod", "distill_period": 0.5, "distill_start": start}
    config = configuration("unused", data_dir, **options)
    assert any(line.startswith("lambda is 0 throughout") for line in noted(config, 4)) == told


def test_a_network_that_is_trained_alone_is_told_that_it_has_no_teacher(alone):
    assert "note: a single network has no teacher and learns as with" in alone[2]


def test_the_history_has_the_windows_of_mcod(data_dir, tmp_path):
    mcod = {"peer": (PLAIN,), "method": "mcod", "distill_period": 0.5}
    training.run(configuration(tmp_path, data_dir, **mcod))
    # Windows of one step in two, six of them: 1/6 and 2/6 in the first epoch's four steps.
    want = [np.mean([0, a, 0, a + 1]) / 6 for a in (1, 3, 5)]
    shown = [row["distill_weight"] for row in history.read(tmp_path)]
    np.testing.assert_allclose(shown, want, rtol=1e-5)


def test_flags_of_windows_that_the_method_has_not_are_told(data_dir):
    peer = (PLAIN + ",exits=none", PLAIN + ",name=b")
    options = {"distill_growth": "cosine", "distill_duty": 0.25, "peer": peer}
    told = noted(configuration("unused", data_dir, epochs=1, **options), 4)
    no_effect = "has no effect on --method=xkd; it applies to mcod"
    assert f"--distill_growth {no_effect} and ramp" in told
    assert f"--distill_duty {no_effect}" in told
    assert "exits=... of a --peer has no effect without --exits" in told


def few_and_many(root, **flags):
    """Return what trains on a folder with 21 training images of one class, 4 of the other."""
    for name, images in (("crow", 30), ("wren", 6)):
        for i in range(images):
            picture(root / name / f"{i}.png", (8 * i, 200, 9 if name == "crow" else 99))
    small = {"image_size": "20", "augment": "none", "train_examples": 0, "batch_size": 8}
    return configuration(root.parent / "run", "", dataset=f"folder:{root}", **small, **flags)


@pytest.mark.parametrize("remedy", [{}, {"class_weights": "sqrt"}, {"sampling": "balanced"}])
def test_uneven_classes_are_told_before_training_unless_rare_ones_count_more(tmp_path, remedy):
    told = noted(few_and_many(tmp_path / "birds", peer=(PLAIN,), **remedy), 3)
    note = "uneven classes: 21 training images of crow, 4 of wren; --sampling=balanced or"
    assert any(line.startswith(note) for line in told) == (not remedy)


@pytest.mark.parametrize(
    ("devices", "flags", "told"),
    [
        (1, {"batch_size": 8}, False),  # as one device takes them, few or many
        (2, {"batch_size": 32}, False),
        (2, {"batch_size": 30}, True),
        (2, {"batch_size": 30, "sync_batch_norm": True}, False),
    ],
)
def test_few_images_on_each_of_several_devices_are_told(data_dir, tmp_path, devices, flags, told):
    config = configuration(tmp_path / "run", data_dir, peer=(PLAIN,), **flags)
    notes = noted(config, 3, devices)
    assert any(line.startswith("each device gets 15 images per step") for line in notes) == told


def test_a_worker_with_other_images_than_the_chief_is_refused(data_dir, tmp_path):
    data = rundir.load_dataset(configuration(tmp_path / "run", data_dir))
    training._check_same(data, data.fingerprint, "digits")
    with pytest.raises(
        InputError, match=r"^dataset: this worker and the chief have .* in 'digits'"
    ):
        training._check_same(data, data.fingerprint[::-1], "digits")


@pytest.mark.parametrize(("sampling", "of_wren"), [("plain", 4), ("balanced", 12)])
def test_an_epoch_of_a_run_has_the_images_of_its_sampling(tmp_path, sampling, of_wren):
    data = rundir.load_dataset(few_and_many(tmp_path / "birds", sampling=sampling))
    batches = datasets.train_batches(data, batch_size=8, epochs=1)
    labels = np.concatenate([labels for _, labels in batches])
    assert len(labels) == 24  # of 25, or of 13 + 13: three whole batches
    assert abs(np.count_nonzero(labels) - of_wren) <= 1


def test_what_the_method_sets_is_recorded_and_stays_when_the_run_is_continued(
    finished_run, tmp_path
):
    shutil.copytree(finished_run.run_dir, tmp_path / "run")
    config = dataclasses.replace(finished_run, run_dir=str(tmp_path / "run"))
    recorded = configs.read(tmp_path / "run" / "config.flags")
    assert (recorded.distill_adapt, recorded.distill_similarity) == (1.0, 1.5625)
    # A run of the version before did not know of features, and goes on without.
    file = tmp_path / "run" / "config.flags"
    lines = [line for line in file.read_text().splitlines() if "similarity" not in line]
    file.write_text("\n".join(lines) + "\n")
    assert rundir.claim(config, tmp_path / "run").distill_similarity == 0.0


def test_solo_peers_do_not_depend_on_their_company(data_dir, tmp_path):
    """The honest baseline: the same seeds, batches and options, whoever else is in the cohort."""
    together = configuration(tmp_path / "both", data_dir, method="solo", epochs=2)
    alone = configuration(tmp_path / "one", data_dir, method="solo", epochs=2, peer=(PLAIN,))
    metrics = [training.run(config) for config in (together, alone)]
    assert not any("teaching" in each for each in metrics)  # nobody teaches
    results = [each["peers"]["plain"] for each in metrics]
    assert results[0]["cross_entropy"] == pytest.approx(results[1]["cross_entropy"], rel=1e-4)


def test_seeds_give_other_runs_and_the_same_seed_the_same(data_dir):
    def first_weights(seed):
        config = configuration("unused", data_dir, seed=seed)
        data = rundir.load_dataset(config)
        return building.build_cohort(config, data, 4).peers["plain"].get_weights()[2]

    assert np.array_equal(first_weights(1), first_weights(1))
    assert not np.array_equal(first_weights(1), first_weights(2))


def test_the_same_network_twice_starts_from_two_initialisations(data_dir):
    peers = (PLAIN, PLAIN + ",name=other")
    config = configuration("unused", data_dir, peer=peers)
    cohort = building.build_cohort(config, rundir.load_dataset(config), 4)
    one, two = (peer.get_weights()[2] for peer in cohort.peers.values())
    assert one.shape == two.shape
    assert not np.array_equal(one, two)


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        ({"peer": ("alexnot",)}, FlagError, "unknown value 'alexnot'. Did you mean 'alexnet'?"),
        ({"dataset": "digit"}, FlagError, "Did you mean 'digits'?"),
        ({"peer": ("tests.small_peers:one_too_many",)}, InputError, "11"),
        ({"dataset": "folder:/no/such/place"}, InputError, "does not exist"),
        ({"peer": ()}, FlagError, "peer: missing."),
        ({"train_examples": 5, "batch_size": 5}, InputError, "train_examples: received 5; valid"),
        (
            {"class_weights": "sqrt", "sampling": "balanced"},
            *(FlagError, "class_weights: is sqrt and --sampling is balanced"),
        ),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(data_dir, tmp_path, flags, error, message):
    with pytest.raises(error) as caught:
        train.train_and_evaluate(configuration(tmp_path / "run", data_dir, **flags))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
