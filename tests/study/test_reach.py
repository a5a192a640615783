"""What a report says of the reach of its seeds and images: on studies with a known effect."""

import re

import numpy as np
import pytest
from scipy import stats

from tests.invented_studies import Study
from xkd_keras.study import report, statistics
from xkd_keras.study.report import reach


def test_it_says_what_its_seeds_can_show_and_what_the_difference_seen_would_need(
    tmp_path, unpictured
):
    study = Study(main=("solo", "mcod"), effects={"mcod": (0.6, 4.0)}, seeds=5, images=5000)
    text = study.write(tmp_path)
    runs = {
        (run["method"], run["seed"]): run["peers"]["alexnet"]["top1"]
        for run in study.content["runs"]
    }
    gains = np.array([runs["mcod", seed] - runs["solo", seed] for seed in range(5)])
    (line,) = re.findall(r"\*\*What these seeds can show:.*", text)
    least = float(re.search(r"([\d.]+) points for alexnet", line)[1]) / 100
    one = np.random.default_rng(0).normal(least, gains.std(ddof=1), (4000, 5))
    found = np.mean(stats.ttest_1samp(one, 0.0, axis=1).pvalue < 0.05)
    assert found == pytest.approx(0.8, abs=0.06)  # least is rounded to a tenth of a point
    seeds, seen = re.search(r"need (\d+) seeds for alexnet \(([+−][\d.]+) points\)", line).groups()
    assert float(seen.replace("−", "-")) == pytest.approx(100 * gains.mean(), abs=0.006)
    drawn = np.random.default_rng(1).normal(gains.mean(), gains.std(ddof=1), (4000, int(seeds)))
    found = np.mean(stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05 / 2)  # Holm's, of two
    assert found == pytest.approx(0.8, abs=0.03)
    assert int(seeds) > 5
    assert "seeds for resnet20" not in line  # that difference is shown already
    assert "points to a difference; 11,000 images would add one point at most)" in text
    images, again = re.search(
        r"up to ([\d,]+) test images for alexnet \((.*?) points\)", line
    ).groups()
    assert again == seen
    # Two digits, rounded up: just enough for the difference of two shares of independent images.
    p, images = 1 - np.mean([runs["solo", seed] for seed in range(5)]), int(images.replace(",", ""))
    half = 1.96 * np.sqrt(2 * p * (1 - p) / images)
    assert gains.mean() / 1.05 <= half <= gains.mean()


def test_a_command_warns_where_seeds_or_images_cannot_show_what_was_seen():
    def warned(**shape):
        content = Study(**{"main": ("solo", "mcod"), **shape}).content
        return report.warnings(content, statistics.summarize(content))

    seeds, images = warned(effects={"mcod": (0.6, 4.0)}, seeds=5, images=5000)
    assert re.fullmatch(r"5 seeds do not show .* need \d+ seeds for alexnet \(\S+ points\)", seeds)
    assert re.match(r"5,000 test images are few .* up to [\d,]+ test images for alexnet \(", images)
    assert warned(effects={"mcod": (4.0, 4.0)}, images=5000) == []
    (images,) = warned(effects={"mcod": (4.0, 4.0)})  # of 361 images, one is 0.28 points
    assert images.startswith("361 test images are few")
    seeds, images = warned(seeds=1, effects={"mcod": (4.0, 4.0)})
    assert seeds.startswith("one seed proves nothing")
    assert images.startswith(
        "361 test images are few for the observed difference of mcod from solo"
    )
    seeds, images = warned(main=("kd", "mcod"), effects={"mcod": (0.6, 0.6)}, seeds=5)
    assert "do not show the observed difference of mcod from kd" in seeds
    assert images.startswith("361 test images are few for the observed difference of mcod from kd")
    (images,) = warned(effects={"mcod": (4.0, 0.05)}, noise=0.0, images=100_000, seeds=3)
    assert "would take more than 1,000,000 test images for resnet20 (+0.05 points)" in images
    assert warned(noise=0.0, seeds=3) == []  # of no difference at all, nothing is told


def test_two_seeds_are_told_to_be_few_as_students_t_says():
    content = Study(main=("solo", "mcod"), seeds=2, images=100_000).content
    summary = statistics.summarize(content)
    told = report.warnings(content, summary)[0]
    assert told.startswith("two seeds give intervals about seven times as wide as five")
    (text,) = reach.bullets(content, summary, statistics.verdict(content, summary))
    assert f"before Holm's correction ({told})." in text
    two, five = (stats.t.ppf(0.975, n - 1) / np.sqrt(n) for n in (2, 5))
    assert round(two / five) == 7


@pytest.mark.parametrize("effect", [1.5, 1.9, 2.2])
def test_more_seeds_are_asked_for_than_those_that_did_not_show_it(effect):
    """Of many tests, Holm's correction may hide what one test alone would show."""
    main = ("solo", "kd", "dml", "ensemble", "kdcl", "one", "mcod")
    content = Study(main=main, effects={"mcod": (effect, 0.0)}, seeds=5, images=100_000).content
    for line in report.warnings(content, statistics.summarize(content)):
        assert all(int(n) > 5 for n in re.findall(r"(\d+) seeds for", line))


def test_few_test_images_are_told_of_and_many_are_not():
    (line,) = reach.few_images(361, [0.9, 0.5])
    # 1.96 sqrt(2 / 4 / 361) = 0.0729; 1.96^2 / 2 / 0.01^2 = 19,208
    assert line == (
        "warning: 361 test images: their choice alone may add up to 7.3 points to a difference;"
        " 20,000 images would add one point at most"
    )
    assert reach.few_images(10_000, [0.9, 0.5]) == []


def test_seeds_that_cancel_out_still_say_what_they_could_show():
    content = Study(main=("solo", "mcod"), seeds=2, noise=0.0, images=10_000).content
    for run in content["runs"]:
        if run["method"] == "mcod":
            run["peers"]["alexnet"]["top1"] += 0.01 - 0.02 * run["seed"]
    summary = statistics.summarize(content)
    (text,) = reach.bullets(content, summary, statistics.verdict(content, summary))
    assert re.search(r"of at least \d+\.\d points for alexnet is detected", text)
    assert "seeds for" not in text
