"""Batching: what runs together, what waits, and who gets which rows back."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from google.protobuf import text_format

from serving.embedded.batching import Batcher, joined
from serving.embedded.errors import ConfigError, StatusError, invalid
from serving.embedded.options import BatchingOptions
from serving.embedded.protos import BatchingParameters
from tests.serving.served_models import wait_for


class Model:
    """Doubles x; holds every call until it is let go, and keeps the sizes of the calls."""

    def __init__(self, gated=False):
        self.sizes, self.deadlines, self.gate = [], [], threading.Event()
        self.entered = threading.Semaphore(0)
        if not gated:
            self.gate.set()

    def __call__(self, name, inputs, outputs, deadline):
        self.sizes.append(len(inputs["x"]))
        self.deadlines.append(deadline)
        self.entered.release()
        assert self.gate.wait(300)
        if (inputs["x"] < 0).any():
            raise invalid("negative")
        return [inputs["x"] * 2]


def ask(batcher, *values, deadline=None):
    x = np.array(values, np.float32)
    (y,) = batcher("serving_default", {"x": x}, ["y"], deadline)
    return y.tolist()


def options(text, cpus=1):
    return BatchingOptions.of(text_format.Parse(text, BatchingParameters()), cpus)


def together(batcher, model, requests):
    """Send a first request, the others while it runs, then let all go; returns their results."""
    with ThreadPoolExecutor(len(requests) + 1) as pool:
        first = pool.submit(ask, batcher, 1000)
        assert model.entered.acquire(timeout=300)
        rest = [pool.submit(ask, batcher, *values) for values in requests]
        wait_for(lambda: queued(batcher) == len(requests))
        model.gate.set()
        assert first.result(20) == [2000]
        return [_outcome(future) for future in rest]


def queued(batcher):
    return sum(len(batch.tasks) for batch in list(batcher._queue))


def _outcome(future):
    try:
        return future.result(20)
    except StatusError as failure:
        return failure


def test_parameters_have_upstreams_defaults():
    assert options("", cpus=7) == BatchingOptions(
        size=1000, timeout=0.0, queue=10, slots=7, allowed=(), pad=False
    )


def test_parameters_are_read():
    given = options(
        "max_batch_size { value: 8 } batch_timeout_micros { value: 1500 } num_batch_threads"
        " { value: 3 } max_enqueued_batches { value: 5 } allowed_batch_sizes: 2"
        " allowed_batch_sizes: 8 pad_variable_length_inputs: true thread_pool_name { value: 'p' }"
    )
    assert given == BatchingOptions(
        size=8, timeout=0.0015, queue=5, slots=3, allowed=(2, 8), pad=True
    )


def test_large_requests_are_split_where_that_is_asked_for():
    text = "max_batch_size { value: 64 } max_execution_batch_size { value: 16 }"
    assert options(text) == BatchingOptions(size=64, slots=1)
    split = "enable_large_batch_splitting { value: true }"
    assert options(f"{text} {split}") == BatchingOptions(size=64, largest=16, slots=1)
    assert options(split) == BatchingOptions(slots=1)
    for last in (16, 64):  # of upstream's two checks, one wants the first and one the second
        sizes = f"allowed_batch_sizes: 4 allowed_batch_sizes: {last}"
        assert options(f"{text} {split} {sizes}").allowed == (4, last)
    with pytest.raises(ConfigError, match="must be max_batch_size, 64, or max_execution_batch_"):
        options(f"{text} {split} allowed_batch_sizes: 4 allowed_batch_sizes: 8")


@pytest.mark.parametrize("last", [16, 64])
def test_pieces_of_a_large_request_are_padded_no_further_than_a_call_may_be(last):
    sizes = []

    def model(name, inputs, outputs, deadline):
        sizes.append(len(inputs["x"]))
        return [inputs["x"]]

    batcher = Batcher(model, BatchingOptions(size=64, largest=16, allowed=(4, last)))
    assert ask(batcher, *range(37)) == list(range(37))
    assert sizes == [16, 16, 16]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size: received 0; valid: 1 or more"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros: received -1"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 4", "the last, 4, must be max_batch"),
        ("allowed_batch_sizes: 4 allowed_batch_sizes: 2", "valid: increasing"),
        (
            "max_batch_size { value: 8 } enable_large_batch_splitting { value: true }"
            " max_execution_batch_size { value: 9 }",
            "max_execution_batch_size: received 9; valid: at most max_batch_size, 8",
        ),
    ],
)
def test_parameters_that_make_no_sense_are_told(text, message):
    with pytest.raises(ConfigError, match=message):
        options(text)


def test_a_lone_request_runs_at_once_in_its_own_thread():
    threads = []

    def model(name, inputs, outputs, deadline):
        threads.append(threading.get_ident())
        return [inputs["x"]]

    assert ask(Batcher(model, BatchingOptions()), 1, 2) == [1, 2]
    assert threads == [threading.get_ident()]


def test_requests_that_wait_share_a_call_and_get_their_own_rows():
    model = Model(gated=True)
    batcher = Batcher(model, BatchingOptions(slots=1))
    answers = together(batcher, model, [[1], [2, 3], [4]])
    assert answers == [[2], [4, 6], [8]]
    assert model.sizes == [1, 4]


def test_a_batch_is_no_larger_than_the_largest():
    model = Model(gated=True)
    batcher = Batcher(model, BatchingOptions(size=4, slots=1))
    assert together(batcher, model, [[1, 1], [2], [3, 3]]) in ([[2, 2], [4], [6, 6]],)
    assert sum(model.sizes) == 6
    assert max(model.sizes) <= 4


def test_a_request_larger_than_a_batch_is_refused():
    with pytest.raises(StatusError, match="Task size 3 is larger than maximum input batch size 2"):
        ask(Batcher(Model(), BatchingOptions(size=2)), 1, 2, 3)


@pytest.mark.parametrize(("allowed", "sizes"), [((), [4, 4, 1]), ((2, 4), [4, 4, 2])])
def test_a_large_request_runs_in_pieces(allowed, sizes):
    model = Model()
    batcher = Batcher(model, BatchingOptions(size=9, largest=4, slots=1, allowed=allowed))
    assert ask(batcher, *range(9)) == [2 * n for n in range(9)]
    assert model.sizes == sizes
    with pytest.raises(StatusError, match="size 10 is larger than maximum input batch size 9"):
        ask(batcher, *range(10))


def test_small_requests_fill_no_more_than_a_piece():
    model = Model(gated=True)
    batcher = Batcher(model, BatchingOptions(size=9, largest=4, slots=1))
    answers = together(batcher, model, [[1, 2, 3], [4, 5], [6], list(range(6)), [7]])
    assert answers == [[2, 4, 6], [8, 10], [12], [0, 2, 4, 6, 8, 10], [14]]
    assert max(model.sizes) <= 4


def test_a_full_queue_says_so_at_once():
    model = Model(gated=True)
    batcher = Batcher(model, BatchingOptions(size=1, queue=2, slots=1))
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(ask, batcher, 1)]
        assert model.entered.acquire(timeout=300)
        running += [pool.submit(ask, batcher, n) for n in (2, 3)]
        wait_for(lambda: queued(batcher) == 2)
        with pytest.raises(
            StatusError, match="queue to which this task was submitted is full"
        ) as full:
            ask(batcher, 4)
        assert full.value.code is grpc.StatusCode.UNAVAILABLE
        model.gate.set()
        assert sorted(future.result(20)[0] for future in running) == [2, 4, 6]
    assert ask(batcher, 5) == [10]


def test_one_bad_request_does_not_hurt_its_neighbours():
    model = Model(gated=True)
    batcher = Batcher(model, BatchingOptions(slots=1))
    one, bad, two = together(batcher, model, [[1], [-1], [2]])
    assert (one, two) == ([2], [4])
    assert bad.message == "negative"


def test_requests_of_other_shapes_run_apart():
    model = Model(gated=True)
    batcher = Batcher(model, BatchingOptions(slots=1))
    answers = together(batcher, model, [[[1, 2]], [[3, 4]], [5]])
    assert answers == [[[2, 4]], [[6, 8]], [10]]
    assert sorted(model.sizes) == [1, 1, 2]


def test_other_shapes_are_padded_where_that_is_asked_for():
    long, short = np.array([[1.0, 2, 3]]), np.array([[7.0]])
    assert joined([long, short], 2).tolist() == [[1, 2, 3], [7, 7, 7]]


def test_batches_are_padded_to_an_allowed_size_and_the_padding_is_taken_off():
    model = Model(gated=True)
    batcher = Batcher(model, BatchingOptions(size=8, slots=1, allowed=(4, 8)))
    assert together(batcher, model, [[1], [2]]) == [[2], [4]]
    assert model.sizes == [4, 4]


def test_a_batch_waits_for_company_as_long_as_it_may_and_no_longer_when_full():
    model = Model()
    patient = Batcher(model, BatchingOptions(size=2, timeout=30.0))
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(ask, patient, n) for n in (1, 2)]
        assert [future.result(20) for future in asked] == [[2], [4]]
    assert model.sizes == [2]
    assert ask(Batcher(model, BatchingOptions(size=2, timeout=0.01)), 3) == [6]


def test_a_request_whose_time_is_up_leaves_the_queue():
    model = Model(gated=True)
    batcher = Batcher(model, BatchingOptions(slots=1))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, batcher, 1)
        assert model.entered.acquire(timeout=300)
        with pytest.raises(StatusError) as late:
            ask(batcher, 2, deadline=time.monotonic() + 0.05)
        assert late.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        model.gate.set()
        assert first.result(20) == [2]
    assert ask(batcher, 3) == [6]
    assert model.sizes == [1, 1]


@pytest.mark.parametrize(("deadlines", "expected"), [((20, 30), 30), ((20, None), None)])
def test_a_call_has_as_long_as_anyone_waits_for_it(deadlines, expected):
    now, model = time.monotonic(), Model(gated=True)
    until = [None if seconds is None else now + seconds for seconds in deadlines]
    batcher = Batcher(model, BatchingOptions(slots=1))
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask, batcher, 1, deadline=now + 10)]
        assert model.entered.acquire(timeout=300)
        asked += [pool.submit(ask, batcher, 2, deadline=end) for end in until]
        wait_for(lambda: queued(batcher) == 2)
        model.gate.set()
        assert [future.result(20) for future in asked] == [[2], [4], [4]]
    assert model.deadlines == [now + 10, expected and now + expected]


def test_an_output_without_a_row_for_each_example_is_told():
    batcher = Batcher(lambda *_: [np.float32(1)], BatchingOptions())
    with pytest.raises(StatusError, match="Batched output tensor's 0th dimension does not equal"):
        ask(batcher, 1)


def test_inputs_must_have_batches_of_one_size():
    batcher = Batcher(Model(), BatchingOptions())
    one, two = np.zeros(1), np.zeros(2)
    with pytest.raises(StatusError, match="must have equal 0th-dimension size"):
        batcher("s", {"a": one, "b": two}, ["y"])
    with pytest.raises(StatusError, match="must have at least one dimension"):
        batcher("s", {"a": np.float32(1)}, ["y"])


@pytest.mark.parametrize("slots", [1, 3])
def test_under_load_every_request_gets_its_own_answer(slots):
    def model(name, inputs, outputs, deadline):
        time.sleep(0.0005)
        return [inputs["x"] * 2]

    sizes = []
    batcher = Batcher(model, BatchingOptions(size=16, slots=slots, queue=1000), sizes.append)

    def client(seed):
        random = np.random.default_rng(seed)
        for _ in range(100):
            values = random.integers(0, 1000, random.integers(1, 5))
            soon = time.monotonic() + (0.0005 if random.random() < 0.2 else 20)
            try:
                right = ask(batcher, *values, deadline=soon) == (2 * values).tolist()
            except StatusError as failure:
                right = failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
            if not right:
                return False
        return True

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(client, range(12)))
    assert max(sizes) > 4
    assert batcher._free == slots
    assert not batcher._queue
