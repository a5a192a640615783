"""What starts a run on a cluster, as far as it goes without one: tools have stand-ins."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from absl import flags

from tests import workers
from xkd_keras.devices import cluster
from xkd_keras.study import options

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
def study_job():
    return yaml.safe_load((CLUSTER / "kubernetes_study.yaml").read_text())["spec"]


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
        assert {"--strategy=multiworker", "--data_dir=data"} < set(arguments)  # in the volume
    assert pod["subdomain"] == name
    assert service["spec"]["selector"] == {"job-name": "xkd-train"}
    assert spec["parallelism"] == spec["completions"]


@pytest.mark.parametrize("kind", ["run", "study"])
def test_the_job_starts_a_pod_again_that_was_preempted_and_no_other(job, study_job, kind):
    spec = job[1] if kind == "run" else study_job
    rules = spec["podFailurePolicy"]["rules"]
    actions = {
        code: r["action"] for r in rules for code in r.get("onExitCodes", {}).get("values", ())
    }
    assert actions == {1: "FailJob", 2: "FailJob", 75: "Ignore"}
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # the policy asks for it
    names = {rule["onExitCodes"]["containerName"] for rule in rules if "onExitCodes" in rule}
    assert names == {container["name"] for container in pod["containers"]}


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [
        (0, 0, False),
        (75, 0, True),
        (75, 9, True),
        (75, 50, False),
        (1, 0, False),
        (137, 2, True),
        (137, 3, False),
    ],
)
def test_the_batch_script_puts_a_job_back_into_the_queue_that_can_go_on(
    stand_in, tmp_path, code, restarts, requeued
):
    step, control = stand_in("srun", code), stand_in("scontrol")
    for script, job, flag in SCRIPTS[: 1 if restarts == 50 else 2]:  # a study has one worker
        control.unlink(missing_ok=True)
        words = ["bash", CLUSTER / script, "a.flags", "runs/a b", "--epochs=3"]
        ended = shell(tmp_path, *words, **ARRAY, SLURM_RESTART_COUNT=str(restarts))
        assert ended == (0 if requeued else code)
        assert control.exists() == requeued
        if requeued:
            assert control.read_text().split() == ["requeue", job]
        arguments = step.read_text().splitlines()
        assert {"--flagfile=a.flags", "--run_dir=runs/a b", "--epochs=3", flag} < set(arguments)


ARRAY = {"SLURM_JOB_ID": "17", "SLURM_ARRAY_JOB_ID": "15", "SLURM_ARRAY_TASK_ID": "2"}
SCRIPTS = [
    ("slurm.sbatch", "17", "--strategy=multiworker"),
    ("slurm_study.sbatch", "15_2", "--shard=auto"),  # 15 alone may mean all of the array
]


def test_the_pods_of_a_study_are_its_parts(study_job, monkeypatch):
    (container,) = study_job["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "xkd_keras.study"]
    monkeypatch.chdir(CLUSTER.parent.parent)
    parts = []
    for index in range(study_job["completions"]):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
        values = flags.FlagValues()
        options.define(values)
        values(["study", *container["args"]])
        parts.append(options.plan(values).shard)
    count = study_job["parallelism"]
    assert parts == [(index, count) for index in range(count)]


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
    assert "devices: 2 CPUs of 2 workers" in outputs[0]
