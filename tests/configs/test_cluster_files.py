"""What starts a run on a cluster, as far as it goes without one: tools have stand-ins."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests import workers
from xkd_keras.devices import cluster

CLUSTER = Path(__file__).parent.parent.parent / "configs" / "cluster"


@pytest.fixture
def stand_in(tmp_path):
    """Give the words and the TF_CONFIG that a tool of that name was called with."""

    def make(name, code=0):
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        log = tmp_path / f"{name}.log"
        tool.write_text(f'#!/bin/sh\nprintf "%s\\n" "$TF_CONFIG" "$@" > {log}\nexit {code}\n')
        tool.chmod(0o755)
        return log

    return make


def shell(tmp_path, *words, **environment):
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(words, env={"PATH": path, **environment}, check=False).returncode


@pytest.fixture
def job():
    service, job = yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text())
    return service, job["spec"]


def test_each_pod_of_the_job_is_told_all_workers_and_its_own_index(job, stand_in, tmp_path):
    service, spec = job
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    log = stand_in("python")
    for index in range(spec["completions"]):
        environment = {each["name"]: each["value"] for each in container["env"]}
        words = [*container["command"], *container["args"]]
        assert shell(tmp_path, *words, **environment, JOB_COMPLETION_INDEX=str(index)) == 0
        text, *arguments = log.read_text().splitlines()
        cluster.check_tf_config(text)
        told = json.loads(text)
        assert told["task"] == {"type": "worker", "index": index}
        # The name that Kubernetes gives to pod i of an Indexed Job whose subdomain is a service.
        name = service["metadata"]["name"]
        port = container["ports"][0]["containerPort"]
        hosts = [f"xkd-train-{i}.{name}:{port}" for i in range(spec["completions"])]
        assert told["cluster"] == {"worker": hosts}
        assert arguments[:2] == ["-m", "xkd_keras.train"]
        assert "--strategy=multiworker" in arguments
    assert pod["subdomain"] == name
    assert service["spec"]["selector"] == {"job-name": "xkd-train"}
    assert spec["parallelism"] == spec["completions"]


def test_the_job_starts_a_pod_again_that_was_preempted_and_no_other(job):
    _, spec = job
    rules = spec["podFailurePolicy"]["rules"]
    actions = {
        code: r["action"] for r in rules for code in r.get("onExitCodes", {}).get("values", ())
    }
    assert actions == {1: "FailJob", 2: "FailJob", 75: "Ignore"}
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # the policy asks for it


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [(0, 0, False), (75, 0, True), (75, 9, True), (1, 0, False), (137, 2, True), (137, 3, False)],
)
def test_the_batch_script_puts_a_job_back_into_the_queue_that_can_go_on(
    stand_in, tmp_path, code, restarts, requeued
):
    step, control = stand_in("srun", code), stand_in("scontrol")
    words = ["bash", CLUSTER / "slurm.sbatch", "a.flags", "runs/a b", "--epochs=3"]
    ended = shell(tmp_path, *words, SLURM_JOB_ID="17", SLURM_RESTART_COUNT=str(restarts))
    assert ended == (0 if requeued else code)
    assert control.exists() == requeued
    if requeued:
        assert control.read_text().split() == ["requeue", "17"]
    arguments = step.read_text().splitlines()
    assert {"--flagfile=a.flags", "--run_dir=runs/a b", "--epochs=3"} < set(arguments)
    assert "--strategy=multiworker" in arguments


@pytest.mark.slow
def test_two_tasks_of_a_slurm_step_find_each_other(data_dir, tmp_path):
    """With what Slurm sets in the environment of a step's tasks."""
    step = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = workers.flags(tmp_path / "run", data_dir, "--epochs=1")
    tasks = [workers.task(command, {**step, "SLURM_PROCID": str(i)}) for i in range(2)]
    codes, outputs = workers.ended(tasks)
    assert codes == [0, 0], outputs
    assert "devices: 2 of 2 workers" in outputs[0]
