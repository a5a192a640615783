"""Class by class, against scikit-learn; what is said of uneven classes."""

import csv

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support

from tests.invented_runs import Run
from xkd_keras.report import by_class, findings, headline, run_page
from xkd_keras.runs import scoring

pytestmark = pytest.mark.usefixtures("unrendered")

RNG = np.random.default_rng(5)
LABELS = RNG.choice(4, 300, p=[0.7, 0.2, 0.08, 0.02])
ANSWERS = np.where(RNG.random(300) < 0.7, LABELS, RNG.integers(0, 3, 300))


def test_precision_recall_and_f1_are_scikit_learns():
    want = precision_recall_fscore_support(LABELS, ANSWERS, labels=range(4), zero_division=0)
    rows = by_class.scores(np.bincount(LABELS), *by_class.counts(LABELS, ANSWERS, 4))
    for name, values in zip(("precision", "recall", "f1", "images"), want, strict=True):
        got = [row[name] or 0.0 for row in rows]
        np.testing.assert_allclose(got, values, rtol=1e-12)
    low, high = stats.binomtest(int(want[1][0] * want[3][0] + 0.5), int(want[3][0])).proportion_ci(
        method="wilson"
    )
    assert rows[0]["recall_interval"] == pytest.approx((low, high), abs=1e-9)


def test_balanced_accuracy_is_scikit_learns_also_where_a_class_has_no_images():
    logits = np.eye(5)[ANSWERS]
    want = balanced_accuracy_score(LABELS, ANSWERS)
    assert scoring.scores(LABELS, logits)["balanced_accuracy"] == pytest.approx(want)


def test_the_table_has_every_network_every_file_and_every_class():
    entry = {"file": "tflite/a-int8.tflite", "right": [1, 2, 3, 0], "answered": [2, 2, 6, 0]}
    manifest = {"artifacts": [entry, {"file": "of an earlier version"}]}
    text = by_class.table(LABELS, {"a": ANSWERS, "ensemble": LABELS}, list("wxyz"), manifest)
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["network"] for row in rows] == ["a"] * 4 + ["ensemble"] * 4 + [entry["file"]] * 4
    assert [row["class"] for row in rows[:4]] == list("wxyz")
    assert {row["recall"] for row in rows[4:8]} == {"1.0000"}
    assert [row["precision"] for row in rows[8:]] == ["0.5000", "1.0000", "0.5000", ""]


def uneven(top1, **config):
    run = Run(names=("cat", "dog"), epochs=0)
    metrics = run.metrics
    metrics["data"]["class_counts"] = {"train": [500, 25], "test": [340, 20]}
    metrics["config"] |= config
    for row in (*metrics["peers"].values(), metrics["ensemble"]):
        row |= {"top1": top1, "balanced_accuracy": 0.5}
    return metrics


def report(**counts):
    run = Run(names=("cat", "dog", "eel"), epochs=0)
    metrics = run.metrics
    metrics["data"]["class_counts"] |= counts
    return run_page.compose(metrics, run.history, run.answered)[0]


def test_class_counts_stand_under_the_result():
    text = report(train=[500, 25, 90], test=[30, 320, 10])
    result = text.partition("## Result")[2].partition("\n## ")[0]
    assert "360 test images; the largest class, dog, has 88.9 % of them." in result
    assert "Training images by class: at most 500 (cat), at least 25 (dog)." in result
    assert "Each class has 70 training images." in report(train=[70] * 3)
    assert "raining image" not in report(train=[], test=[]).partition("## Result")[2][:600]


def test_the_table_of_classes_has_their_training_images():
    section = report(train=[1500, 25, 90]).partition("## Class by class")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines()]
    (head,) = (row for row in rows if row[0] == "| class")
    assert head[1:3] == ["training images", "test images"]
    found = {row[0]: row[1] for row in rows if row[0] in ("| cat", "| dog", "| eel")}
    assert found == {"| cat": "1,500", "| dog": "25", "| eel": "90"}


def test_uneven_classes_are_told_with_the_remedy_unless_it_was_taken():
    (told,) = by_class._balance(uneven(0.9))
    assert "500 training images of cat, 25 of dog" in told
    assert "--class_weights=balanced" in told
    (told,) = by_class._balance(uneven(0.9, class_weights="sqrt"))
    assert "--class_weights" not in told
    assert by_class._balance(Run().metrics) == []


def test_no_headline_praises_what_naming_the_largest_class_would_reach():
    told = headline.sentence(uneven(0.95))
    assert told.startswith(
        "No network is clearly better than always answering cat (94.4 % of the test images): the"
        " most accurate, resnet20, reaches 95.0 % top-1 on "
    )
    assert told.endswith(
        "; the ensemble of 2 networks reaches 95.0 %. Train longer, or change the learning rates."
    )
    assert headline.sentence(uneven(0.99)).startswith("**resnet20** reaches")
    assert findings.guesses(0.95, uneven(0.95)["data"])


def test_balanced_accuracy_is_shown_where_classes_are_uneven():
    assert "balanced %" in headline.table(uneven(0.95))
    assert "balanced %" not in headline.table(Run().metrics)
