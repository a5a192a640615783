"""The statistics of a study against closed forms, examples by hand and scipy called otherwise."""

import json

import numpy as np
import pytest
from scipy import stats

from xkd_keras.study import statistics
from xkd_keras.study.report import paper

SOLO = [0.80, 0.82, 0.79, 0.83, 0.81, 0.80, 0.84, 0.78]
MCOD = [0.83, 0.83, 0.80, 0.86, 0.81, 0.83, 0.85, 0.82]


def study(peers=("alexnet",), main=None, **top1):
    """Return a study whose methods have these accuracies, of seeds 0, 1, ...; None: not run.

    Args:
        peers: The networks; the second has 0.05 more accuracy than the first, and so on.
        main: The main methods; the first if not all of them.
        top1: method -> accuracies.
    """

    def result(value, i):
        top1, error = value + 0.05 * i, 1 - value
        return {"top1": top1, "cross_entropy": error, "ece": value / 10, "brier": error**2}

    runs = [
        {
            "method": method,
            "seed": seed,
            "status": "done",
            "seconds": 10.0 + seed,
            "teacher_seconds": 7.0 if method == "kd" else 0.0,
            "peers": {peer: result(value, i) for i, peer in enumerate(peers)},
            "ensemble": result(value, 1),
            "agreement": 0.9,
            "history": [{"epoch": e, "disagreement": value / e} for e in (1, 2)],
        }
        for method, values in top1.items()
        for seed, value in enumerate(values)
        if value is not None
    ]
    return {
        "peers": {peer: {"builder": peer, "parameters": 1} for peer in peers},
        "seeds": list(range(max(map(len, top1.values())))),
        "methods": {method: {"method": method, "options": {}} for method in top1},
        "main": list(main or top1),
        "runs": runs,
    }


def against(summary, method="mcod", reference="solo", peer="alexnet"):
    return summary["networks"][peer][method]["against"][reference]


def test_holm_of_a_hand_worked_example():
    # Sorted 0.005 0.01 0.03 0.04 times 4 3 2 1 is 0.02 0.03 0.06 0.04; the last may not fall.
    adjusted = statistics.holm([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02])


def test_holm_stays_below_one_and_leaves_a_single_test_alone():
    np.testing.assert_allclose(statistics.holm([0.5, 0.9, 0.6]), [1, 1, 1])
    np.testing.assert_allclose(statistics.holm([0.04]), [0.04])
    assert statistics.holm([]).shape == (0,)


def test_holm_rejects_exactly_what_the_step_down_procedure_rejects():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.uniform(0, 0.1, 6)
        rejected = set()
        for k, i in enumerate(np.argsort(p)):  # as Holm states it: stop at the first that stays
            if p[i] > 0.05 / (6 - k):
                break
            rejected.add(int(i))
        assert set(np.flatnonzero(statistics.holm(p) <= 0.05)) == rejected


def test_interval_is_that_of_the_t_table():
    found = statistics.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    # t(0.975, 4) = 2.776445; the standard error is sqrt(2.5 / 5).
    half = 2.776445 * np.sqrt(0.5)
    np.testing.assert_allclose([found["low"], found["high"]], [3 - half, 3 + half], rtol=1e-6)
    assert found["mean"] == 3


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], (None, None, None)), ([0.5], (0.5, None, None)), ([0.5, 0.5], (0.5, 0.5, 0.5))],
)
def test_interval_of_too_little(values, expected):
    assert tuple(statistics.interval(values).values()) == expected


def test_a_method_is_described_by_its_own_numbers():
    values = statistics.summarize(study(mcod=MCOD))["networks"]["alexnet"]["mcod"]
    expected = (8, np.mean(MCOD), np.std(MCOD, ddof=1), 0.80, 0.86)
    np.testing.assert_allclose([values[k] for k in ("n", "mean", "sd", "min", "max")], expected)
    assert values["ece"]["mean"] == pytest.approx(np.mean(MCOD) / 10)
    assert values["cross_entropy"]["mean"] == pytest.approx(1 - np.mean(MCOD))


