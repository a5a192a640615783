"""Latency: rounds over all files, in changing order."""

import json
import time
import types

import numpy as np
import pytest

from xkd_keras.ship import latency


def test_latency_is_measured_in_rounds_over_all_files_in_changing_order():
    order = []
    calls = [lambda name=name: order.append(name) for name in "abc"]
    times = latency.interleaved(calls, rounds=12, seconds=60)
    assert times.shape == (12, 3)
    assert (times >= 0).all()
    assert "".join(order[:9]) == "aaabbbccc"
    rounds = ["".join(order[i : i + 3]) for i in range(9, 45, 3)]
    assert {"".join(sorted(each)) for each in rounds} == {"abc"}
    assert len(set(rounds)) > 3


def test_latency_belongs_to_the_file_that_took_it():
    calls = [lambda seconds=seconds: time.sleep(seconds) for seconds in (0.004, 0.0, 0.002)]
    times = latency.interleaved(calls, rounds=10, seconds=60)
    assert list(np.argsort(np.median(times, axis=0))) == [1, 2, 0]
    assert len(latency.interleaved(calls, rounds=10**6, seconds=0)) == 10


def test_a_file_that_cannot_be_opened_or_run_costs_no_other_its_latency(tmp_path, monkeypatch):
    for name in ("good", "other", "failing"):
        (tmp_path / f"{name}.tflite").write_bytes(b"")
    opened = latency._call

    def fail():
        raise RuntimeError("Node number 3 failed to invoke.\nand more")

    def call(path, image):
        given = {"failing": fail, "torn": None}.get(path.stem, lambda: time.sleep(0.001))
        return given or opened(path, image)

    monkeypatch.setattr(latency, "_call", call)
    monkeypatch.setattr(latency, "ROUNDS", 10)
    (tmp_path / "torn.tflite").write_bytes(b"half of it")
    paths = [tmp_path / f"{name}.tflite" for name in ("good", "torn", "failing", "other")]
    good, torn, failing, other = latency._timed(paths, np.zeros((1, 1, 3)))
    assert good["median"] >= 1.0
    assert other["median"] >= 1.0
    assert torn.startswith("is not a TFLite model that can run here")
    assert failing == "Node number 3 failed to invoke."


@pytest.mark.parametrize(
    ("code", "stderr", "reason"),
    [
        (-9, "", "measuring failed: the system killed it, perhaps for lack of memory"),
        (1, "Traceback\nMemoryError: no more", "measuring failed: MemoryError: no more"),
    ],
)
def test_where_nothing_could_be_measured_the_reason_is_told(monkeypatch, code, stderr, reason):
    done = types.SimpleNamespace(returncode=code, stderr=stderr, stdout="")
    monkeypatch.setattr(latency.subprocess, "run", lambda *_, **__: done)
    assert latency.measure(["a.tflite", "b"], np.zeros((2, 2, 3))) == [reason] * 2
    done = types.SimpleNamespace(returncode=0, stderr="", stdout=json.dumps([{"min": 1.0}]))
    assert latency.measure(["a.tflite"], np.zeros((2, 2, 3))) == [{"min": 1.0}]
