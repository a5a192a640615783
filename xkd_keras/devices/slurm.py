"""The workers of a step of Slurm (srun), as its environment names them.

tf.distribute's SlurmClusterResolver sorts the hosts by name, which gives n10 the rank of n9, and
counts GPUs by nvidia-smi, whether TensorFlow can use them or not.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping

from xkd_keras.console import many
from xkd_keras.errors import InputError

_NAMES = ("SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID")
PORT = 8888  # of the first task of a node; the next ones follow


@dataclasses.dataclass(frozen=True)
class Step:
    """A step as one of its tasks sees it.

    Attributes:
        workers: HOST:PORT of every task, by rank.
        rank: That of this task.
        place: The number of this task on its node.
        beside: How many tasks its node has.
    """

    workers: list[str]
    rank: int
    place: int
    beside: int

    def gpus(self, seen: int, environ: Mapping[str, str]) -> slice:
        """Return which of the GPUs that this task sees are its own.

        All of them, but where each task sees every GPU of the node: there, an equal part.
        """
        shared = self.beside > 1 and environ.get("SLURM_GPUS_ON_NODE") == str(seen)
        if not shared or "SLURM_GPUS_PER_TASK" in environ:
            return slice(0, seen)
        if seen < self.beside:
            raise InputError(
                f"{self.beside} Slurm tasks share {many(seen, 'GPU')} of a node; valid: one task"
                " per GPU, or fewer.",
                argument="strategy",
            )
        return slice(*(seen * place // self.beside for place in (self.place, self.place + 1)))


def step(environ: Mapping[str, str]) -> Step:
    """Return the step that an environment tells of; tasks are ranked node by node (srun's default).

    Raises:
        InputError: The environment is not that of a task of a step.
    """
    try:
        nodes, tasks, own = (environ[name] for name in _NAMES)
        hosts, counts = expanded(nodes), _repeated(tasks)
        places = [
            (host, place, count)
            for host, count in zip(hosts, counts, strict=True)
            for place in range(count)
        ]
        rank = int(own)
        _, place, beside = places[rank]
    except (KeyError, ValueError, IndexError) as error:
        told = {name: environ.get(name) for name in _NAMES}
        raise InputError(
            f"multiworker cannot read the Slurm step ({type(error).__name__}: {error}) from"
            f" {told}; valid: start it with srun, or set TF_CONFIG.",
            argument="strategy",
        ) from None
    return Step([f"{host}:{PORT + place}" for host, place, _ in places], rank, place, beside)


def expanded(hosts: str) -> list[str]:
    """Return the hosts of a list as Slurm writes it: n[9-10],m3 are n9, n10 and m3."""
    found = []
    for part in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", hosts):
        pieces = re.split(r"\[([^\]]*)\]", part)  # every second one is in brackets
        options = [_numbers(text) if i % 2 else [text] for i, text in enumerate(pieces)]
        found += ["".join(each) for each in itertools.product(*options)]
    return found


def _numbers(ranges: str) -> Iterator[str]:
    for each in ranges.split(","):
        first, _, last = each.partition("-")
        for number in range(int(first), int(last or first) + 1):
            yield str(number).zfill(len(first))


def _repeated(counts: str) -> list[int]:
    """Return the numbers of a list as Slurm writes it: 3(x2),1 are 3, 3 and 1."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", counts)
    return [int(count) for count, times in found for _ in range(int(times or 1))]
