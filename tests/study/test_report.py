"""The report of a study: what it claims, on studies with a known effect and of every shape."""

import base64
import json
import logging
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from scipy import stats

from tests.html_page import Page
from tests.invented_studies import MAIN, VARIANTS, Study
from xkd_keras.report import plots
from xkd_keras.study import statistics
from xkd_keras.study.report import document, figures


def bold(text):
    """Return the answer: the paragraph after the title."""
    return text.split("\n\n")[1]


@pytest.mark.parametrize(
    ("effect", "expected"),
    [
        (2.0, "is better than"),
        (0.0, "shows no detectable difference from"),
        (-2.0, "is worse than"),
    ],
)
def test_the_first_sentence_says_what_was_built_in(effect, expected, tmp_path, unpictured):
    study = Study(main=("solo", "mcod"), effects={"mcod": (effect, effect)}, images=5000)
    text = study.write(tmp_path)
    answer = bold(text)
    assert answer.startswith(f"**On digits, mcod {expected} training alone for alexnet (")
    assert answer.count("points, 95 % interval") == 1
    assert ("not shown to be better than training alone for any" in text) == (effect == 0)
    assert len(re.findall("better than|no detectable|worse than", answer)) == 1


def test_training_alone_is_not_missed_where_it_is_all_that_ran(tmp_path, unpictured):
    text = Study(main=("solo",), images=5000).write(tmp_path)
    assert "no method is compared with solo" in bold(text)
    assert "was not measured" not in text


def test_a_study_of_xkd_is_about_it_and_mcod_is_a_rival(tmp_path, unpictured):
    effects = {"xkd": (2.0, 2.0), "mcod": (0.0, 0.0)}
    study = Study(main=("solo", "mcod", "xkd"), effects=effects, images=5000)
    text = study.write(tmp_path)
    assert bold(text).startswith("**On digits, xkd is better than training alone for alexnet (")
    assert "**Against the other methods:** xkd is better than mcod (every network)" in text


def test_what_did_not_work_stands_at_the_top(tmp_path, unpictured):
    effects = {"mcod": (3.0, -2.0), "kd": (6.0, 0.0), "dml": (0.0, -6.0)}
    broken = {("dml", 3): "ValueError: a|b", ("mcod", 7): None, ("mcod", 8): None}
    text = Study(effects=effects, broken=broken, images=5000).write(tmp_path)
    opening = text.partition("## Result")[0]
    assert "so far (97 of 100 runs), mcod is better than training alone for alexnet" in opening
    failures = next(line for line in opening.splitlines() if "What did not work" in line)
    assert "mcod is worse than training alone for resnet20 (−" in failures
    assert "mcod is worse than kd for alexnet (−" in failures
    assert "1 of 100 runs failed; 2 of 100 runs are not there yet" in failures
    assert "mcod is better than dml (every network)" in opening
    assert re.search(r"alone is alexnet, with 8\d\.\d\d %; with mcod it is better", opening)
    assert "| dml | 3 | ValueError: a&#124;b |" in text


def test_networks_that_learned_nothing_are_told(tmp_path, unpictured):
    content = Study(base=(10.0, 89.0), noise=0.1).content
    document.write(tmp_path, content)
    text = (tmp_path / "report.md").read_text()
    assert "alexnet is not clearly better than guessing with any method; train longer" in text
    assert "resnet20 is not clearly" not in text


def test_a_method_in_which_nobody_was_taught_is_told(tmp_path, unpictured):
    content = Study().content
    for run in content["runs"]:
        run["lambda_max"] = 0.0 if run["method"] in ("solo", "mcod") else 1.0
    document.write(tmp_path, content)
    text = (tmp_path / "report.md").read_text()
    assert "no network was taught in mcod, because its weight lambda was 0 throughout" in text
    assert "no network was taught in solo" not in text
    assert "no network was taught in kd" not in text


def test_tables_hold_the_numbers_of_scipy_and_of_the_paper(tmp_path, unpictured):
    study = Study(effects={"mcod": (2.0, 0.0)}, variants=tuple(VARIANTS))
    text, content = study.write(tmp_path), study.content
    top1 = {
        method: [r["peers"]["alexnet"]["top1"] for r in content["runs"] if r["method"] == method]
        for method in content["methods"]
    }
    test = stats.ttest_1samp(np.subtract(top1["mcod"], top1["solo"]), 0)
    low, high = 100 * np.array(test.confidence_interval(0.95))
    mean = 100 * (np.mean(top1["mcod"]) - np.mean(top1["solo"]))
    row = next(line for line in text.splitlines() if line.startswith("| mcod | **"))
    assert row.startswith(f"| mcod | **{100 * np.mean(top1['mcod']):.2f}** ±")
    assert f"| +{mean:.2f} (+{low:.2f} … +{high:.2f}) | &#60; 0.001 |" in row
    assert row.endswith("| 10.6 |")
    assert f"| solo | {100 * np.mean(top1['solo']):.2f} ± " in text
    mean = 100 * (np.mean(top1["growth_only"]) - np.mean(top1["mcod"]))
    assert f"| growth\\_only | alexnet | {figures.signed(mean)} (" in text


