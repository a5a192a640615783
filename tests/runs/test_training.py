"""A whole run on real images, and what it leaves behind."""

import contextlib
import csv
import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.small_runs import NORMALISED, PLAIN, configuration
from xkd_keras import data as datasets
from xkd_keras import files, signals, train
from xkd_keras.errors import FlagError, InputError, PreemptedError
from xkd_keras.flags import config as configs
from xkd_keras.runs import building, checkpoint, evaluation, history
from xkd_keras.runs import directory as rundir

PLOTS = ["accuracy", "cross_entropy", "teaching", "learning_rate", "confusion", "disagreements"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, data_dir):
    """A finished run: its directory, its configuration and what the function returned."""
    run_dir = tmp_path_factory.mktemp("runs") / "one"
    config = configuration(run_dir, data_dir)
    return run_dir, config, train.train_and_evaluate(config)


def digits(data_dir):
    """The test split as plain arrays."""
    data = datasets.load("digits", data_dir=str(data_dir))
    n = len(data.test)
    return datasets.images(data.test, range(n), data), datasets.labels(data.test)


def test_a_run_is_a_directory_that_explains_itself(run):
    run_dir, _, _ = run
    found = {path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*.*")}
    assert {
        "config.flags",
        "data.json",
        "metrics.json",
        "report.html",
        "report.md",
        "logs/history.csv",
        "checkpoints/epoch-0003.npz",
        "peers/plain.keras",
        "peers/normalised.keras",
    } <= found
    assert not [name for name in found if "partial" in name]


@pytest.mark.parametrize("part", ["train", "validation"])
def test_tensorboard_shows_what_the_history_has(run, part):
    events = EventAccumulator(str(run[0] / "logs" / part))
    events.Reload()
    rows = list(csv.DictReader((run[0] / "logs/history.csv").open()))
    prefix = "val_" if part == "validation" else ""
    for name in ("plain_top1", "normalised_distillation", "distill_weight", "loss", "agreement"):
        shown = [tf.make_ndarray(e.tensor_proto) for e in events.Tensors(f"epoch_{name}")]
        np.testing.assert_allclose(shown, [float(r[prefix + name]) for r in rows], rtol=1e-6)


def test_the_metrics_are_those_of_the_saved_files_on_the_whole_test_split(run, data_dir):
    run_dir, _, metrics = run
    images, labels = digits(data_dir)
    logits = {}
    for name in ("plain", "normalised"):
        model = keras.models.load_model(run_dir / "peers" / f"{name}.keras")
        logits[name] = model.predict(images.astype("float32"), verbose=0).astype("float64")
    logits["ensemble"] = (logits["plain"] + 2 * logits["normalised"]) / 3
    rows = {**metrics["peers"], "ensemble": metrics["ensemble"]}
    for name, z in logits.items():
        assert rows[name]["top1"] == np.mean(z.argmax(-1) == labels)
        want = -np.mean(log_softmax(z, -1)[np.arange(len(z)), labels])
        assert rows[name]["cross_entropy"] == pytest.approx(want, rel=1e-5)
    same = np.mean(logits["plain"].argmax(-1) == logits["normalised"].argmax(-1))
    assert metrics["agreement"] == same
    assert metrics["data"]["examples"] == {"train": 200, "validation": 179, "test": 361}


def test_the_saved_peers_are_made_of_stock_layers(run):
    for path in (run[0] / "peers").iterdir():
        for layer in keras.models.load_model(path).layers:
            assert type(layer).__module__.startswith("keras."), (path, layer)


def test_the_history_has_a_row_an_epoch_with_every_peers_terms(run):
    rows = list(csv.DictReader((run[0] / "logs/history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["step"] for row in rows] == ["4", "8", "12"]
    for key in ("cross_entropy", "distillation", "top1", "learning_rate"):
        assert all(f"{name}_{key}" in rows[0] for name in ("plain", "normalised"))
    assert {"distill_weight", "val_ensemble_top1", "val_plain_top1", "agreement"} <= set(rows[0])
    # Windows of one step in two, six of them: 1/6 and 2/6 in the first epoch's four steps.
    want = [np.mean([0, a, 0, a + 1]) / 6 for a in (1, 3, 5)]
    np.testing.assert_allclose([float(row["distill_weight"]) for row in rows], want, rtol=1e-5)


def test_the_validation_values_are_exact_over_a_padded_batch(run, data_dir):
    """179 images do not fill a batch of 256."""
    run_dir, _, _ = run
    data = datasets.load("digits", data_dir=str(data_dir))
    images = datasets.images(data.validation, range(179), data).astype("float32")
    model = keras.models.load_model(run_dir / "peers/plain.keras")
    hits = model.predict(images, verbose=0).argmax(-1) == datasets.labels(data.validation)
    row = list(csv.DictReader((run_dir / "logs/history.csv").open()))[-1]
    assert float(row["val_plain_top1"]) == pytest.approx(hits.mean(), abs=1e-6)


def test_evaluate_repeats_the_final_numbers_exactly(run):
    run_dir, _, metrics = run
    again = evaluation.evaluate_run(run_dir)
    for name, row in {**again["peers"], "ensemble": again["ensemble"]}.items():
        first = metrics["peers"].get(name, metrics["ensemble"])
        for key in ("top1", "cross_entropy", "parameters"):
            assert row[key] == first[key], (name, key)
    assert again["agreement"] == metrics["agreement"]
    assert again["examples"] == 361


def test_evaluate_takes_one_peer_and_other_splits(run):
    run_dir, _, metrics = run
    one = evaluation.evaluate_run(run_dir, ["plain"], split="all")
    assert list(one["peers"]) == ["plain"]
    assert one["examples"] == 200 + 179 + 361
    parts = [evaluation.evaluate_run(run_dir, ["plain"], split=s) for s in rundir.SPLITS]
    hits = sum(part["examples"] * part["peers"]["plain"]["top1"] for part in parts)
    assert one["peers"]["plain"]["top1"] == pytest.approx(hits / 740)
    assert parts[2]["peers"]["plain"]["top1"] == metrics["peers"]["plain"]["top1"]


def test_evaluate_takes_a_folder_with_some_of_the_classes(run, tmp_path, data_dir):
    images, labels = digits(data_dir)
    for name in (3, 7):
        (tmp_path / str(name)).mkdir()
        for i in np.flatnonzero(labels == name):
            path = tmp_path / str(name) / f"{i}.png"
            path.write_bytes(tf.io.encode_png(images[i]).numpy())
    got = evaluation.evaluate_run(run[0], dataset=f"folder:{tmp_path}", split="all")
    z = keras.models.load_model(run[0] / "peers/plain.keras").predict(
        images.astype("float32"), verbose=0
    )
    some = np.isin(labels, (3, 7))
    assert got["examples"] == some.sum()
    want = np.mean(z[some].argmax(-1) == labels[some])
    assert got["peers"]["plain"]["top1"] == pytest.approx(want)


def test_evaluate_names_what_it_does_not_know(run, tmp_path):
    with pytest.raises(InputError, match=r"^peer: unknown value 'plan'\. Did you mean 'plain'"):
        evaluation.evaluate_run(run[0], ["plan"])
    with pytest.raises(InputError, match="holds no finished run"):
        evaluation.evaluate_run(tmp_path)
    (run[0] / "peers/broken.keras").write_bytes(b"PK no")
    with pytest.raises(InputError, match=r"broken\.keras: is damaged; delete \S+metrics\.json"):
        rundir.load_peers(run[0], ["broken"])
    with pytest.raises(InputError, match=r"gone\.keras: is missing"):
        rundir.load_peers(run[0], ["gone"])
    (run[0] / "peers/broken.keras").unlink()


def test_a_complete_run_is_not_touched_again(run):
    run_dir, config, metrics = run

    def times():
        files = [path for path in run_dir.rglob("*.*") if path.name != ".lock"]
        return {path: path.stat().st_mtime_ns for path in files}

    before = times()
    assert train.train_and_evaluate(config) == json.loads(json.dumps(metrics))
    assert times() == before


def test_another_configuration_is_refused_naming_the_flags(run):
    _, config, _ = run
    other = dataclasses.replace(config, epochs=5, temperature=1.0)
    with pytest.raises(InputError) as error:
        train.train_and_evaluate(other)
    assert "--temperature was 3.0 and is 1.0; --epochs was 3 and is 5" in str(error.value)


def test_changed_images_are_refused(run, data_dir, tmp_path):
    config = configuration(tmp_path, data_dir, epochs=1)
    data = rundir.load_dataset(config)
    rundir.record(config, tmp_path, data)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/epoch-0001.npz").touch()
    with pytest.raises(InputError, match="images of 'digits' have changed since"):
        rundir.record(config, tmp_path, dataclasses.replace(data, fingerprint="other"))


def test_a_directory_of_other_things_is_refused(data_dir, tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(InputError, match="is not empty and not a run"):
        train.train_and_evaluate(configuration(tmp_path, data_dir))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_mistake_before_training_leaves_the_directory_free(data_dir, tmp_path):
    with pytest.raises(InputError, match=r"^batch_size"):
        train.train_and_evaluate(configuration(tmp_path / "run", data_dir, batch_size=201))
    wild = (PLAIN.replace("0.01", "1e30"),)
    with pytest.raises(InputError, match="non-finite loss: peer plain"):
        train.train_and_evaluate(configuration(tmp_path / "run", data_dir, peer=wild))
    config = configuration(tmp_path / "run", data_dir, epochs=1)
    assert train.train_and_evaluate(config)["training"]["steps"] == 4
    assert configs.read(tmp_path / "run/config.flags") == config


def test_a_peer_that_sits_out_every_step_stops_the_run(data_dir, tmp_path):
    wild = (PLAIN.replace("0.01", "1e30"), NORMALISED)
    config = configuration(tmp_path, data_dir, peer=wild, on_nonfinite="skip", method="solo")
    with pytest.raises(InputError, match=r"peer plain, in .*epoch [12]; valid: a lower"):
        train.train_and_evaluate(config)


def test_a_run_in_half_precision_saves_networks_of_single_precision(data_dir, tmp_path):
    config = configuration(tmp_path, data_dir, epochs=1, mixed_precision="float16")
    metrics = train.train_and_evaluate(config)
    assert metrics["training"]["skipped"] == {"plain": 0, "normalised": 0}
    for path in (tmp_path / "peers").iterdir():
        layers = keras.models.load_model(path).layers
        assert {layer.compute_dtype for layer in layers} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"


def test_an_interrupted_run_goes_on(data_dir, tmp_path, monkeypatch):
    whole = train.train_and_evaluate(configuration(tmp_path / "a", data_dir, epochs=4))
    config = configuration(tmp_path / "b", data_dir, epochs=4)
    save = checkpoint.save

    def interrupted(directory, cohort, history, *part):
        save(directory, cohort, history, *part)
        if len(history) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(config)
    parts = train.train_and_evaluate(config)
    for name, row in whole["peers"].items():  # bit-identity is held by test_resume
        assert parts["peers"][name]["cross_entropy"] == pytest.approx(
            row["cross_entropy"], rel=1e-4
        )


def test_sigterm_saves_within_the_epoch_and_the_run_ends_the_same(data_dir, tmp_path, monkeypatch):
    whole = train.train_and_evaluate(configuration(tmp_path / "a", data_dir, epochs=3))
    config, asked = configuration(tmp_path / "b", data_dir, epochs=3), iter(range(99))
    with monkeypatch.context() as patch:
        # Asked after steps 1 to 3 of an epoch of 4, and after the epoch: true within the second.
        patch.setattr(signals, "terminated", lambda: next(asked) == 6)
        with pytest.raises(PreemptedError, match="saved after 3 of 4 steps of epoch 2"):
            train.train_and_evaluate(config)
    parts = train.train_and_evaluate(config)
    for name, row in whole["peers"].items():
        assert parts["peers"][name]["cross_entropy"] == pytest.approx(
            row["cross_entropy"], rel=1e-4
        )
    rows = [history.read(tmp_path / run) for run in "ab"]
    for a, b in zip(*rows, strict=True):  # the running metrics went on too
        assert {**a, "seconds": 0} == pytest.approx({**b, "seconds": 0}, rel=1e-4)
    assert rows[1][1]["seconds"] > 0
    assert sorted(path.name for path in (tmp_path / "b/checkpoints").iterdir()) == [
        "epoch-0002.npz",
        "epoch-0003.npz",
    ]


def test_a_run_that_dies_at_any_write_outside_training_goes_on(data_dir, tmp_path, monkeypatch):
    """Before the first epoch, between the saved peers, between report and metrics."""
    config = configuration(tmp_path / "run", data_dir, epochs=1)
    whole, deaths = files.whole, []

    @contextlib.contextmanager
    def dying(path):
        if path.name not in deaths:
            deaths.append(path.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / f".partial-{path.name}").write_bytes(b"half")
            raise KeyboardInterrupt
        with whole(path) as beside:
            yield beside

    monkeypatch.setattr(files, "whole", dying)
    wanted = ["config.flags", "data.json", "plain.keras", "report.html", "metrics.json"]
    deaths += ["epoch-0001.npz", "history.csv", "normalised.keras", "report.md"]
    deaths += [f"{name}.{kind}" for kind in ("svg", "png") for name in PLOTS]
    for name in wanted:
        with pytest.raises(KeyboardInterrupt):
            train.train_and_evaluate(config)
        assert deaths[-1] == name
    assert train.train_and_evaluate(config)["training"]["steps"] == 4


def test_a_users_own_layer_is_found_again_or_refused_before_training(data_dir, tmp_path):
    peer = "tests.small_peers:with_own_layer,learning_rate=0.01"
    config = configuration(tmp_path / "a", data_dir, epochs=1, peer=(peer,))
    assert train.train_and_evaluate(config)["peers"]["with_own_layer"]["file"]
    peer = "tests.small_peers:with_unknown_layer"
    with pytest.raises(InputError, match="'with_unknown_layer' could not be loaded after saving"):
        train.train_and_evaluate(configuration(tmp_path / "b", data_dir, peer=(peer,)))


def test_evaluate_refuses_images_that_have_changed(run, monkeypatch):
    load = rundir.load_dataset

    def changed(*args, **kwargs):
        return dataclasses.replace(load(*args, **kwargs), fingerprint="other")

    monkeypatch.setattr(rundir, "load_dataset", changed)
    with pytest.raises(InputError, match="have changed since the run"):
        evaluation.evaluate_run(run[0])


def test_top5_counts_labels_among_the_five_largest_beyond_ten_classes():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(200, 12)), rng.integers(0, 12, 200)
    want = np.mean([label in np.argsort(row)[-5:] for row, label in zip(z, y, strict=True)])
    assert evaluation.scores(y, z)["top5"] == want
    assert "top5" not in evaluation.scores(y % 10, z[:, :10])


def test_a_method_that_never_distils_says_so(data_dir, tmp_path, capsys):
    config = configuration(tmp_path / "run", data_dir, epochs=1, distill_start=5)
    train.train_and_evaluate(config)
    assert "note: lambda is 0 throughout" in capsys.readouterr().out


def test_solo_peers_do_not_depend_on_their_company(data_dir, tmp_path):
    """The honest baseline: the same seeds, batches and recipe, whoever else is in the cohort."""
    together = configuration(tmp_path / "both", data_dir, method="solo")
    alone = configuration(tmp_path / "one", data_dir, method="solo", peer=(PLAIN,))
    results = [train.train_and_evaluate(config)["peers"]["plain"] for config in (together, alone)]
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
        ({"train_examples": 5}, InputError, "train_examples: 5 is out of range"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(data_dir, tmp_path, flags, error, message):
    with pytest.raises(error) as caught:
        train.train_and_evaluate(configuration(tmp_path / "run", data_dir, **flags))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
