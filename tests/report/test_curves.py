"""The curves of a run: what they show is what the history holds, and nothing is cut off."""

import numpy as np
import pytest

from tests.invented_runs import Run
from xkd_keras.report import curves, plots


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


def test_a_teacher_that_never_pauses_is_no_reason_to_shade():
    run = Run(epochs=4, steps=10)
    with plots.style():
        charts = curves.charts(run.history, run.peers, np.full(40, 0.5))
    assert not charts["accuracy"].axes[0].patches
    assert not any("λ" in axes.get_ylabel() for axes in charts["teaching"].axes)


def test_how_far_each_network_is_heard_is_drawn_in_percent():
    run = Run(epochs=5)
    heard = [[0.1 * row["epoch"], 0.15 * row["epoch"]] for row in run.history]
    rows = [
        {**row, "alexnet_heard": a, "resnet20_heard": b}
        for row, (a, b) in zip(run.history, heard, strict=True)
    ]
    with plots.style():
        figure = curves.charts(rows, run.peers, np.ones(100))["teaching"]
    (axes,) = [axes for axes in figure.axes if axes.get_ylabel().startswith("teacher heard")]
    drawn = np.stack([line.get_ydata() for line in axes.lines], axis=1)
    np.testing.assert_allclose(drawn, 100 * np.array(heard))


def test_curves_carry_the_values_of_the_history_and_no_two_peers_look_alike():
    run = Run(peers=tuple(f"p{i}" for i in range(8)), epochs=5)
    with plots.style():
        charts = curves.charts(run.history, run.peers, run.weights)
    solid = [line for line in charts["accuracy"].axes[0].lines if line.get_linestyle() == "-"]
    expected = [[100 * row[f"val_p{i}_top1"] for row in run.history] for i in range(8)]
    np.testing.assert_allclose([line.get_ydata() for line in solid[:8]], expected)
    assert len({line.get_color() for line in solid}) == 9
    assert len({line.get_marker() for line in solid}) == 9


@pytest.mark.parametrize(("epochs", "whole"), [(12, True), (40, False)])
def test_a_short_run_is_drawn_whole_and_a_long_one_from_where_it_has_learned(epochs, whole):
    run = Run(epochs=epochs)
    rows = [
        {**row, "val_alexnet_top1": 0.05 if i == 0 else 0.9} for i, row in enumerate(run.history)
    ]
    with plots.style():
        (axes,) = curves.charts(rows, run.peers, run.weights)["accuracy"].axes
    assert (axes.get_ylim()[0] < 5) == whole


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