def test_calibration_is_compared_with_solo_by_seed():
    by = statistics.summarize(study(solo=SOLO, mcod=MCOD))["networks"]["alexnet"]
    solo, mcod = np.array(SOLO), np.array(MCOD)
    for metric, of in (("ece", lambda x: x / 10), ("brier", lambda x: (1 - x) ** 2)):
        assert by["mcod"][metric]["mean"] == pytest.approx(of(mcod).mean())
        assert by["solo"][metric]["to_solo"] is None
        test = stats.ttest_rel(of(mcod), of(solo))
        low, high = test.confidence_interval(0.95)
        expected = {"n": 8, "mean": (of(mcod) - of(solo)).mean(), "low": low, "high": high}
        assert by["mcod"][metric]["to_solo"] == pytest.approx({**expected, "p": test.pvalue})
    # By hand: differences -3 -1 -1 -3 0 -3 -1 -4 hundredths have the mean -2, a sum of squares of
    # 46 - 32 = 14 and so a standard error of sqrt(14 / 7 / 8) = 0.5; t(0.975, 7) = 2.364624.
    found = by["mcod"]["cross_entropy"]["to_solo"]
    hand = [-0.02, -0.02 - 0.005 * 2.364624, -0.02 + 0.005 * 2.364624]
    np.testing.assert_allclose([found[key] for key in ("mean", "low", "high")], hand, rtol=1e-6)


def test_calibration_without_solo_or_without_shared_seeds_is_not_compared():
    found = statistics.summarize(study(kd=SOLO, mcod=MCOD))["networks"]["alexnet"]["mcod"]
    assert found["brier"]["to_solo"] is None
    found = statistics.summarize(study(solo=[0.8, None], mcod=[None, 0.9]))["networks"]["alexnet"]
    assert found["mcod"]["brier"]["to_solo"] is None


def test_a_comparison_is_the_one_sample_test_of_the_differences():
    found = against(statistics.summarize(study(solo=SOLO, mcod=MCOD)))
    difference = np.subtract(MCOD, SOLO)
    test = stats.ttest_1samp(difference, 0)
    assert found["mean"] == pytest.approx(difference.mean())
    assert found["p"] == found["holm"] == pytest.approx(test.pvalue)
    limits = test.confidence_interval(0.95)
    np.testing.assert_allclose([found["low"], found["high"]], limits)
    assert (found["wins"], found["ties"], found["losses"]) == (7, 1, 0)


def test_wilcoxon_of_distinct_differences_counts_sign_patterns():
    solo = [0.5] * 6
    found = statistics.compare(
        dict(enumerate([0.51, 0.52, 0.53, 0.54, 0.55, 0.44])), dict(enumerate(solo))
    )
    # Only the largest of six ranks is negative: 6 + ... of 64 patterns have a sum of 6 or less.
    patterns = np.array(np.meshgrid(*[[0, 1]] * 6)).reshape(6, -1)
    smaller = np.mean(patterns.T @ np.arange(1, 7) <= 6)
    assert found["wilcoxon"] == pytest.approx(2 * smaller)


def test_wilcoxon_sees_ties_through_floating_point():
    rng = np.random.default_rng(0)
    right, more = rng.integers(290, 310, 12), rng.integers(-3, 4, 12)  # of 361 test images
    mine, other = dict(enumerate((right + more) / 361)), dict(enumerate(right / 361))
    found = statistics.compare(mine, other)
    assert found["wilcoxon"] == pytest.approx(stats.wilcoxon(more).pvalue, rel=1e-12)


def test_only_seeds_that_both_methods_have_are_compared():
    gaps = [*SOLO[:2], None, *SOLO[3:]]
    found = against(statistics.summarize(study(solo=gaps, mcod=[*MCOD, 0.1])))
    kept = [i for i in range(8) if i != 2]
    assert found["n"] == 7
    assert found["mean"] == pytest.approx(np.mean([MCOD[i] - SOLO[i] for i in kept]))
    assert statistics.compare({0: 0.5}, {1: 0.5}) is None


