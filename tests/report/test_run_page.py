"""The report: its numbers against independent ones, its pictures and page on all kinds of runs."""

import base64
import dataclasses
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
from xkd_keras import files
from xkd_keras.report import curves, findings, plots, run_page
from xkd_keras.runs import answers, history


@dataclasses.dataclass
class Predictions:
    labels: np.ndarray
    logits: dict[str, np.ndarray]
    shape: tuple[int, ...] = (32, 32, 3)

    def fetch(self, indices):
        rows = np.linspace(0, 255, self.shape[0], dtype=np.uint8)[None, :, None, None]
        shades = (np.asarray(indices) % 7 + 1)[:, None, None, None] / 7
        return (rows * shades * np.ones((1, 1, *self.shape[1:]))).astype(np.uint8)


@dataclasses.dataclass
class Run:
    """A run that never was, with curves that look like one."""

    peers: tuple[str, ...] = ("alexnet", "resnet20")
    names: tuple[str, ...] = tuple("0123456789")
    images: int = 360
    epochs: int = 30
    validation: bool = True
    teaching: bool = True
    mistakes: float = 0.05
    steps: int = 20  # an epoch

    @property
    def metrics(self):
        def network(i):
            values = {"top1": 0.97 + 0.002 * i, "cross_entropy": 0.11 - 0.01 * i}
            if len(self.names) > 10:
                values["top5"] = 0.995
            return {**values, "parameters": 2472266 // (i + 1), "milliseconds_per_image": 0.21}

        peers = {p: {**network(i), "file": f"peers/{p}.keras"} for i, p in enumerate(self.peers)}
        return {
            "dataset": "digits",
            "method": "mcod",
            "seed": 7,
            "created": "2025-11-23T04:00:00",
            "command": "python -m xkd_keras.train --flagfile=configs/quickstart.flags",
            "config": {
                "dataset": "digits",
                "peer": list(self.peers),
                "name": "a|b<c>",
                "none": None,
            },
            "versions": {"python": "3.11.4", "tensorflow": "2.21.0"},
            "data": {
                "fingerprint": "9f86d081884c7d65",
                "class_names": list(self.names),
                "image_shape": [32, 32, 3],
                "examples": {"train": 1257, "validation": 180, "test": self.images},
                "skipped": [["train/cat/broken|file.png", "empty <file>"]],
            },
            "training": {
                "epochs": self.epochs,
                "steps": self.epochs * self.steps,
                "batch_size": 64,
                "seconds": 95.4,
                "steps_per_second": 12.6,
                "replicas": 1,
            },
            "peers": peers,
            "ensemble": network(len(self.peers)),
            "agreement": 0.953,
        }

    @property
    def weights(self):
        if not self.teaching:
            return np.zeros(self.epochs * self.steps, np.float32)
        step = np.arange(self.epochs * self.steps)
        period = max(2, len(step) // 6)
        return np.where(step % period >= period // 2, (step // period + 1) / 6, 0).astype(
            np.float32
        )

    @property
    def history(self):
        rng = np.random.default_rng(0)
        rows = []
        for epoch in range(1, self.epochs + 1):
            row = {"epoch": epoch, "step": epoch * self.steps, "seconds": 3.0, "loss": 1 / epoch}
            for i, name in enumerate([*self.peers, "ensemble"]):
                error = 0.8 * np.exp(-epoch / (3 + i)) + 0.04 - 0.003 * i
                for prefix, more in (("", 0.8), ("val_", 1.0)):
                    wobble = rng.normal(0, 0.003)
                    row[f"{prefix}{name}_top1"] = 1 - more * error + wobble
                    row[f"{prefix}{name}_cross_entropy"] = 3 * more * error + abs(wobble)
                row[f"{name}_distillation"] = error * self.teaching
                row[f"{name}_learning_rate"] = 0.05 * (1 + np.cos(np.pi * epoch / 40))
            row |= {"agreement": 0.95 - 0.5 / epoch, "val_agreement": 0.94 - 0.4 / epoch}
            rows.append(
                {k: v for k, v in row.items() if self.validation or not k.startswith("val_")}
            )
        return rows

    @property
    def predictions(self):
        rng = np.random.default_rng(1)
        labels = rng.integers(0, len(self.names), self.images)
        logits = {}
        for name in self.peers:
            chosen = np.where(
                rng.random(self.images) < self.mistakes, (labels * 3 + 1) % len(self.names), labels
            )
            sure = rng.uniform(2, 5, (self.images, 1))
            logits[name] = (sure * np.eye(len(self.names))[chosen]).astype(np.float32)
        logits["ensemble"] = np.mean(list(logits.values()), axis=0)
        return Predictions(labels, logits)

    def write(self, run_dir):
        """Write what a run leaves behind, and the report of it; return the page's path."""
        files.write(run_dir / "metrics.json", json.dumps(self.metrics))
        if self.epochs:
            history.write(run_dir, self.history)
        else:
            files.write(history.path(run_dir), "")
        answers.write(run_dir, answers.of(self.predictions, self.weights))
        return run_page.write(run_dir)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (3, 10), (10, 10), (355, 360), (49_000, 50_000)])
