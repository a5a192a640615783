"""The report says how each network learned, and from where."""

import pytest

from tests.invented_runs import LEARNING, Run
from xkd_keras.report import learning


@pytest.fixture
def metrics():
    made = Run().metrics
    begun = {"start": "runs/a/peers/b.keras", "freeze": 2, "start_rate": 0.1}
    made["training"]["learning"] = {
        "alexnet": {**LEARNING, "learning_rate": 0.01, "learning_rate_epochs": "3:5"},
        "resnet20": {**LEARNING, "optimizer": "adamw", **begun},
    }
    return made


def test_every_network_has_a_column_of_what_it_learned_with(metrics):
    text = "\n".join(learning.section(metrics))
    assert "|  | alexnet | resnet20 |" in text
    assert "| optimizer | sgd | adamw |" in text
    assert "| learning rate | 0.01 | 0.05 |" in text
    assert "| learning rate epochs | 3:5 | 1/2 and 3/4 |" in text
    assert "| nesterov | no | – |" in text


def test_where_a_network_started_is_told(metrics):
    *_, last = learning.section(metrics)
    assert last == (
        "resnet20 started from `runs/a/peers/b.keras`; only its last layer learned in the first"
        " 2 epochs; all layers before the last learned at 0.1 times the learning rate."
    )


def test_a_run_of_an_earlier_version_has_no_such_table(metrics):
    del metrics["training"]["learning"]
    assert learning.section(metrics) == []


@pytest.mark.parametrize(
    ("tops", "told"),
    [
        ([0.50, 0.70, 0.60], "alexnet after epoch 2 (70.0 %, against 60.0 % at the end)"),
        ([0.50, 0.63, 0.60], ""),  # 2 sqrt(2 0.6 0.4 / 1000) = 0.044
        ([0.50, 0.60, 0.70], ""),
    ],
)
def test_a_network_that_was_clearly_better_before_the_end_is_told(metrics, tops, told):
    metrics["data"]["examples"]["validation"] = 1000
    rows = [{"val_alexnet_top1": top, "val_alexnet_cross_entropy": 1.0} for top in tops]
    text = "\n".join(learning.section(metrics, rows))
    assert ("--keep=best keeps the best epoch" in text) == bool(told)
    assert told in text
    metrics["training"]["kept"] = {"alexnet": 2}
    assert "some networks were better" not in "\n".join(learning.section(metrics, rows))