@pytest.mark.parametrize(("seeds", "shown"), [(4, False), (5, True)])
def test_an_interval_that_is_resampled_from_a_few_pairs_is_left_out(
    seeds, shown, tmp_path, unpictured
):
    text = Study(main=("solo", "mcod"), effects={"mcod": (2.0, 0.0)}, seeds=seeds).write(tmp_path)
    row = next(line for line in text.splitlines() if line.startswith("| mcod | **"))
    assert ("…" in row.split("|")[-3]) == shown  # before the column of the paper
    assert ("that interval is too narrow" in text) == shown
    assert "points: +5.94 for alexnet and +5.07 for resnet. “Paper %” is AlexNet's share" in text


def test_the_calibration_of_a_method_stands_beside_that_of_training_alone(tmp_path, unpictured):
    study = Study(main=("solo", "kd", "mcod"), effects={"mcod": (2.0, 0.0)}, seeds=6)
    section = study.write(tmp_path).partition("## Calibration")[2].partition("\n## ")[0]
    values = {
        key: np.array(
            [
                [r["peers"]["alexnet"][key] for r in study.content["runs"] if r["method"] == method]
                for method in ("mcod", "solo")
            ]
        )
        for key in ("ece", "cross_entropy", "brier")
    }
    cells = []
    for key, (factor, digits) in {
        "ece": (100, 2),
        "cross_entropy": (1, 3),
        "brier": (1, 3),
    }.items():
        mcod, solo = factor * values[key]
        low, high = stats.ttest_rel(mcod, solo).confidence_interval(0.95)
        mean, low, high = (figures.signed(x, digits) for x in ((mcod - solo).mean(), low, high))
        cells.append(f"{mean} ({low} … {high})")
    assert f"\n| alexnet | {' | '.join(cells)} |\n" in section
    assert "| mcod vs. solo | ECE % | cross-entropy, nats | Brier score |" in section
    _, brier = section.split("| Brier score | alexnet | resnet20 | ensemble |")
    assert f"| solo | {values['brier'][1].mean():.3f} ± " in brier
    text = Study(main=("kd", "mcod")).write(tmp_path / "without")
    assert "vs. solo | ECE" not in text


def test_the_page_needs_no_other_file_and_embeds_every_picture(tmp_path):
    Study(variants=tuple(VARIANTS)).write(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "a"}
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    embedded = {base64.b64decode(source.partition(";base64,")[2]) for source in sources}
    drawn = {file.name: file.read_bytes() for file in (tmp_path / "plots").iterdir()}
    assert set(drawn) == {"forest.svg", "ablations.svg", "cost.svg", "diversity.svg"}
    assert embedded == set(drawn.values())


