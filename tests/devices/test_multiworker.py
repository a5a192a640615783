"""Two local workers are as one with the whole batch, also where they are killed and go on."""

import csv
import json
import re
import signal
import time

import keras
import numpy as np
import pytest

from tests import once, workers
from xkd_keras import files
from xkd_keras.devices import cluster
from xkd_keras.errors import InputError


@pytest.fixture(scope="session")
def alone(shared, data_dir):
    """The run of one worker with the whole batch, which has no collectives to differ by."""

    def train(path):
        codes, outputs = workers.ended(workers.start(workers.flags(path, data_dir), count=1))
        assert codes == [0], outputs

    return once.made(shared, "alone", train)


def assert_same(one, two):
    """Weights within 1e-4, as sums are taken in another order; metrics within 1e-3."""
    for path in sorted((one / "peers").iterdir()):
        a, b = (keras.models.load_model(run / "peers" / path.name) for run in (one, two))
        for x, y in zip(a.get_weights(), b.get_weights(), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)
    histories = [list(csv.DictReader((run / "logs/history.csv").open())) for run in (one, two)]
    assert [len(rows) for rows in histories] == [4, 4]
    for a, b in zip(*histories, strict=True):
        assert set(a) == set(b)
        for name in set(a) - {"seconds"}:
            assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-3, abs=1e-3), name
    results = [json.loads((run / "metrics.json").read_text()) for run in (one, two)]
    for a, b in zip(*(result["peers"].values() for result in results), strict=True):
        assert a["cross_entropy"] == pytest.approx(b["cross_entropy"], rel=1e-3)


@pytest.mark.slow
def test_two_workers_end_as_one_with_the_whole_batch(alone, data_dir, tmp_path):
    command = workers.flags(tmp_path / "run", data_dir)
    codes, outputs = workers.ended(workers.start(command))
    assert codes == [0, 0], outputs
    assert "epoch" in outputs[0]
    assert "epoch" not in outputs[1]  # the chief speaks
    assert_same(alone, tmp_path / "run")
    codes, outputs = workers.ended(workers.start(command))  # nothing is left to do
    assert codes == [0, 0], outputs
    assert "is complete" in outputs[0]


@pytest.mark.slow
def test_workers_that_are_killed_and_stopped_go_on_to_the_same_end(alone, data_dir, tmp_path):
    """SIGKILL of the chief ends the other; at SIGTERM to one, all save within the epoch."""
    command = workers.flags(tmp_path / "run", data_dir)
    processes = workers.start(command)
    workers.until(processes[0], "epoch   1/4")
    processes[0].kill()
    codes, outputs = workers.ended(processes)
    assert codes[0] == -signal.SIGKILL
    assert codes[1] in (75, -signal.SIGABRT), outputs  # TensorFlow may abort first
    processes = workers.start(command)
    workers.until(processes[0], "resuming after epoch")
    workers.until(processes[0], "epoch   2/4")
    processes[1].send_signal(signal.SIGTERM)
    codes, outputs = workers.ended(processes)
    assert codes == [75, 75], outputs
    told = [re.findall("saved after .*epoch .*", output) for output in outputs]
    assert len(told[0]) == 1, outputs
    assert told[0] == told[1]  # after the same step
    codes, outputs = workers.ended(workers.start(command))
    assert codes == [0, 0], outputs
    assert "resuming after epoch" in outputs[0]
    assert_same(alone, tmp_path / "run")


@pytest.mark.slow
def test_what_is_wrong_for_one_worker_ends_all_with_a_line(data_dir, tmp_path):
    (tmp_path / "run").mkdir()
    with files.lock(tmp_path / "run"):
        started = workers.start(workers.flags(tmp_path / "run", data_dir))
        codes, outputs = workers.ended(started)
    assert codes == [1, 1]
    assert "is in use by another process" in outputs[0]
    assert "error: another worker failed" in outputs[1]
    assert "Traceback" not in "".join(outputs)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}',
    ],
)
def test_a_tf_config_that_names_no_worker_is_refused(text):
    with pytest.raises(InputError, match="TF_CONFIG: received"):
        cluster.check_tf_config(text)


def test_a_cluster_that_the_environment_does_not_name_is_asked_for(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_STEP_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="found neither TF_CONFIG nor a Slurm step"):
        cluster.strategy("multiworker")


@pytest.mark.slow
def test_a_worker_that_waits_for_others_says_so_and_ctrl_c_ends_it(data_dir, tmp_path):
    one, other = workers.start(workers.flags(tmp_path / "run", data_dir))
    other.kill()
    other.wait()
    workers.until(one, "worker 0, one of 2, is waiting for the others")
    time.sleep(1)
    one.send_signal(signal.SIGINT)
    assert one.wait(timeout=10) == -signal.SIGINT


def test_a_tpu_that_is_not_there_is_one_line():
    with pytest.raises(InputError, match=r"^strategy: no TPU was found"):
        cluster.strategy("tpu")
