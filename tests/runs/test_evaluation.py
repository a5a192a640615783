"""A finished run evaluated again; scores against NumPy."""

import dataclasses
import itertools
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy.special import softmax

from tests.uneven import uneven
from xkd_keras import data as datasets
from xkd_keras import peers
from xkd_keras.errors import InputError
from xkd_keras.runs import directory as rundir
from xkd_keras.runs import evaluation, records, scoring, whereabouts


@pytest.fixture(scope="module")
def run(finished_run):
    """A finished run: its directory and its metrics."""
    run_dir = Path(finished_run.run_dir)
    return run_dir, json.loads((run_dir / "metrics.json").read_text())


def digits(data_dir):
    """The test split as plain arrays."""
    data = datasets.load("digits", data_dir=str(data_dir))
    n = len(data.test)
    return datasets.images(data.test, range(n), data), datasets.labels(data.test)


def test_evaluate_repeats_the_final_numbers_exactly(run):
    run_dir, metrics = run
    again = evaluation.evaluate_run(run_dir)
    for name, row in {**again["peers"], "ensemble": again["ensemble"]}.items():
        first = metrics["peers"].get(name, metrics["ensemble"])
        for key in ("top1", "cross_entropy", "parameters"):
            assert row[key] == first[key], (name, key)
    assert again["agreement"] == metrics["agreement"]
    assert again["examples"] == 361


@pytest.mark.parametrize("batch", [20, 256])
def test_the_time_of_an_image_has_no_tracing_in_it(batch, monkeypatch):
    """By a clock that stands still, but for a second when the graph is traced."""
    clock = [0.0]

    class Slow(keras.layers.Layer):
        def call(self, x):
            clock[0] += 1.0
            return x

    inputs = keras.Input((8, 8, 3))
    outputs = keras.layers.Dense(4)(keras.layers.Flatten()(Slow()(inputs)))
    monkeypatch.setattr(evaluation.time, "perf_counter", lambda: clock[0])
    found = evaluation.predict(
        {"a": keras.Model(inputs, outputs)}, {"a": 1}, uneven(), "test", batch
    )
    assert clock[0] >= 2  # when it was built, and when it was traced
    assert found.milliseconds == {"a": 0.0, "ensemble": 0.0}


def test_evaluate_takes_one_peer_and_other_splits(run):
    run_dir, metrics = run
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