def test_error_reduction_and_its_interval_against_a_plain_bootstrap():
    found = against(statistics.summarize(study(solo=SOLO, mcod=MCOD)))["error_reduction"]
    mine, other = 1 - np.array(MCOD), 1 - np.array(SOLO)
    assert found["mean"] == pytest.approx(1 - mine.mean() / other.mean())
    drawn = np.random.default_rng(5).integers(0, 8, (20_000, 8))
    ratios = 1 - mine[drawn].mean(axis=1) / other[drawn].mean(axis=1)
    expected = np.percentile(ratios, (2.5, 97.5))
    np.testing.assert_allclose([found["low"], found["high"]], expected, atol=0.015)
    again = against(statistics.summarize(study(solo=SOLO, mcod=MCOD)))["error_reduction"]
    assert again == found


def test_the_papers_gain_for_alexnet_is_our_error_reduction_of_its_accuracies():
    found = statistics.error_reduction(np.array([1 - 0.4979]), np.array([1 - 0.4385]))
    assert found["mean"] == pytest.approx(paper.PAPER["alexnet"]["error_reduction"], abs=5e-4)
    assert found["low"] is None


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5, 0.5], [0.5, 0.6, 0.7], [1.0, 1.0, 1.0]])
def test_nothing_is_tested_where_nothing_differs(values):
    found = against(statistics.summarize(study(solo=values, mcod=values)))
    assert (found["mean"], found["p"], found["wilcoxon"], found["holm"]) == (0, None, None, None)
    assert (found["wins"], found["ties"], found["losses"]) == (0, len(values), 0)
    assert (found["low"] is None) == (len(values) == 1)


def test_without_any_error_of_solo_none_can_go_away():
    found = statistics.compare(dict.fromkeys(range(3), 0.9), dict.fromkeys(range(3), 1.0))
    assert found["error_reduction"] == {"mean": None, "low": None, "high": None}
    almost = statistics.compare({0: 0.9, 1: 0.95, 2: 0.8}, {0: 1.0, 1: 1.0, 2: 0.9})
    assert almost["error_reduction"]["low"] is None  # a resample of seeds 0 and 1 has no error
    assert almost["error_reduction"]["mean"] == pytest.approx(1 - 0.35 / 0.1)


def test_families_hold_all_peers_and_main_methods_but_not_the_ensemble():
    rng = np.random.default_rng(0)
    methods = ("solo", "kd", "dml", "mcod", "variant")
    content = study(
        ("alexnet", "vgg11"),
        main=methods[:4],
        **{method: list(rng.uniform(0.5, 0.9, 6)) for method in methods},
    )
    summary = statistics.summarize(content)
    table = summary["networks"]

    def family(reference, methods):
        pairs = [(peer, method) for peer in ("alexnet", "vgg11") for method in methods]
        results = [table[peer][method]["against"][reference] for peer, method in pairs]
        expected = statistics.holm([found["p"] for found in results])
        np.testing.assert_allclose([found["holm"] for found in results], expected)
        assert {found["family"] for found in results} == {len(pairs)}

    family("solo", ("kd", "dml", "mcod"))
    family("solo", ("variant",))
    family("kd", ("dml", "mcod"))
    family("mcod", ("dml",))
    family("mcod", ("variant",))
    assert table["ensemble"]["mcod"]["against"]["solo"]["holm"] is None
    assert set(table["alexnet"]["kd"]["against"]) == {"solo"}  # each pair is in one family
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_verdict_is_better_worse_or_neither_and_mirrors_a_rival():
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.01, (4, 12))
    content = study(
        solo=list(0.8 + noise[0]),
        kd=list(0.9 + noise[1]),
        dml=list(0.84 + noise[2]),
        mcod=list(0.84 + noise[3]),
        worse=list(0.7 + noise[0]),
    )
    summary = statistics.summarize(content)
    said = statistics.verdict(content, summary)["against"]
    answers = {rival: peers["alexnet"]["answer"] for rival, peers in said.items()}
    assert answers == {
        "solo": statistics.BETTER,
        "kd": statistics.WORSE,
        "dml": statistics.SAME,
        "worse": statistics.BETTER,
    }
    # mcod is the reference of dml: the verdict turns the difference round.
    turned = stats.ttest_1samp(0.84 + noise[3] - (0.84 + noise[2]), 0).confidence_interval(0.95)
    found = said["dml"]["alexnet"]
    np.testing.assert_allclose([found["low"], found["high"]], turned)
    assert found["mean"] == pytest.approx(np.mean(noise[3] - noise[2]))


