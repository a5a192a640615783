"""Streaming of TFRecord files: who is read, how often, in which order."""

import itertools

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


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("wanted", [range(45), range(1, 45, 2)])
def test_workers_read_each_wanted_once_together_and_equally_many(records, count, wanted):
    positions = tf.constant(list(wanted), tf.int64)
    parts = [_read(records.shuffled(positions, [3, 0], (i, count))) for i in range(count)]
    assert sorted(itertools.chain(*parts)) == [(i, f"record {i}") for i in wanted]
    assert min(map(len, parts)) == len(wanted) // count


def test_a_worker_opens_only_files_of_its_own_but_for_the_ends(records):
    files = []
    for i in range(3):
        parts = records._parts(tf.range(45, dtype=tf.int64), tf.range(5), (i, 3))
        files.append([file.numpy().decode()[-10] for file, *_ in parts])
    assert files == [["0", "1", "2", "3"], ["3"], ["3", "4"]]  # 15 records each, file after file


def test_what_follows_the_last_wanted_record_of_a_file_is_not_read(tmp_path):
    files = [str(tmp_path / name) for name in "ab"]
    for name in files:
        with tf.io.TFRecordWriter(name) as writer:
            for i in range(4):
                writer.write(f"record {i}")
        with open(name, "r+b") as file:
            file.truncate(file.seek(0, 2) - 5)  # in the fourth
    records = Records(files, (4, 4), None, np.zeros(8))
    assert [index for index, _ in _read(records.ordered(np.array([1, 2, 4, 6])))] == [1, 2, 4, 6]
    with pytest.raises(tf.errors.DataLossError):
        _read(records.ordered(np.array([1, 3, 4])))


def test_a_sample_is_of_few_files_and_of_the_seed():
    """As ImageNet's 1,024 files of 1,251 images: 16 of them are read, a fifth of each."""
    records = Records([f"{i}" for i in range(1024)], [1251] * 1024, None, np.zeros(0))
    positions = np.arange(0, 1024 * 1251, 2)
    chosen = records.sample(positions, 4096, seed=0)
    assert len(chosen) == 4096
    assert (np.diff(chosen) > 0).all()
    files, counts = np.unique(positions[chosen] // 1251, return_counts=True)
    assert counts.tolist() == [256] * 16
    assert (positions[chosen] % 1251).max() <= 512
    np.testing.assert_array_equal(records.sample(positions, 4096, seed=0), chosen)
    assert set(files) != set(positions[records.sample(positions, 4096, seed=1)] // 1251)
    few = Records(["a", "b"], [3, 9], None, np.zeros(0))
    assert few.sample(np.arange(12), 8, seed=0).tolist() in ([0, 1, 2, 3, 4, 5, 6],)


@pytest.mark.parametrize(("kilobytes", "block"), [(1, 2048), (128, 2048), (1024, 256), (2**20, 1)])
def test_fewer_large_records_are_shuffled_together(tmp_path, kilobytes, block):
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(4 * kilobytes * 1024)  # no disk is written
    assert Records([str(path)], [4], None, np.zeros(4))._block() == block
