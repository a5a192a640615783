"""The devices of a run: one, all of this machine, several machines, or a TPU.

Several machines run the same program, each as one worker. Only the chief writes files; what it read
from a checkpoint goes to the others over the network, so they need not share a file system.
"""

import contextlib
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator

import tensorflow as tf

from xkd_keras.console import many
from xkd_keras.devices import slurm
from xkd_keras.errors import InputError, PreemptedError, first_line

_NOT_THERE = (tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.AbortedError)
_SHAPE = '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}'


def strategy(kind: str = "auto", logical_cpus: int = 1) -> tf.distribute.Strategy:
    """Return the strategy of these devices.

    Args:
        kind: auto (all GPUs of this machine), one, mirrored (all GPUs, or logical CPUs),
            multiworker (the cluster that TF_CONFIG or Slurm names) or tpu.
        logical_cpus: In how many devices to split the CPU.

    Raises:
        InputError: The devices are not there, or the environment names no cluster.
    """
    if logical_cpus > 1:
        _split_cpu(logical_cpus)
    if kind == "multiworker":
        return _multiworker()
    if kind == "tpu":
        return _tpu()
    cpus = tf.config.list_logical_devices("CPU")[:logical_cpus]
    devices = tf.config.list_logical_devices("GPU") or cpus
    if kind == "mirrored" or (kind == "auto" and len(devices) > 1):
        return _mirrored(tuple(device.name for device in devices))
    return tf.distribute.get_strategy()


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """Return the strategy of these devices: two in one process would mix up their collectives."""
    return tf.distribute.MirroredStrategy(devices)


@functools.cache
def _multiworker() -> tf.distribute.Strategy:
    """Return the strategy of the cluster that the environment names; waits for its workers."""
    if os.environ.get("TF_CONFIG"):
        check_tf_config(os.environ["TF_CONFIG"])
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    elif "SLURM_STEP_NODELIST" in os.environ:
        resolver = _slurm()
    else:
        raise InputError(
            "multiworker found neither TF_CONFIG nor a Slurm step (srun) in the environment;"
            f" valid: TF_CONFIG='{_SHAPE}' with each worker's own index.",
            argument="strategy",
        )
    cluster = resolver.cluster_spec()
    count = sum(cluster.num_tasks(kind) for kind in cluster.jobs)
    own = f"{resolver.task_type} {resolver.task_id}"
    print(f"{own}, one of {count}, is waiting for the others", file=sys.stderr, flush=True)
    try:
        with _waiting():
            return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except _NOT_THERE as error:
        raise PreemptedError(f"another worker did not start ({first_line(error)})") from None
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        reason = first_line(error)
        raise InputError(f"multiworker cannot start: {reason}", argument="strategy") from None


@contextlib.contextmanager
def _waiting() -> Iterator[None]:
    """Let Ctrl-C end at once what waits in C++, where no handler of Python's runs.

    TensorFlow puts a handler of its own for SIGTERM, that waits for somebody to ask it, and leaves
    it behind: until all workers are there, SIGTERM does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = signal.signal(signal.SIGINT, signal.SIG_DFL)
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, interrupted)
        signal.signal(signal.SIGTERM, terminated)


def _slurm() -> tf.distribute.cluster_resolver.ClusterResolver:
    step = slurm.step(os.environ)
    gpus = tf.config.list_physical_devices("GPU")
    own = gpus[step.gpus(len(gpus), os.environ)]
    if own != gpus:
        tf.config.set_visible_devices(own, "GPU")
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": step.workers}),
        task_type="worker",
        task_id=step.rank,
        num_accelerators={"GPU": len(own)},
        rpc_layer="grpc",
    )


def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, tf.errors.OpError):
        name = os.environ.get("TPU_NAME", "")
        raise InputError(
            f"no TPU was found (TPU_NAME is '{name}'); valid: tpu on a machine with a TPU and a"
            " TensorFlow built for it, with 'local' or the TPU's name in TPU_NAME; else auto.",
            argument="strategy",
        ) from None


def check_tf_config(text: str) -> None:
    """Raise InputError where TF_CONFIG does not say who the workers are and which one this is."""
    try:
        value = json.loads(text)
        cluster, task = value["cluster"], value["task"]
        hosts = cluster[task["type"]]
        fine = 0 <= int(task["index"]) < len(hosts) and set(cluster) <= {"chief", "worker"}
    except (ValueError, KeyError, TypeError):
        fine = False
    if not fine:
        raise InputError(
            f"TF_CONFIG: received '{text}'; valid: {_SHAPE}, each worker with its own index."
        )


def _split_cpu(count: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )
    except RuntimeError:  # TensorFlow has started: fine if it has these devices already
        if len(tf.config.list_logical_devices("CPU")) < count:
            raise InputError(
                f"received {count}, but TensorFlow has already started with fewer; valid: set it"
                " in a new process.",
                argument="logical_cpus",
            ) from None


def several(strategy: tf.distribute.Strategy) -> bool:
    """Whether other machines (or processes) take part."""
    collective = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return collective and strategy.extended._in_multi_worker_mode()  # not in a cluster of one


def counted(strategy: tf.distribute.Strategy) -> str:
    """Return in words how many devices there are."""
    count = many(strategy.num_replicas_in_sync, kind(strategy))
    return f"{count} of {strategy.extended._num_workers} workers" if several(strategy) else count


def kind(strategy: tf.distribute.Strategy) -> str:
    """Return what computes: "CPU", "GPU" or "TPU"."""
    if strategy is tf.distribute.get_strategy():  # none, which takes the first
        return "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return tf.DeviceSpec.from_string(strategy.extended.worker_devices[0]).device_type


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the files."""
    if not several(strategy):
        return True
    resolver = strategy.cluster_resolver
    return resolver.task_type == "chief" or (
        resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs
    )
