"""The geometric mean of all networks' errors, against numbers worked by hand and scipy."""

import numpy as np
import pytest
from scipy import stats

from tests.invented_studies import Study
from xkd_keras.study import together


def by_hand(main=("solo", "mcod"), images=100, **top1):
    """Return a study of two networks: method -> by seed, the top-1 of both."""
    runs = [
        {
            "method": method,
            "seed": seed,
            "status": "done",
            "peers": {"a": {"top1": a}, "b": {"top1": b}},
        }
        for method, values in top1.items()
        for seed, (a, b) in enumerate(values)
    ]
    content = {"peers": {"a": {}, "b": {}}, "methods": {each: {} for each in top1}, "runs": runs}
    return {**content, "main": list(main), "data": {"examples": {"test": images}}}


def test_halving_the_errors_of_one_of_two_networks_is_29_percent_fewer():
    # Geometric means: 0.1 and 0.2 alone, 0.1 / sqrt 2 and 0.2 / sqrt 2 taught.
    found = together.compared(
        by_hand(solo=[(0.8, 0.95), (0.6, 0.9)], mcod=[(0.9, 0.95), (0.8, 0.9)])
    )
    assert found["error"] == pytest.approx({"solo": 0.02**0.5, "mcod": 0.1})
    result = found["against"]["solo"]
    fewer = 1 - 0.5**0.5
    assert [result[key] for key in ("mean", "low", "high")] == pytest.approx([fewer] * 3)
    assert [result[key] for key in ("n", "wins", "ties", "losses")] == [2, 2, 0, 0]
    assert result["p"] is None  # the same on every seed: nothing to test with


def test_intervals_and_p_values_are_scipys_of_the_logarithms():
    study = Study(seeds=6, main=("solo", "kd", "mcod"), effects={"mcod": (2.0, 1.0)}).content
    errors = {
        method: np.array(
            [
                stats.gmean([1 - peer["top1"] for peer in run["peers"].values()])
                for run in study["runs"]
                if run["method"] == method
            ]
        )
        for method in study["main"]
    }
    found, tests = together.compared(study), {}
    for rival in ("solo", "kd"):
        tests[rival] = stats.ttest_rel(np.log(errors[rival]), np.log(errors["mcod"]))
        result, limits = found["against"][rival], tests[rival].confidence_interval(0.95)
        assert result["p"] == pytest.approx(tests[rival].pvalue)
        assert result["low"] == pytest.approx(1 - np.exp(-limits.low))
        assert result["high"] == pytest.approx(1 - np.exp(-limits.high))
        ratios = errors["mcod"] / errors[rival]
        assert result["mean"] == pytest.approx(1 - stats.gmean(ratios))
    small, large = sorted(tests, key=lambda rival: tests[rival].pvalue)
    first = min(1, 2 * tests[small].pvalue)
    assert found["against"][small]["holm"] == pytest.approx(first)
    assert found["against"][large]["holm"] == pytest.approx(max(first, tests[large].pvalue))


def test_variants_are_a_family_of_their_own():
    study = Study(seeds=4, main=("solo", "mcod"), variants=("windows_only",)).content
    against = together.compared(study)["against"]
    assert against["windows_only"]["holm"] == pytest.approx(against["windows_only"]["p"])
    assert against["solo"]["holm"] == pytest.approx(against["solo"]["p"])


def test_of_no_error_at_all_half_an_image_counts():
    found = together.compared(by_hand(images=50, solo=[(0.99, 0.96)], mcod=[(1.0, 1.0)]))
    assert found["error"]["mcod"] == pytest.approx(0.01)
    assert found["against"]["solo"]["mean"] == pytest.approx(0.5)
    assert found["against"]["solo"]["low"] is None


def test_without_a_second_network_there_is_nothing_to_compare():
    study = Study(seeds=2, main=("solo", "mcod")).content
    study["peers"].pop("resnet20")
    assert together.compared(study) is None


def test_a_study_without_our_methods_is_about_the_last_that_it_names():
    found = together.compared(Study(seeds=2, main=("solo", "kd", "dml")).content)
    assert list(found["against"]) == ["solo", "kd"]


def test_the_report_says_who_makes_fewer_errors(tmp_path):
    text = Study(seeds=4, main=("solo", "mcod"), effects={"mcod": (4.0, 4.0)}).write(tmp_path)
    table = text.split("## All networks together")[1].split("##")[0]
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line[:1] == "|"}
    assert "fewer errors with mcod" in rows[""]
    assert "4 / 0 / 0" in rows["solo"]
    assert rows["mcod"].count("–") == 3
