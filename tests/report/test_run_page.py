"""The report: its numbers against independent ones, its pictures and page on all kinds of runs."""

import base64
import dataclasses
import logging
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from scipy import stats

from tests.html_page import Page
from tests.invented_runs import Run
from xkd_keras import files
from xkd_keras.report import findings, headline, run_page


def test_table_shows_the_numbers_of_metrics_with_the_ensemble_last():
    lines = headline.table(Run().metrics).splitlines()
    assert [re.split(r"\s{2,}", line.strip()) for line in lines] == [
        ["peer", "top-1 %", "cross-entropy", "Brier", "ECE %", "parameters", "ms/image"],
        ["alexnet", "97.00", "0.1100", "0.060", "3.0", "2,472,266", "0.21"],
        ["resnet20", "97.20", "0.1000", "0.060", "3.0", "1,236,133", "0.21"],
        ["ensemble", "97.40", "0.0900", "0.060", "3.0", "824,088", "0.21"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_table_has_top5_only_where_it_was_measured_and_a_dash_for_what_was_not():
    metrics = Run(names=tuple(map(str, range(11)))).metrics
    del metrics["peers"]["alexnet"]["milliseconds_per_image"]
    header, alexnet, *_ = headline.table(metrics).splitlines()
    assert "top-5 %" in header
    assert "99.50" in alexnet
    assert alexnet.endswith("–")


@pytest.mark.usefixtures("unrendered")
def test_report_says_what_the_metrics_and_predictions_hold(tmp_path):
    run = Run(epochs=3, images=1000)
    assert run.write(tmp_path) == tmp_path / "report.html"
    text = (tmp_path / "report.md").read_text()
    low, high = stats.binomtest(972, 1000).proportion_ci(method="wilson")
    assert (
        "**resnet20** reaches **97.2 %** top-1 on digits with 1.24 M parameters;"
        " the ensemble of 2 networks reaches 97.4 %." in text
    )
    assert f"| resnet20 | 97.20 | {100 * low:.1f} – {100 * high:.1f} | 0.1000 |" in text
    assert "6 windows, 50 % of 60 steps, with a weight λ of up to 1." in text
    labels = run.predictions.labels
    given = {name: z.argmax(-1) for name, z in run.predictions.logits.items()}
    differ = given["alexnet"] != given["ensemble"]
    right = differ & (given["alexnet"] == labels)
    assert f"| alexnet | {differ.sum()} | {right.sum()} |" in text
    mistakes = np.sum(given["resnet20"] != labels)  # the best peer, which one would ship
    assert f"its {mistakes} mistakes" in text


@pytest.mark.usefixtures("unrendered")
def test_report_says_where_the_peers_were_always_taught_and_how_far_they_were_heard():
    run = Run(epochs=3)
    rows = [{**row, "alexnet_heard": 0.2, "resnet20_heard": 0.3} for row in run.history]
    answered = run.answered
    answered = dataclasses.replace(answered, distill_weights=np.full(60, 0.5, np.float32))
    text, _ = run_page.compose(run.metrics, rows, answered)
    assert (
        "were taught in all 60 steps, with a weight λ of 0.5. The better its teachers fit" in text
    )
    assert "better its teachers" not in run_page.compose(run.metrics, run.history, answered)[0]


@pytest.mark.usefixtures("unrendered")
def test_settings_leave_out_what_makes_no_difference_to_the_method():
    run = Run(epochs=3)

    def settings(method):
        config = {**run.metrics["config"], "distill_period": 4, "temperature": 3}
        metrics = {**run.metrics, "method": method, "config": config}
        text, _ = run_page.compose(metrics, run.history, run.answered)
        return text[text.index("## Settings") :]

    assert r"distill\_period | 4" in settings("mcod")
    assert "period" not in settings("xkd")
    assert "temperature" in settings("xkd")


@pytest.mark.usefixtures("unrendered")
def test_the_network_that_is_used_is_the_one_to_ship(tmp_path):
    run = Run(epochs=3)
    metrics = run.metrics
    metrics["peers"]["alexnet"]["top1"] = 0.99  # the larger of the two
    text, _ = run_page.compose(metrics, run.history, run.answered)
    assert "load_model('peers/alexnet.keras')" in text


def test_page_needs_no_other_file_and_embeds_the_pictures_of_the_directory(tmp_path):
    page = Page(Run(epochs=3).write(tmp_path).read_text())
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "a"}
    sources = [a["src"] for tag, a in page.tags if tag == "img"]
    pictures = sorted((tmp_path / "plots").iterdir())
    assert len(pictures) == 8
    embedded = {base64.b64decode(source.partition(";base64,")[2]) for source in sources}
    assert all(source.startswith("data:image/") for source in sources)
    assert embedded == {picture.read_bytes() for picture in pictures}


def test_names_appear_exactly_as_they_are_and_never_as_markup(tmp_path):
    names = (
        *("<script>alert(1)</script>", "a|b", "*bold*", "_under_", "$5_a$", "back\\slash\\*"),
        *(
            "[link](http://example.com)",
            r"$\frac$",
            "`code`",
            "&amp;",
            '<img src="plots/accuracy.svg">',
            "~~x~~",
        ),
    )
    run = Run(epochs=0, names=names, mistakes=0.9)
    text = run.write(tmp_path).read_text()
    page = Page(text)
    predictions = run.predictions
    counts = findings.confusion(
        predictions.labels, predictions.logits["resnet20"].argmax(-1), len(names)
    )
    pairs = findings.confused_pairs(counts)[:10]
    assert len({name for true, answer, _ in pairs for name in (true, answer)}) > 8
    for true, answer, _ in pairs:
        at = [i for i, cell in enumerate(page.cells) if cell == names[true]]
        assert any(page.cells[i + 1] == names[answer] for i in at), (names[true], names[answer])
    assert {"train/cat/broken|file.png", "empty <file>", "a|b<c>"} <= set(page.cells)
    assert "train/cat/a<b>.png = test/cat/c.png" in page.cells
    assert not {tag for tag, _ in page.tags} & {"script", "a", "em", "del"}
    assert text.count("<img") == text.count("](plots/") + len(list((tmp_path / "plots").iterdir()))


@pytest.mark.usefixtures("unrendered")
def test_a_report_warns_of_files_that_are_there_twice_and_tells_how_folders_were_read(tmp_path):
    text = Run(epochs=0).write(tmp_path).read_text()
    assert "Warning: 1 group of identical files, in two splits or under two labels." in text
    assert "so that folder was read." in text
    groups = [["left out", [f"train/cat/{i}.png"]] for i in range(60)]
    said = "\n".join(run_page._duplicates(groups))
    assert "Left out: 60 files with the same content" in said
    assert "train/cat/49.png" in said
    assert "train/cat/50.png" not in said
    assert "RUN/data.json lists all 60 groups." in said
    same = [["in train and test", [f"{i}.png" for i in range(3000)]]]
    assert "4.png and 2,995 more" in "\n".join(run_page._duplicates(same))


def test_of_many_unreadable_files_a_report_shows_the_first():
    pairs = [[f"cat/{i}.heic", "Unknown image file format"] for i in range(2000)]
    said = "\n".join(run_page._skipped(pairs))
    assert "Left out: 2,000 unreadable files." in said
    assert "cat/49.heic" in said
    assert "cat/50.heic" not in said
    assert "RUN/data.json lists all 2,000 files." in said


LONG = tuple(f"network_of_thirty_characters_{i}" for i in range(8))


@pytest.mark.parametrize(
    ("run", "missing"),
    [
        (Run(peers=("net",), epochs=1, teaching=False, mistakes=0), {"teaching", "disagreements"}),
        (Run(names=("cat", "dog"), epochs=1, validation=False), set()),
        (Run(names=tuple("ab"), epochs=2, mistakes=0), {"disagreements"}),
        (
            Run(
                peers=LONG, names=tuple(f"class_{i}" * 9 for i in range(99)), epochs=2, mistakes=0.5
            ),
            set(),
        ),
        (Run(names=tuple(f"n{i:08d}" for i in range(1000)), epochs=2, images=2000), set()),
        (Run(names=tuple(map(str, range(31))), epochs=0, mistakes=0), None),
    ],
    ids=["solo", "two classes", "no mistakes", "long names", "1000 classes", "nothing to draw"],
)
def test_runs_of_every_shape_are_written_without_a_warning(run, missing, tmp_path, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.write(tmp_path)
    drawn = {file.stem for file in (tmp_path / "plots").glob("*")}
    every = {"accuracy", "cross_entropy", "teaching", "confusion", "disagreements"}
    if len(run.peers) > 1:
        every.add("confusion_ensemble")
    assert drawn - {"learning_rate", "reliability"} == (
        set() if missing is None else every - missing
    )
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.usefixtures("unrendered")
def test_a_report_that_fails_leaves_the_old_one_whole(tmp_path, monkeypatch):
    Run(epochs=0).write(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.*")}

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        Run(epochs=0, images=99).write(tmp_path)
    assert {file: file.read_bytes() for file in before} == before


def test_the_report_does_not_need_tensorflow():
    heavy = "{'tensorflow', 'keras', 'matplotlib.pyplot'}"
    code = f"import sys, xkd_keras.report.run_page; sys.exit(bool({heavy} & {{*sys.modules}}))"
    subprocess.run([sys.executable, "-c", code], check=True)