def test_wilson_is_that_of_scipy(right, n):
    expected = stats.binomtest(right, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(findings.wilson(right / n, n), expected, atol=1e-12)


def test_wilson_of_nothing_says_nothing():
    assert findings.wilson(0.0, 0) == (0.0, 1.0)


def test_table_shows_the_numbers_of_metrics_with_the_ensemble_last():
    lines = run_page.table(Run().metrics).splitlines()
    assert [re.split(r"\s{2,}", line.strip()) for line in lines] == [
        ["peer", "top-1 %", "cross-entropy", "parameters", "ms/image"],
        ["alexnet", "97.00", "0.1100", "2,472,266", "0.21"],
        ["resnet20", "97.20", "0.1000", "1,236,133", "0.21"],
        ["ensemble", "97.40", "0.0900", "824,088", "0.21"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_table_has_top5_only_where_it_was_measured_and_a_dash_for_what_was_not():
    metrics = Run(names=tuple(map(str, range(11)))).metrics
    del metrics["peers"]["alexnet"]["milliseconds_per_image"]
    header, alexnet, *_ = run_page.table(metrics).splitlines()
    assert "top-5 %" in header
    assert "99.50" in alexnet
    assert alexnet.endswith("–")


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([], []),
        ([0, 0, 0], []),
        ([1], [(0, 1, 1)]),
        ([0.5, 0.5, 0, 0], [(0, 2, 0.5)]),  # a window that opens with the first step
        ([0, 0, 0.5], [(2, 3, 0.5)]),  # and one that closes with the last
        ([0, 0.25, 0.25, 0, 0.5], [(1, 3, 0.25), (4, 5, 0.5)]),
        ([0.25, 0.5, 0.5], [(0, 1, 0.25), (1, 3, 0.5)]),  # no pause between two strengths
    ],
)
def test_spans(weights, expected):
    assert plots.spans(np.array(weights)) == expected


def test_confusion_and_pairs_of_an_example_made_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    given = np.array([0, 1, 1, 1, 2, 0, 2, 0])
    counts = findings.confusion(labels, given, 3)
    np.testing.assert_array_equal(counts, [[1, 2, 0], [0, 1, 1], [2, 0, 1]])
    assert findings.confused_pairs(counts) == [(0, 1, 2), (2, 0, 2), (1, 2, 1)]


def test_disagreements_put_most_dissenters_first_then_the_errors_of_the_ensemble():
    labels = np.array([0, 0, 0, 0, 0])
    given = {
        "ensemble": np.array([0, 0, 1, 0, 0]),
        "a": np.array([0, 1, 0, 2, 1]),
        "b": np.array([0, 0, 1, 1, 0]),
    }
    # 3: two dissenters; 2: the ensemble is wrong; 1 and 4: in their order; 0: all agree.
    assert answers.disagreements(labels, given).tolist() == [3, 2, 1, 4]


def test_lambda_windows_are_shaded_where_they_were_and_darker_when_stronger():
    run = Run(epochs=4, steps=10)
    weights = np.zeros(40)
    weights[5:10], weights[30:40] = 0.5, 1.0
    with plots.style():
        figure = curves.charts(run.history, run.peers, weights)["accuracy"]
    shades = [patch for patch in figure.axes[0].patches if patch.get_width() > 0]
    edges = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in shades]
    np.testing.assert_allclose(edges, [(0.5, 1.0), (3.0, 4.0)])
    assert shades[0].get_alpha() < shades[1].get_alpha()


def test_a_ramp_is_shaded_in_a_few_levels():
    run = Run(epochs=2, steps=500)
    with plots.style():
        figure = curves.charts(run.history, run.peers, np.linspace(0, 1, 1000))["accuracy"]
    assert len(figure.axes[0].patches) <= 8


