"""Shared by all tests: nothing is downloaded, TensorFlow keeps quiet and has two CPU devices."""

import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

from xkd_keras.devices import start_up

start_up.load_tensorflow(wants_logs=False)  # pytest-xdist shows what its processes print

import keras
import tensorflow as tf

# Before TensorFlow starts: what runs under MirroredStrategy needs more than one device.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same seed, whatever ran before it."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def two_cpus():
    """A strategy of two replicas: one for all, as two strategies' collectives get the same keys."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where TFDS prepares the digits, once for all tests."""
    return tmp_path_factory.mktemp("tfds")
