"""The load generator: how many requests it sends, when, and what it makes of the answers."""

import json
import threading
import time

import numpy as np
import pytest
from tensorflow.core.protobuf import meta_graph_pb2

from serving import command, load, loops
from tests.serving import served_models


def test_a_closed_loop_has_so_many_clients_and_one_request_each():
    under_way, most, lock = [0], [0], threading.Lock()

    def connect():
        def send():
            with lock:
                under_way[0] += 1
                most[0] = max(most[0], under_way[0])
            time.sleep(0.01)
            with lock:
                under_way[0] -= 1

        return send

    step = loops.closed_loop(connect, 4, 0.0, 0.4)
    assert most[0] == 4
    assert step.load == 4
    assert step.errors == 0
    assert min(step.latencies) >= 10
    # By Little's law: clients = throughput x latency.
    assert step.throughput * step.latencies[0] / 1000 == pytest.approx(4, rel=0.4)


def test_an_open_loop_sends_at_its_rate_and_counts_what_requests_wait():
    def connect():
        return lambda: time.sleep(0.02)

    step = loops.open_loop(connect, 200, 1, 0.0, 0.5)
    dues = np.cumsum(np.random.default_rng(0).exponential(1 / 200, 101))
    assert round(step.throughput * 0.5) == (dues < 0.5).sum()
    # One client manages 50 a second: the last of the requests waited for most of the rest.
    assert step.latencies[-1] > 10 * 20


def test_what_comes_before_the_warm_up_is_over_does_not_count():
    sent = []
    step = loops.open_loop(lambda: lambda: sent.append(1), 400, 8, 0.25, 0.25)
    assert 0 < round(step.throughput * 0.25) < len(sent)


def test_errors_are_counted_apart_and_the_first_is_kept():
    sent = []

    def send():
        sent.append(1)
        time.sleep(0.005)
        if len(sent) % 2:
            raise ValueError("odd\nmore")

    step = loops.closed_loop(lambda: send, 1, 0.0, 0.2)
    assert step.errors == (len(sent) + 1) // 2
    assert round(step.throughput * 0.2) == len(sent) // 2
    assert step.first_error == "ValueError: odd"


def test_inputs_have_the_shapes_and_dtypes_of_the_signature():
    signature = meta_graph_pb2.SignatureDef()
    for name, dtype, sizes in (("x", 1, [-1, 4, -1]), ("n", 9, []), ("b", 7, [-1])):
        signature.inputs[name].dtype = dtype
        for size in sizes:
            signature.inputs[name].tensor_shape.dim.add(size=size)
    inputs = load.inputs_of(signature, 3, b"image")
    assert inputs["x"].shape == (3, 4, 1)
    assert inputs["x"].dtype == np.float32
    assert inputs["n"].shape == (3,)
    assert inputs["n"].dtype == np.int64
    assert inputs["b"].tolist() == [b"image"] * 3


@pytest.mark.parametrize("text", ["", "a", "1,0", "-1", "1.5", "inf"])
def test_loads_that_are_none_are_told(text):
    with pytest.raises(command.MistakeError, match=r"valid: whole numbers from 1, such as 1,8,32"):
        load.numbers("concurrency", text)
    assert load.numbers("rate", "1.5,20") == [1.5, 20]


@pytest.fixture(scope="module")
def served(half):
    with served_models.server(model_name="half", model_base_path=str(half)) as server:
        yield server


@pytest.fixture
def run(served, monkeypatch, capsys):
    def call(**given):
        values = {name: default for name, (default, *_) in load.FLAGS.items()}
        values |= {"model_name": "half", "seconds": 0.4, "warm_up": 0.05, "port": served.port}
        if given.get("rest"):
            values["port"] = int(served.url.rpartition(":")[2])
        monkeypatch.setattr(load.flags, "FLAGS", type("Flags", (), {**values, **given}))
        return load.main(), capsys.readouterr().out

    return call


@pytest.mark.parametrize("rest", [False, True])
def test_a_server_is_loaded_and_the_numbers_are_printed_and_written(run, rest, tmp_path):
    code, printed = run(
        rest=rest, concurrency="1,3", json=str(tmp_path / "j"), plot=str(tmp_path / "p.svg")
    )
    assert code == 0
    heads, *rows = (line.split() for line in printed.splitlines())
    assert heads[:3] == ["clients", "answers/s", "p50"]
    steps = json.loads((tmp_path / "j").read_text())
    assert [float(row[0]) for row in rows] == [step["load"] for step in steps] == [1, 3]
    assert all(step["throughput"] > 0 and step["errors"] == 0 for step in steps)
    assert [float(row[1]) for row in rows] == [round(step["throughput"], 1) for step in steps]
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")


def test_an_address_that_was_copied_with_its_scheme_is_taken(run):
    code, _ = run(rest=True, host="http://127.0.0.1", concurrency="1")
    assert code == 0
    for rest in (True, False):
        with pytest.raises(command.MistakeError, match=r"^--host: .*'https://h'; valid: HOST;"):
            run(rest=rest, host="https://h")


@pytest.mark.parametrize("rest", [False, True])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"port": 70_000}, "--port: received 70000; valid: 0 to 65535"),
        ({"model_name": "no"}, "Servable not found for request: Latest"),
        ({"signature": "no"}, "--signature: received 'no'; valid: "),
        ({"port": 9}, "127.0.0.1:9: "),
        ({"image": "/no"}, "--image: /no: No such file"),
        ({"plot": "/no/p.svg", "seconds": 1e9}, "--plot: cannot write to '/no/p.svg'"),
        ({"json": "/", "seconds": 1e9}, "--json: cannot write to '/'"),
        (
            {"plot": "p.pdf", "seconds": 1e9},
            r"--plot: received 'p\.pdf'; valid: a name ending",
        ),
    ],
)
def test_what_cannot_be_loaded_is_told(run, rest, given, message):
    with pytest.raises(command.MistakeError, match=message):
        run(rest=rest, **given)
