"""Latency: rounds over all files, in changing order."""

import time

import numpy as np

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
