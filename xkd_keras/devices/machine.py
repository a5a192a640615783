"""What this process may use of its machine, and how many runs that is enough for.

Linux says less than there is to whom it gives less: an affinity, as Slurm sets it, or a control
group, as containers are in. TensorFlow, which would say more of GPUs, takes seconds to ask.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path

GIB = 2**30
OF_A_RUN = 2 * GIB  # AlexNet and ResNet-20 on CIFAR-10 take 1.7 with their data


@dataclasses.dataclass(frozen=True)
class Machine:
    """Cores, memory that is available in bytes, and whether there is a GPU."""

    cores: int
    memory: int
    gpu: bool

    def jobs(self, runs: int) -> int:
        """Return how many of so many runs to do side by side; the cores are divided among them.

        Small networks keep one core busy and waste a second; a GPU is filled by one run.
        """
        return 1 if self.gpu else max(1, min(self.cores, self.memory // OF_A_RUN, runs))

    def __str__(self):
        """Return it in a few words."""
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        return f"{cores}, {self.memory / GIB:.0f} GiB available{', GPU' if self.gpu else ''}"


@functools.cache  # what a study takes itself must not count when it asks again
def here() -> Machine:
    """Return what this process may use."""
    return Machine(cores(), memory(), gpu())


def cores(root: Path = Path("/")) -> int:
    """Return the cores that this process may use, at least 1.

    Args:
        root: Of the files that say so.
    """
    known = getattr(os, "sched_getaffinity", None)
    allowed = [float(len(known(0)) if known else os.cpu_count() or 1)]
    for group in _groups(root, "cpu"):
        told = _read(group / "cpu.max").split() or [
            *_read(group / "cpu.cfs_quota_us").split(),
            *_read(group / "cpu.cfs_period_us").split(),
        ]
        if len(told) == 2 and told[0].isdecimal():  # no limit: "max", or before version 2 "-1"
            allowed.append(int(told[0]) / int(told[1]))
    return max(1, int(min(allowed)))


def memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory that this process may take; of the whole machine on a Mac.

    Args:
        root: Of the files that say so.
    """
    told = [line.split() for line in _read(root / "proc/meminfo").splitlines()]
    free = [int(words[1]) * 1024 for words in told if words[0] == "MemAvailable:"]
    allowed = free or [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in _groups(root, "memory"):
        limit = _read(group / "memory.max") or _read(group / "memory.limit_in_bytes")
        if limit.isdecimal():
            allowed.append(int(limit))
    return min(allowed)


def gpu(root: Path = Path("/")) -> bool:
    """Whether there is a GPU that TensorFlow could use: NVIDIA's, on Linux or through WSL2.

    Args:
        root: Of the files that say so.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):  # hidden
        return False
    # In WSL2 the device stands for a GPU of any maker.
    windows = (root / "dev/dxg").exists() and (root / "usr/lib/wsl/lib/libcuda.so.1").exists()
    return windows or any((root / "dev").glob("nvidia[0-9]*"))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Give the directories of this process's control group and of those that it is in."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") or not controllers:  # none: version 2
            top = root / "sys/fs/cgroup" / (controller if controllers else "")
            group = top / path.strip("/")  # a container may see the path outside it: only `top` is
            yield group
            while group != top:
                group = group.parent
                yield group


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
