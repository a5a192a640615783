"""What a run prints of each epoch."""

import io
from types import SimpleNamespace

import pytest

from xkd_keras.runs import progress


@pytest.mark.parametrize(
    ("weight", "heard", "told"),
    [(0.8, {"big": 0.25, "small": 0.5}, "0.30"), (0.8, {"big": 1, "small": 1}, "0.80")],
)
def test_teaching_is_told_as_it_reaches_the_peers_on_average(weight, heard, told):
    stream = io.StringIO()
    shown = progress.Progress(["big", "small"], epochs=3, steps=5, stream=stream)
    shown.set_model(SimpleNamespace(heard=lambda: heard))
    shown.on_epoch_begin(1)
    tops = {f"{name}_top1": 0.5 for name in ("big", "small", "ensemble")}
    shown.on_epoch_end(1, {**tops, "val_small_top1": 0.25, "distill_weight": weight})
    line = stream.getvalue()
    assert line.startswith(
        f"epoch   2/3  teaching {told}  big  50.0%  small  25.0%  ensemble  50.0%"
    )
