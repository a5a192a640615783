"""What is said of the devices of a strategy."""

import tensorflow as tf

from xkd_keras.devices import cluster


def test_devices_are_counted_by_their_kind(two_cpus):
    assert cluster.counted(tf.distribute.get_strategy()) == "1 CPU"
    assert cluster.counted(two_cpus) == "2 CPUs"
    assert cluster.counted(tf.distribute.OneDeviceStrategy("GPU:0")) == "1 GPU"