def test_images_that_a_run_was_trained_on_are_warned_of(run, tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    for label in map(str, range(10)):
        (photos / "train" / label).mkdir(parents=True)
        Image.new("RGB", (32, 32), (25 * int(label), 0, 0)).save(photos / f"train/{label}/a.png")
    known = records.finished

    def finished(run_dir):
        config, metrics = known(run_dir)
        return dataclasses.replace(config, dataset=f"folder:{photos}"), metrics

    name = f"folder:{photos / 'train'}"
    about = evaluation.evaluate_run(run[0], dataset=name, split="all")["about"]
    assert not [line for line in about if line.startswith("warning:")]
    monkeypatch.setattr(records, "finished", finished)
    about = evaluation.evaluate_run(run[0], dataset=name, split="all")["about"]
    assert [line for line in about if "the run was trained on some of these images" in line]


def test_the_test_images_of_the_runs_own_set_in_another_place_are_no_doubt(run, monkeypatch):
    """Under another name, a data set of TFDS is divided as the run's is."""
    known = records.finished(run[0])
    config = dataclasses.replace(known[0], dataset="cifar10")
    monkeypatch.setattr(records, "finished", lambda _: (config, known[1]))
    data = rundir.load_dataset(known[0])
    assert evaluation.doubts(run[0], data, "digits", "test") == []
    (line,) = evaluation.doubts(run[0], data, "digits", "train")
    assert "these are the images that the run was trained on" in line


def test_other_images_are_cropped_as_the_runs_own(run, tmp_path):
    config = dataclasses.replace(records.finished(run[0])[0], augment="auto")
    for label in map(str, range(10)):
        (tmp_path / label).mkdir()
        Image.new("RGB", (90, 90), (25 * int(label), 0, 0)).save(tmp_path / f"{label}/a.png")
    name, labels = f"folder:{tmp_path}", tuple(map(str, range(10)))
    assert rundir.load_dataset(config, name, (96, 96), labels).crop_ratio == 1.0  # as of digits
    of_photos = dataclasses.replace(config, dataset="folder:elsewhere")
    assert rundir.load_dataset(of_photos, name, (96, 96), labels).crop_ratio == 0.875


def test_evaluate_takes_one_image_of_one_class_and_leaves_out_what_it_cannot_read(
    run, tmp_path, data_dir
):
    images, labels = digits(data_dir)
    (tmp_path / "7").mkdir()
    image = images[np.flatnonzero(labels == 7)[0]]
    (tmp_path / "7" / "a.png").write_bytes(tf.io.encode_png(image).numpy())
    (tmp_path / "7" / "b.png").write_bytes(b"no image")
    name = f"folder:{tmp_path}"
    with pytest.raises(InputError, match=r"7/b\.png cannot be read"):
        evaluation.evaluate_run(run[0], dataset=name, split="all")
    got = evaluation.evaluate_run(run[0], dataset=name, split="all", skip_unreadable=True)
    assert got["examples"] == 1
    (line,) = got["about"]
    assert line.startswith("left out because it cannot be read: 7/b.png (")
    with pytest.raises(InputError, match=r"^split: folder:.* has no images in split train"):
        evaluation.evaluate_run(run[0], dataset=name, split="train", skip_unreadable=True)


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("runs/birdz", "runs/birds"),
        ("runs/birds/report.html", "runs/birds"),
        ("runs/birds/peers/new", "runs/birds"),
        ("more", "more/cars"),
        ("runs", ""),  # of two, nobody knows which
        ("elsewhere/birds", ""),
    ],
)
def test_where_no_finished_run_is_the_one_that_may_be_meant_is_named(tmp_path, asked, near):
    for name in ("runs/birds", "runs/ships", "more/cars"):
        (tmp_path / name).mkdir(parents=True)
        for file in ("metrics.json", "config.flags"):
            (tmp_path / name / file).touch()
    (tmp_path / "runs/birds/report.html").touch()
    (tmp_path / "metrics.json").write_text('{"accuracy": 0.9}')  # of another program
    with pytest.raises(InputError, match="contains no finished run") as caught:
        records.finished(tmp_path / asked)
    hint = f" contains no finished run, but '{tmp_path / near}' does; valid: "
    assert (hint if near else " contains no finished run; valid: ") in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"), [("{}", "'data'"), ("{", "Expecting property name"), ("[]", "list ")]
)
def test_a_damaged_metrics_file_is_told_and_is_no_missing_run(tmp_path, content, reason):
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(InputError, match="contains no finished run"):  # another program's
        records.finished(tmp_path, "teacher_run")
    (tmp_path / "config.flags").touch()
    with pytest.raises(InputError, match="is damaged or cannot be read") as caught:
        records.finished(tmp_path, "teacher_run")
    line = f"teacher_run: {tmp_path / 'metrics.json'} is damaged or cannot be read ({reason}"
    assert str(caught.value).startswith(line)


def test_a_damaged_file_is_to_be_written_again_only_where_there_is_a_checkpoint(tmp_path):
    (tmp_path / "config.flags").touch()
    (tmp_path / "metrics.json").write_text("{")
    again = rf"valid: delete {tmp_path}/metrics\.json and run the training command again: it rew"
    for remedy in ("valid: restore metrics.json from a copy, or train again in another", again):
        with pytest.raises(InputError, match=remedy):
            records.finished(tmp_path)
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        (tmp_path / "checkpoints/epoch-0003.npz").touch()


def test_a_file_is_in_no_run_because_of_another_programs_metrics(tmp_path):
    (tmp_path / "metrics.json").write_text('{"accuracy": 0.9}')
    assert whereabouts.containing(tmp_path / "net.tflite") != tmp_path
    (tmp_path / "config.flags").touch()
    assert whereabouts.containing(tmp_path / "export/net.tflite") == tmp_path


def test_a_run_that_lost_its_configuration_is_told_so(tmp_path):
    data = {"image_shape": [8, 8, 3], "fingerprint": "0"}
    (tmp_path / "metrics.json").write_text(json.dumps({"data": data}))
    with pytest.raises(InputError, match=r"config\.flags is missing, which records how"):
        records.finished(tmp_path)


