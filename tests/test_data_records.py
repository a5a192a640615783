"""Streaming of TFRecord files: who is read, how often, in which order."""

import numpy as np
import pytest
import tensorflow as tf

from xkd_keras.data.records import Records

LENGTHS = (7, 1, 5, 30, 2)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    directory, number, files = tmp_path_factory.mktemp("records"), 0, []
    for length in LENGTHS:
        files.append(str(directory / f"{len(files)}.tfrecord"))
        with tf.io.TFRecordWriter(files[-1]) as writer:
            for _ in range(length):
                writer.write(f"record {number}")
                number += 1
    return Records(files, LENGTHS, None, np.zeros(sum(LENGTHS)))


def _read(handles):
    return [(int(index), record.numpy().decode()) for index, record in handles]


@pytest.mark.parametrize("wanted", [[0], [44], [6, 7, 8, 13], list(range(45)), []])
def test_ordered_gives_exactly_the_wanted(records, wanted):
    handles = records.ordered(np.array(wanted, np.int64))
    assert _read(handles) == [(i, f"record {i}") for i in wanted]


def test_shuffled_gives_each_wanted_once_in_an_order_of_the_key(records):
    wanted = tf.constant(range(1, 45, 2), tf.int64)
    orders = [_read(records.shuffled(wanted, [key, 0])) for key in (1, 1, 2)]
    assert sorted(orders[0]) == [(i, f"record {i}") for i in range(1, 45, 2)]
    assert orders[0] == orders[1]
    assert sorted(orders[2]) == sorted(orders[0]) != orders[2]
    assert orders[2] != orders[0]
