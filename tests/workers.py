"""Local processes that train together as workers of one cluster."""

import json
import os
import socket
import subprocess
import sys

from tests.shell import ROOT


def free_port():
    """Return a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def flags(run_dir, data_dir, *more):
    """Return what trains two small peers, one with batch normalisation, on 320 digits."""
    return [
        "-m",
        "xkd_keras.train",
        f"--run_dir={run_dir}",
        f"--data_dir={data_dir}",
        "--dataset=digits",
        "--train_examples=320",
        "--peer=tests.small_peers:plain,learning_rate=0.01",
        "--peer=tests.small_peers:regular,optimizer=adamw,learning_rate=0.003",
        "--batch_size=16",
        "--eval_batch_size=64",
        "--epochs=4",
        "--method=mcod",  # each replica compares the features of its own images only
        "--distill_period=0.5",
        "--sync_batch_norm",
        "--strategy=multiworker",
        *more,
    ]


def start(command, count=2):
    """Start the workers; each one's output is in `stdout`."""
    hosts = [f"localhost:{free_port()}" for _ in range(count)]
    processes = []
    for i in range(count):
        told = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": i}}
        environment = {"TF_CONFIG": json.dumps(told), "TF_CPP_MIN_LOG_LEVEL": "3"}
        processes.append(task(command, environment))
    return processes


def task(command, environment):
    """Start one process, with more in its environment."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(processes):
    """Wait; return exit codes and outputs."""
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def until(process, beginning):
    """Read a worker's output up to a line that begins so."""
    for line in process.stdout:
        if line.startswith(beginning):
            return
    raise AssertionError(f"no line began with {beginning!r}")
