"""Reliability and thresholds in the report, worked by hand; the page of the surest mistakes."""

import numpy as np

from tests.html_page import Page
from tests.invented_runs import Run
from xkd_keras.report import trust


def test_bins_hold_the_mean_score_and_the_share_that_is_right():
    sure = np.array([0.31, 0.39, 0.40, 0.95, 1.0])
    right = np.array([0, 1, 1, 1, 1])
    scores, shares, images = trust.bins(sure, right)
    np.testing.assert_allclose(scores, [(0.31 + 0.39 + 0.40) / 3, 0.975])  # 0.3 to 0.4, 0.9 to 1
    np.testing.assert_allclose(shares, [2 / 3, 1.0])
    assert images.tolist() == [3, 2]


def test_scores_as_trained_and_as_exported_stand_side_by_side():
    metrics = Run().metrics
    text = "\n".join(trust.section(metrics, {}))
    assert "| resnet20 | 1.62 | 3.0 | 1.1 | 0.1000 | 0.0800 | 0.060 | 0.050 |" in text
    del metrics["ensemble"]["calibrated"]  # as of a run of an earlier version
    assert trust.section(metrics, {}) == []


def test_reasons_to_doubt_a_temperature_are_told():
    metrics = Run().metrics
    metrics["data"]["examples"]["validation"] = 5000
    plain = "\n".join(trust.section(metrics, {}))
    first, second = metrics["peers"]
    metrics["data"]["examples"]["validation"] = 40
    metrics["peers"][first] |= {"temperature": 20.0}
    metrics["peers"][second] |= {"ece": 0.069}
    metrics["peers"][second]["calibrated"] = {"ece": 0.077, "brier": 0.1, "cross_entropy": 0.2}
    text = "\n".join(trust.section(metrics, {}))
    for told in (
        "The temperatures were fitted on only 40 validation images. Where a data set has no",
        f"ECE on the test images is worse for {second} (6.9 to 7.7 %).",
        f"20 is the highest temperature that is tried; the probabilities of {first} say next",
    ):
        assert told in text
        assert told.partition(second)[0] not in plain


def test_thresholds_say_how_much_they_let_through_and_how_often_that_is_right():
    found = {"precision": 0.95, "score": 0.8125, "rests_on": 40, "taken": 80, "right": 76}
    earlier = {key: value for key, value in found.items() if key != "rests_on"} | {"precision": 0.8}
    files = [{"file": "a", "threshold": found}, {"file": "b", "threshold": None}, {"file": "c"}]
    files.append({"file": "d", "threshold": earlier})
    text = "\n".join(trust.thresholds({"artifacts": files, "examples": {"test": 100}}))
    assert "the lowest at which the requested share" in text
    assert "| file | requested % | threshold | rests on | answered % |" in text
    assert "| a | 95 | 0.812 | 40 | 80.0 | 95.0 | 88 – 98 |" in text  # Wilson: 0.878 to 0.980
    assert "| b | – | – | – | – | – | – |" in text
    assert "| d | 80 | 0.812 | – | 80.0 |" in text
    assert trust.thresholds({"artifacts": files[2:3]}) == []


def test_the_page_of_mistakes_lists_the_surest_with_their_files(tmp_path):
    run = Run(names=("a<b>", "dog", "cat"), mistakes=0.2)
    run.write(tmp_path)
    page = Page((tmp_path / "mistakes.html").read_text())
    logits = run.predictions.logits["ensemble"]
    p = np.exp(logits / 2) / np.exp(logits / 2).sum(-1, keepdims=True)
    wrong = np.flatnonzero(logits.argmax(-1) != run.predictions.labels)
    surest = wrong[np.argsort(-p[wrong].max(-1), kind="stable")][:24]
    at = [page.cells.index(f"train/{i}.png") for i in surest]
    assert at == sorted(at)
    names = [run.names[run.predictions.labels[i]] for i in surest]
    assert [page.cells[i + 1] for i in at] == names
    assert len([tag for tag, _ in page.tags if tag == "img"]) == 1
