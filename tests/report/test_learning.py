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
        "resnet20 started from `runs/a/peers/b.keras`; in its first 2 epochs only its last layer"
        " learned; the layers before the last learned at 0.1 of its rate."
    )


def test_a_run_of_an_earlier_version_has_no_such_table(metrics):
    del metrics["training"]["learning"]
    assert learning.section(metrics) == []
