"""How many runs are done side by side, and what a process is told of its machine."""

import os

import pytest

from xkd_keras.devices import machine
from xkd_keras.devices.machine import GIB, Machine


@pytest.mark.parametrize(
    ("cores", "gib", "gpu", "runs", "jobs"),
    [
        (2, 20, False, 10, 2),
        (64, 512, False, 100, 64),
        (64, 512, False, 10, 10),  # the rest of the cores is divided among them
        (16, 7, False, 100, 3),  # memory for three
        (16, 1, False, 100, 1),
        (1, 64, False, 100, 1),
        (64, 512, True, 100, 1),
        (64, 512, False, 0, 1),  # nothing is left to do
    ],
)
def test_as_many_runs_side_by_side_as_cores_and_memory_are_for(cores, gib, gpu, runs, jobs):
    assert Machine(cores, gib * GIB, gpu).jobs(runs) == jobs


def test_a_machine_is_told_in_a_few_words():
    assert str(Machine(2, 20 * GIB, False)) == "2 cores, 20 GiB available"
    assert str(Machine(1, 8 * GIB, True)) == "1 core, 8 GiB available, GPU"


@pytest.fixture
def write(tmp_path):
    """Write files of a machine that never was; 8 GiB are available on it."""

    def made(**files):
        for name, text in {"proc/meminfo": MEMINFO, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return made


MEMINFO = "MemTotal:       16777216 kB\nMemFree:  1024 kB\nMemAvailable:    8388608 kB\n"
SLURM = "system.slice/slurmstepd.scope/job_7"
HOST = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def test_without_control_groups_the_machine_itself_says_what_there_is(write):
    root = write()
    assert machine.cores(root) == HOST
    assert machine.memory(root) == 8 * GIB


@pytest.mark.parametrize(
    "files",
    [
        {  # version 2: a container sees its own group as the top
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "100000 100000\n",
            "sys/fs/cgroup/memory.max": f"{3 * GIB}\n",
        },
        {  # a step of Slurm, whose job is limited and whose own group is not
            "proc/self/cgroup": f"0::/{SLURM}/step_0/user\n",
            f"sys/fs/cgroup/{SLURM}/cpu.max": "150000 100000\n",
            f"sys/fs/cgroup/{SLURM}/memory.max": f"{3 * GIB}\n",
            f"sys/fs/cgroup/{SLURM}/step_0/cpu.max": "max 100000\n",
            f"sys/fs/cgroup/{SLURM}/step_0/memory.max": "max\n",
        },
        {  # version 1: the path is that outside the container
            "proc/self/cgroup": "9:memory:/docker/ab\n4:cpu,cpuacct:/docker/ab\n0::/docker/ab\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{3 * GIB}\n",
        },
    ],
)
def test_a_control_group_limits_cores_and_memory(write, files):
    root = write(**files)
    assert machine.cores(root) == 1
    assert machine.memory(root) == 3 * GIB


def test_a_control_group_without_limits_limits_nothing(write):
    root = write(
        **{
            "proc/self/cgroup": "9:memory:/\n4:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        }
    )
    assert machine.cores(root) == HOST
    assert machine.memory(root) == 8 * GIB


def test_a_gpu_counts_unless_it_is_hidden(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    dev = tmp_path / "dev"
    dev.mkdir()
    (dev / "nvidiactl").touch()
    assert not machine.gpu(tmp_path)
    (dev / "nvidia0").touch()
    assert machine.gpu(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert machine.gpu(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert not machine.gpu(tmp_path)


def test_in_wsl2_a_gpu_counts_where_nvidias_driver_is(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/dxg").touch()
    assert not machine.gpu(tmp_path)
    (tmp_path / "usr/lib/wsl/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/wsl/lib/libcuda.so.1").touch()
    assert machine.gpu(tmp_path)
