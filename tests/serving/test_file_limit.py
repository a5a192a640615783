"""A server that has no file descriptor left: a process whose limit is lowered while it runs."""

import os
import resource
import socket
import time
from contextlib import ExitStack

import pytest
import requests

from tests.serving import served_models

SPARE = 8  # file descriptors that are left
TOO_MANY = "socket.accept() out of system resource: Too many open files"


@pytest.fixture
def served(half, tmp_path):
    """A server with few file descriptors left; `log` is what it writes."""
    with (
        (tmp_path / "log").open("w") as errors,
        served_models.Running(f"--model_base_path={half}", errors=errors) as server,
    ):
        pid = server.process.pid
        assert answers(server)
        limit = max(map(int, os.listdir(f"/proc/{pid}/fd"))) + 1 + SPARE
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
        server.log = tmp_path / "log"
        yield server


def answers(server):
    body = {"instances": [2.0]}
    answer = requests.post(f"{server.url}/default:predict", json=body, timeout=300)
    return answer.json() == {"predictions": [3.0]}


@pytest.mark.slow
def test_the_log_says_it_in_one_line_and_the_server_answers_afterwards(served):
    with ExitStack() as stack:
        for port in (served.rest, served.grpc):
            for _ in range(2 * SPARE):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        served_models.wait_for(lambda: "socket.accept()" in served.log.read_text())
        time.sleep(2)  # asyncio tries again each second, and complains a hundred times
        log = served.log.read_text()
    assert log.count("socket.accept()") == log.count(TOO_MANY) == 1
    assert "Traceback" not in log
    assert len(log) < 20_000
    assert answers(served)