def test_curves_carry_the_values_of_the_history_and_no_two_peers_look_alike():
    run = Run(peers=tuple(f"p{i}" for i in range(8)), epochs=5)
    with plots.style():
        charts = curves.charts(run.history, run.peers, run.weights)
    solid = [line for line in charts["accuracy"].axes[0].lines if line.get_linestyle() == "-"]
    expected = [[100 * row[f"val_p{i}_top1"] for row in run.history] for i in range(8)]
    np.testing.assert_allclose([line.get_ydata() for line in solid[:8]], expected)
    assert len({line.get_color() for line in solid}) == 9
    assert len({line.get_marker() for line in solid}) == 9


def test_nothing_is_cut_off_at_the_edge_of_a_chart():
    run = Run()
    with plots.style():
        for name, figure in curves.charts(run.history, run.peers, run.weights).items():
            plots.render(figure, "svg")
            canvas = figure.bbox.padded(1)
            for axes in figure.axes:
                box = axes.get_tightbbox()
                assert canvas.x0 <= box.x0 <= box.x1 <= canvas.x1, name
                assert canvas.y0 <= box.y0 <= box.y1 <= canvas.y1, name


def test_a_constant_learning_rate_is_not_drawn():
    run = Run(epochs=3)
    constant = [
        {**row, "alexnet_learning_rate": 0.1, "resnet20_learning_rate": 0.1} for row in run.history
    ]
    with plots.style():
        assert "learning_rate" not in curves.charts(constant, run.peers, run.weights)
        assert "learning_rate" in curves.charts(run.history, run.peers, run.weights)


def test_label_keeps_both_ends_and_falls_back_where_the_font_has_no_letters():
    assert plots.label("network_number_7", 9, "x") == "netw…er_7"
    assert plots.label("two\nlines", 9, "x") == "two lines"
    assert plots.label("\U0002070e", 9, "class 3") == "class 3"


def test_report_says_what_the_metrics_and_predictions_hold(tmp_path):
    run = Run(epochs=3, images=1000)
    assert run.write(tmp_path) == tmp_path / "report.html"
    text = (tmp_path / "report.md").read_text()
    low, high = stats.binomtest(972, 1000).proportion_ci(method="wilson")
    assert (
        "**resnet20** reaches **97.2 %** top-1 on digits with 1.24 M parameters;"
        " the ensemble of 2 peers 97.4 %." in text
    )
    assert f"| resnet20 | 97.20 | {100 * low:.1f} – {100 * high:.1f} | 0.1000 |" in text
    assert "6 windows, 50 % of 60 steps, with a weight λ of up to 1." in text
    labels = run.predictions.labels
    given = {name: z.argmax(-1) for name, z in run.predictions.logits.items()}
    differ = given["alexnet"] != given["ensemble"]
    right = differ & (given["alexnet"] == labels)
    assert f"| alexnet | {differ.sum()} | {right.sum()} |" in text
    mistakes = np.sum(given["ensemble"] != labels)
    assert f"its {mistakes} mistakes" in text


def test_page_needs_no_other_file_and_embeds_the_pictures_of_the_directory(tmp_path):
    page = Page(Run(epochs=3).write(tmp_path).read_text())
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "a"}
    sources = [a["src"] for tag, a in page.tags if tag == "img"]
    pictures = sorted((tmp_path / "plots").iterdir())
    assert len(pictures) == 6
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
        predictions.labels, predictions.logits["ensemble"].argmax(-1), len(names)
    )
    pairs = findings.confused_pairs(counts)[:10]
    assert len({name for true, answer, _ in pairs for name in (true, answer)}) > 8
    for true, answer, _ in pairs:
        at = [i for i, cell in enumerate(page.cells) if cell == names[true]]
        assert any(page.cells[i + 1] == names[answer] for i in at), (names[true], names[answer])
    assert {"train/cat/broken|file.png", "empty <file>", "a|b<c>"} <= set(page.cells)
    assert not {tag for tag, _ in page.tags} & {"script", "a", "em", "del"}
    assert text.count("<img") == text.count("](plots/") + len(list((tmp_path / "plots").iterdir()))


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
    assert drawn - {"learning_rate"} == (set() if missing is None else every - missing)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not list(tmp_path.rglob("*.part"))


def test_of_many_classes_the_most_confused_are_shown(tmp_path):
    counts = np.zeros((40, 40), int)
    counts[7, 3], counts[3, 5], counts[1, 0] = 9, 4, 1
    assert findings.classes_shown(counts) == [7, 3, 5, 1, 0]
    assert findings.classes_shown(counts[:30, :30]) == list(range(30))
    counts[:, 20] += 1
    assert len(findings.classes_shown(counts)) == 20


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
    code = f"import sys, xkd_keras.report; sys.exit(bool({heavy} & {{*sys.modules}}))"
    subprocess.run([sys.executable, "-c", code], check=True)