def test_names_appear_exactly_as_they_are_and_never_as_markup(tmp_path):
    odd = ("solo", "mcod", "_under_ *star*", "a|b", "<script>x</script>", "[l](http://e.org)")
    study = Study(main=odd, peers={"<b>p</b>": "alexnet", "$x$ | `y`": "vgg11"}, seeds=3)
    text = study.write(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    assert set(odd) | {"<b>p</b>", "$x$ | `y`"} <= set(page.cells)
    assert not {tag for tag, _ in page.tags} & {"script", "a", "em", "b"}
    assert "<b>" not in text


def test_the_search_is_told_as_it_was(tmp_path, unpictured):
    text = Study(sweep=True).write(tmp_path)
    assert "with 3 seeds not used in the study; every searched method tried the same" in text
    assert "number of settings, 2." in text
    assert "The test images were never used to choose options." in text
    assert "| kd | --temperature=3.0 | **14.00** | 85.30 | 1.00 | 0.500 | 3 |" in text
    content = Study(sweep=True).content
    content["sweep"]["seeds"], content["sweep"]["split"] = [0, 1, 100], "test"
    content["sweep"]["methods"] |= {"kd": content["sweep"]["methods"]["kd"][1:]}
    document.write(tmp_path, content)
    text = (tmp_path / "report.md").read_text()
    assert (
        "ALSO used in the study: 0 and 1; methods tried different numbers of settings: kd 1" in text
    )
    assert "never used" not in text
    assert "There was no search" in Study().write(tmp_path)


LONG = {f"network_of_thirty_characters_{i}": f"vgg{i}:build" for i in range(2)}
ODD = {
    "one seed": (Study(seeds=1), "one seed proves nothing"),
    "one peer": (Study(peers={"net": "vgg11"}), "training alone for net ("),
    "no solo": (Study(main=("kd", "mcod"), variants=("growth_only",)), "from kd for alexnet"),
    "no mcod": (Study(main=("solo", "kd"), history=False), "kd shows no detectable difference"),
    "only solo": (Study(main=("solo",), history=False), "no method is compared with solo"),
    "only mcod": (Study(main=("mcod",), history=False), "no method is compared with mcod"),
    "many": (Study(LONG, main=(*MAIN, *(f"m{i}" * 9 for i in range(4))), seeds=2), "On digits"),
    "none": (Study(broken={(m, s): None for m in MAIN for s in range(20)}), "None of 100 runs"),
    "all right": (Study(base=(110.0, 110.0), history=False), "shows no detectable difference"),
    "not run": (Study(broken={("mcod", s): "x" for s in range(20)}, history=False), "yet with"),
}


@pytest.mark.parametrize(("study", "expected"), ODD.values(), ids=ODD)
def test_studies_of_every_shape_are_written_without_a_warning(study, expected, tmp_path, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text, _ = study.write(tmp_path), document.table(study.content)
    assert expected in bold(text)
    assert not re.search(r"\bnan\b|\bNone\b(?! of)|\binf\b", text)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("variants", [(), ("growth_only",)])
def test_no_method_is_compared_with_itself(variants, tmp_path, unpictured):
    text = Study(main=("solo",), variants=variants, seeds=3, history=False).write(tmp_path)
    assert "Differences of solo from solo" not in text
    assert "Which part of growth_only" not in text


def test_where_there_are_variants_alone_the_last_is_compared_with_solo_too(tmp_path, unpictured):
    text = Study(main=("solo",), variants=("growth_only", "ramp"), seeds=3).write(tmp_path)
    part = text[text.index("Which parts of ramp help") :]
    table = part[: part.index("Top-1 %:")].split("vs. solo")[-1]
    named = re.findall(r"^\| ([\w\\]+) \| alexnet", table, re.MULTILINE)
    assert [name.replace("\\", "") for name in named] == ["ramp", "growth_only"]


def test_a_teacher_from_elsewhere_and_parts_of_a_study_are_told(tmp_path, unpictured):
    study = Study(main=("solo", "kd"), seeds=3)
    assert "other images" not in study.write(tmp_path / "a")
    content = study.content
    content["config"]["teacher_run"], content["shards"] = "runs/teacher", 4
    document.write(tmp_path / "b", content)
    text = (tmp_path / "b" / "report.md").read_text()
    assert "The teacher of kd is `runs/teacher`; it may have been trained on other images." in text
    assert "one run at a time in each of 4 parts (--shard)" in text


def test_a_study_reads_the_same_from_its_file(tmp_path, unpictured):
    study = Study(main=("solo", "mcod"), variants=("growth_only",), seeds=3)
    document.write(tmp_path / "a", json.loads(json.dumps(study.content)))
    study.write(tmp_path / "b")
    for name in ("report.html", "report.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_forest_plot_shows_the_intervals_and_cuts_nothing_off():
    content = Study(LONG, main=(*MAIN, "a_method_with_a_very_long_name"), seeds=5).content
    summary = statistics.summarize(content)
    with plots.style():
        drawn = figures.forest(content, summary, content["main"], "solo")
        for figure in (drawn, figures.cost(content, summary), figures.diversity(content)):
            plots.render(figure, "svg")
            canvas = figure.bbox.padded(1)
            for axes in figure.axes:
                box = axes.get_tightbbox()
                assert canvas.x0 <= box.x0 <= box.x1 <= canvas.x1
                assert canvas.y0 <= box.y0 <= box.y1 <= canvas.y1
    first = next(iter(LONG))
    expected = [summary["networks"][first][m]["against"]["solo"] for m in content["main"][1:]]
    lines = [line.get_xdata() for line in drawn.axes[0].lines[1:]]  # the first is that of zero
    np.testing.assert_allclose(lines[0::2], [[100 * f["low"], 100 * f["high"]] for f in expected])
    np.testing.assert_allclose(np.ravel(lines[1::2]), [100 * f["mean"] for f in expected])


def test_the_table_is_aligned_and_says_what_the_report_says(tmp_path, unpictured):
    study = Study(main=("solo", "mcod"), effects={"mcod": (3.0, 0.0)}, seeds=6)
    lines = document.table(study.content).splitlines()
    assert len({len(line) for line in lines}) == 1
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines]
    assert [row[:3] for row in rows[1:3]] == [["alexnet", "solo", "6"], ["alexnet", "mcod", "6"]]
    runs = [run for run in study.content["runs"] if run["method"] == "mcod"]
    error = np.mean([run["peers"]["alexnet"]["ece"] for run in runs])
    assert rows[0][3:] == ["top-1 %", "ECE %", "vs. solo (95 %)", "Holm p"]
    assert rows[2][4] == f"{100 * error:.1f}"
    assert f"| {rows[2][5]} |" in study.write(tmp_path)
    assert "solo" not in document.table(Study(main=("kd", "mcod")).content)


def test_the_report_does_not_need_tensorflow():
    heavy = "{'tensorflow', 'keras', 'matplotlib.pyplot'}"
    code = f"import sys, xkd_keras.study.report; sys.exit(bool({heavy} & {{*sys.modules}}))"
    subprocess.run([sys.executable, "-c", code], check=True)
