"""Shared by all tests: nothing is downloaded, TensorFlow keeps quiet and has two CPU devices."""

import dataclasses
import functools
import gc
import json
import os
import shutil
import signal

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
from absl import logging

from xkd_keras.devices import start_up

start_up.load_tensorflow(wants_logs=False)  # pytest-xdist shows what its processes print

import keras
import tensorflow as tf
from tensorflow.python.eager import context  # only there one can seed and keep what is instantiated

from tests import once, shipped_files, small_runs
from xkd_keras import data, train
from xkd_keras.data import tfds
from xkd_keras.ship import artifacts

# Before TensorFlow starts: what runs under MirroredStrategy needs more than one device.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores
    tf.config.threading.set_intra_op_parallelism_threads(1)

gc.freeze()  # what was imported stays: half a million objects that are no garbage
gc.set_threshold(100_000, 20, 50)  # tracing a graph makes many objects, most of which stay


# Grappler optimizes graphs, which is waste for one that runs once: it took half of the time of the
# tests of data. The commands that tests start keep it.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(autouse=True, scope="module")
def _own_kernels():
    """A file of tests begins without the functions that other files have instantiated."""
    context.context().clear_kernel_cache()


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same seed and hears warnings, whatever ran before it.

    To seed, TensorFlow forgets all functions that it has instantiated, because of stateful random
    operations. There are none here, and the decoder of pictures takes 0.2 s to instantiate.
    """
    logging.set_verbosity(logging.WARNING)  # commands that ran in this process want errors alone
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context.pywrap_tfe, "TFE_ContextClearCaches", lambda _: None)
        keras.utils.set_random_seed(0)
    yield
    # A signal that stays blocked is lost to the tests that follow, and to the processes they start.
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.fixture(scope="session")
def two_cpus():
    """A strategy of two replicas: one for all, as two strategies' collectives get the same keys."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Where all processes of a test run keep what is made once."""
    return once.directory(tmp_path_factory)


@pytest.fixture(scope="session")
def data_dir(shared):
    """Where TFDS has prepared the digits; nobody may write there."""
    return once.made(shared, "tfds", lambda path: data.load("digits", data_dir=str(path)))


@pytest.fixture(scope="session", autouse=True)
def _prepared_digits_are_read_once(shared):
    """What is in `data_dir` never changes, so a process need not read it again for every run."""
    read, known = tfds.read, functools.lru_cache(maxsize=8)(tfds.read)
    home = str(shared / "tfds")

    def remembered(name, request):
        return (known if request.data_dir == home else read)(name, request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds, "read", remembered)
        yield


@pytest.fixture(scope="session")
def finished_run(shared, data_dir):
    """A finished run of two peers, the second of which counts twice: its configuration.

    Tests that write into it take a copy; `finished.json` beside it is what training returned.
    """

    def train_and_keep(path):
        returned = train.train_and_evaluate(small_runs.configuration(path, data_dir))
        (shared / "finished.json").write_text(json.dumps(returned))

    return small_runs.configuration(once.made(shared, "finished", train_and_keep), data_dir)


@pytest.fixture(scope="session")
def exported_run(shared, finished_run):
    """A copy of the finished run with everything that can be exported of it: its configuration."""

    def copy_and_export(path):
        shutil.copytree(finished_run.run_dir, path)
        with pytest.MonkeyPatch.context() as patch:
            shipped_files.say_latency(patch)
            artifacts.export(path)

    path = once.made(shared, "exported", copy_and_export)
    return dataclasses.replace(finished_run, run_dir=str(path))


@pytest.fixture
def unmeasured(monkeypatch):
    """Export in words alone: latency is said, not measured by a process, and nothing is drawn."""
    shipped_files.only_words(monkeypatch)