def test_a_difference_that_holm_does_not_let_pass_is_not_called_better():
    difference = np.array([0.031, 0.002, -0.004, 0.012, 0.024, -0.002, 0.02, 0.011])
    solo = np.array(SOLO)
    alone = study(solo=SOLO, mcod=list(solo + difference))
    summary = statistics.summarize(alone)
    assert 0.02 < against(summary)["p"] < 0.05
    assert statistics.verdict(alone, summary)["against"]["solo"]["alexnet"]["answer"] == "better"
    rng = np.random.default_rng(0)
    others = {f"m{i}": list(solo + rng.normal(0, 0.01, 8)) for i in range(3)}
    many = study(solo=SOLO, mcod=list(solo + difference), **others)
    judged = statistics.verdict(many, statistics.summarize(many))["against"]["solo"]["alexnet"]
    assert judged["low"] > 0  # its own interval leaves zero out, but it was one of four
    assert judged["answer"] == statistics.SAME


def test_one_seed_is_too_few_for_any_verdict():
    content = study(solo=[0.5], mcod=[0.9])
    said = statistics.verdict(content, statistics.summarize(content))
    assert said["against"]["solo"]["alexnet"]["answer"] == statistics.UNKNOWN
    assert said["weakest"] == "alexnet"


def test_a_study_is_about_solo_only_where_nothing_else_is_compared():
    assert statistics.subject(study(dml=[0.5, 0.6], solo=[0.5, 0.6])) == "dml"
    assert statistics.subject(study(solo=[0.5, 0.6])) == "solo"


def test_the_weakest_peer_is_the_one_that_is_worst_alone():
    content = study(("vgg11", "alexnet"), solo=[0.5, 0.6], mcod=[0.9, 0.8])
    assert statistics.verdict(content, statistics.summarize(content))["weakest"] == "vgg11"
    nobody = study(mcod=[0.9, 0.8])
    said = statistics.verdict(nobody, statistics.summarize(nobody))
    assert said == {"subject": "mcod", "against": {}, "variants": {}, "weakest": None}


def test_cost_includes_the_teacher_and_compares_with_solo():
    cost = statistics.summarize(study(solo=[0.5, 0.5, 0.5], kd=[0.5, 0.5, 0.5]))["cost"]
    assert cost["solo"] == {"median": 11, "low": 10.5, "high": 11.5, "teacher": 0, "ratio": 1}
    assert cost["kd"]["median"] == 18
    assert cost["kd"]["ratio"] == pytest.approx(18 / 11)


def test_progress_counts_every_pair_once():
    content = study(solo=[0.5, 0.5, None], mcod=[0.5, None, None])
    content["runs"] += [
        {"method": "mcod", "seed": 1, "status": "failed", "error": "no"},
        {"method": "solo", "seed": 2, "status": "failed", "error": "once"},
        {**content["runs"][0], "seed": 2},  # and it was done later
    ]
    expected = {"expected": 6, "done": 4, "failed": 1, "missing": 1}
    assert statistics.summarize(content)["runs"] == expected


def test_curves_are_means_over_seeds():
    curves = statistics.curves(study(solo=[0.4, 0.6], mcod=[0.2, None]), "disagreement")
    assert [row["epoch"] for row in curves["solo"]] == [1, 2]
    np.testing.assert_allclose([row["mean"] for row in curves["solo"]], [0.5, 0.25])
    assert curves["mcod"][0] == {"epoch": 1, "mean": 0.2, "low": None, "high": None}
    assert statistics.curves(study(solo=[0.4]), "unknown") == {}


@pytest.mark.parametrize(
    ("builder", "expected"),
    [
        *(("alexnet", "alexnet"), ("imagenet_alexnet", "alexnet"), ("vgg11", "vgg")),
        *(("resnet20", "resnet"), ("imagenet_resnet50", "resnet"), ("resnet164", "resnet")),
        *(("densenet-bc-40-12", "densenet"), ("imagenet_densenet121", "densenet")),
        *(("wrn-16-2", None), ("mobilenet_v2", None), ("imagenet_mobilenet_v3", None)),
        *(("resnets:build", None), ("my_resnet", None)),
    ],
)
def test_family(builder, expected):
    assert paper.family(builder) == expected