def test_evaluate_names_what_it_does_not_know(run, tmp_path):
    with pytest.raises(InputError, match=r"^peer: unknown value 'plan'\. Did you mean 'plain'"):
        evaluation.evaluate_run(run[0], ["plan"])
    with pytest.raises(InputError, match="contains no finished run"):
        evaluation.evaluate_run(tmp_path)
    (tmp_path / "peers").mkdir()
    (tmp_path / "peers/broken.keras").write_bytes(b"PK no")
    with pytest.raises(InputError, match=r"broken\.keras: is damaged; valid: restore broken\.ker"):
        rundir.load_peers(tmp_path, ["broken"])
    with pytest.raises(InputError, match=r"gone\.keras: is missing"):
        rundir.load_peers(tmp_path, ["gone"])


def test_the_parameters_of_a_network_are_all_that_it_could_learn_frozen_or_not(tmp_path):
    def counted(model):
        answers = {"a": np.eye(4), "ensemble": np.eye(4)}
        said = evaluation.Predictions(np.arange(4), answers, {"a": 0.0, "ensemble": 0.0}, None)
        return evaluation.summarize({"a": model}, said)["peers"]["a"]["parameters"]

    network = peers.build("resnet20", (32, 32, 3), 10)
    assert counted(network) == 272_474
    for layer in network.layers[:-1]:
        layer.trainable = False
    network.save(tmp_path / "frozen.keras")
    assert counted(keras.models.load_model(tmp_path / "frozen.keras")) == 272_474
    base = keras.Sequential([keras.Input([4]), keras.layers.Dense(5)])
    base.trainable = False
    assert counted(keras.Sequential([keras.Input([4]), base, keras.layers.Dense(2)])) == 25 + 12


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
    assert scoring.scores(y, z)["top5"] == want
    assert "top5" not in scoring.scores(y % 10, z[:, :10])


def test_equal_answers_are_ranked_as_the_first_of_them_is_chosen():
    """As of an int8 file, most of whose probabilities are 0."""
    rng = np.random.default_rng(1)
    z, y = np.log(np.maximum(rng.integers(-9, 4, (500, 12)), 1e-7)), rng.integers(0, 12, 500)
    first = np.argsort(-z, axis=-1, kind="stable")
    got = scoring.scores(y, z)
    assert got["top5"] == np.mean((first[:, :5] == y[:, None]).any(-1))
    assert got["top1"] == np.mean(first[:, 0] == y)


def test_what_is_not_a_number_is_wrong():
    z, y = np.zeros((4, 12)), np.zeros(4, int)
    z[1], z[2, 0], z[3, 7] = np.nan, np.nan, np.nan
    got = scoring.scores(y, z)
    assert (got["top1"], got["balanced_accuracy"], got["top5"]) == (0.25, 0.25, 0.25)
    assert np.isnan([got["cross_entropy"], got["brier"], got["ece"]]).all()


def test_calibration_error_is_the_weighted_gap_of_confidence_and_accuracy():
    """Two bins of (0, 1]: 0.4, 0.5 (the upper edge belongs to the bin) and 0.7, 0.9, 0.8."""
    confidence = np.array([0.4, 0.5, 0.7, 0.9, 0.8])
    right = np.array([True, False, True, True, False])
    want = abs(0.45 - 0.5) * 2 / 5 + abs(0.8 - 2 / 3) * 3 / 5
    assert scoring.calibration_error(confidence, right, bins=2) == pytest.approx(want)


def test_calibration_error_is_that_of_the_softmax():
    z = np.random.default_rng(0).normal(0, 2, (400, 6))
    labels = np.random.default_rng(1).integers(0, 6, 400)
    p = softmax(z, -1)
    edges = np.linspace(0, 1, 16)
    want = 0.0
    for low, high in itertools.pairwise(edges):
        there = (p.max(-1) > low) & (p.max(-1) <= high)
        if there.any():
            right = z.argmax(-1)[there] == labels[there]
            want += there.mean() * abs(p.max(-1)[there].mean() - right.mean())
    assert scoring.scores(labels, z)["ece"] == pytest.approx(want)


def test_the_brier_score_is_the_squared_distance_to_the_one_hot_label():
    z = np.random.default_rng(0).normal(0, 2, (50, 6))
    labels = np.random.default_rng(1).integers(0, 6, 50)
    want = np.mean(np.sum((softmax(z, -1) - np.eye(6)[labels]) ** 2, axis=-1))
    assert scoring.scores(labels, z)["brier"] == pytest.approx(want)
