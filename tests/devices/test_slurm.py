"""Steps of Slurm: who the workers are, in which order, and which GPUs belong to a task."""

import pytest
from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver as theirs

from xkd_keras.devices import slurm
from xkd_keras.errors import InputError

FOUR = {"SLURM_STEP_NODELIST": "n[9-10]", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}


@pytest.mark.parametrize(
    "listed",
    ["localhost", "n[1-2],m5,o[3-4,6,7-9]", "gpu[08-11]", "a-1,a-b[2-3]", "n[001,010-012]"],
)
def test_hosts_are_those_of_tensorflows_resolver(listed):
    assert slurm.expanded(listed) == theirs.expand_hostlist(listed)


def test_hosts_may_have_two_numbers():
    """As `scontrol show hostnames` writes them: the last one runs fastest."""
    assert slurm.expanded("r[1-2]n[09-10]x") == ["r1n09x", "r1n10x", "r2n09x", "r2n10x"]


@pytest.mark.parametrize("counts", ["1", "3(x2),2,1", "4(x3)"])
def test_tasks_per_node_are_those_of_tensorflows_resolver(counts):
    expected = theirs.expand_tasks_per_node(counts)
    hosts = ",".join(f"h{i}" for i in range(len(expected)))
    told = {"SLURM_STEP_NODELIST": hosts, "SLURM_STEP_TASKS_PER_NODE": counts, "SLURM_PROCID": "0"}
    workers = slurm.step(told).workers
    assert [sum(w.startswith(f"h{i}:") for w in workers) for i in range(len(expected))] == expected


def test_ranks_follow_the_list_of_nodes_and_not_their_names():
    """Slurm gives the first rank to the first node: sorted by name, n10 would have it."""
    for rank in range(4):
        step = slurm.step({**FOUR, "SLURM_PROCID": str(rank)})
        assert step.workers == ["n9:8888", "n9:8889", "n10:8888", "n10:8889"]
        assert (step.rank, step.place, step.beside) == (rank, rank % 2, 2)


@pytest.mark.parametrize(
    ("seen", "told", "own"),
    [
        (4, {"SLURM_GPUS_ON_NODE": "4"}, [[0, 1], [2, 3]]),  # both tasks see all of the node
        (3, {"SLURM_GPUS_ON_NODE": "3"}, [[0], [1, 2]]),
        (2, {"SLURM_GPUS_ON_NODE": "4"}, [[0, 1], [0, 1]]),  # Slurm has divided them
        (1, {"SLURM_GPUS_ON_NODE": "1", "SLURM_GPUS_PER_TASK": "1"}, [[0], [0]]),
        (0, {}, [[], []]),
    ],
)
def test_tasks_of_a_node_share_its_gpus(seen, told, own):
    tasks = [slurm.step({**FOUR, "SLURM_PROCID": str(rank)}) for rank in (0, 1)]
    assert [list(range(seen))[task.gpus(seen, told)] for task in tasks] == own


def test_fewer_gpus_than_tasks_are_refused():
    task = slurm.step({**FOUR, "SLURM_PROCID": "1"})
    with pytest.raises(InputError, match="2 Slurm tasks share 1 GPU of a node"):
        task.gpus(1, {"SLURM_GPUS_ON_NODE": "1"})


@pytest.mark.parametrize(
    "changed",
    [
        {"SLURM_PROCID": "4"},
        {"SLURM_PROCID": "first"},
        {"SLURM_STEP_TASKS_PER_NODE": "2"},
        {"SLURM_STEP_NODELIST": "n[9-x]"},
    ],
)
def test_a_step_that_cannot_be_read_is_told_in_one_line(changed):
    with pytest.raises(InputError, match="valid: start it with srun, or set TF_CONFIG") as raised:
        slurm.step({**FOUR, "SLURM_PROCID": "0", **changed})
    assert "\n" not in str(raised.value)
