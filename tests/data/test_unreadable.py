"""Files of a person's folder that cannot be read, and the check that finds them."""

import errno
import os
import re
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.folders import COLOURS, fill, load, picture, refused
from tests.pictures import READABLE
from xkd_keras import console, data
from xkd_keras.data import decoding, preparation
from xkd_keras.errors import InputError


def damage(root):
    (root / "blue" / "3.png").write_bytes(b"")
    half = (root / "green" / "5.png").read_bytes()
    (root / "green" / "5.png").write_bytes(half[: len(half) // 2])
    (root / "red" / "fake.jpg").write_text("<html>404</html>")


def test_damaged_files_stop_the_run_or_are_listed(tmp_path):
    damage(fill(tmp_path))
    refused(
        tmp_path,
        r"blue/3\.png cannot be read \(empty file\), and 2 more cannot be read; skip_unreadable",
    )
    dataset = load(tmp_path, skip_unreadable=True)
    assert [file for file, _ in dataset.skipped] == ["blue/3.png", "green/5.png", "red/fake.jpg"]
    assert all(reason and "\n" not in reason for _, reason in dataset.skipped)
    assert sum(len(s) for s in (dataset.train, dataset.validation, dataset.test)) == 28


def test_a_name_that_is_not_utf_8_stops_the_run_or_is_listed(tmp_path):
    fill(tmp_path)
    (tmp_path / "red" / "3.png").rename(tmp_path / "red" / "caf\udce9.png")  # on disk: Latin-1
    line = r"red/caf\\udce9\.png cannot be read \(its path is not UTF-8\); skip_unreadable leaves"
    refused(tmp_path, line)
    dataset = load(tmp_path, skip_unreadable=True)
    assert dataset.skipped == (("red/caf\\udce9.png", "its path is not UTF-8"),)
    assert sum(len(s) for s in (dataset.train, dataset.validation, dataset.test)) == 29


def test_a_class_without_a_readable_image_stops_the_run_though_files_are_skipped(tmp_path):
    fill(tmp_path)
    for path in (tmp_path / "green").iterdir():
        path.write_bytes(b"\0\0\0\x18ftypheic")
    line = r"no image of class 'green' is left: all are unreadable, or copies of others"
    refused(tmp_path, line, skip_unreadable=True)


def test_what_tensorflow_cannot_read_is_named(tmp_path):
    fill(tmp_path)
    picture(tmp_path / "red" / "scan.tif", COLOURS["red"])
    refused(tmp_path, r"red/scan\.tif cannot be read \(Unknown image file format.*leaves it out")


def test_a_compressed_bmp_is_not_misread(tmp_path):
    fill(tmp_path)
    path = tmp_path / "red" / "packed.bmp"
    picture(path, COLOURS["red"], mode="P")
    content = bytearray(path.read_bytes())
    content[30] = 1  # run-length encoding
    path.write_bytes(content)
    refused(tmp_path, r"red/packed\.bmp cannot be read \(.*a BMP that is compressed.*leaves it out")


def test_a_long_check_shows_how_far_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(console.Line, "SECONDS_LOG", -1)
    load(fill(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 30
    assert re.fullmatch(r"checking images  7/30  \d+/s  0:\d\d left", lines[6])


def test_files_wait_for_threads_some_at_a_time_and_stay_in_order(tmp_path, monkeypatch):
    whole = load(fill(tmp_path))
    monkeypatch.setattr(decoding, "_WAITING", 7)
    again = load(tmp_path)
    assert again.fingerprint == whole.fingerprint
    one, two = (data.images(each.train, range(len(each.train)), each) for each in (whole, again))
    np.testing.assert_array_equal(one, two)


def test_after_ctrl_c_no_more_files_are_checked(tmp_path, monkeypatch):
    read = []

    def decode(encoded):
        read.append(encoded)
        time.sleep(0.01)
        return tf.zeros([8, 8, 3], tf.uint8)

    def pressed(results, *_):
        next(results)
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "decode", decode)
    monkeypatch.setattr(console, "counted", pressed)
    with pytest.raises(KeyboardInterrupt):
        load(fill(tmp_path, 20), cache_gib=0)
    assert 0 < len(read) < 60


def test_a_disk_that_does_not_answer_is_no_damaged_file(tmp_path, monkeypatch):
    fill(tmp_path)
    read = type(tmp_path).read_bytes

    def read_bytes(path):
        if path.name == "3.png" and path.parent.name == "red":
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(path)

    monkeypatch.setattr(type(tmp_path), "read_bytes", read_bytes)
    for skip in (False, True):
        with pytest.raises(InputError, match=r"red/3\.png: Stale file handle; .* try again"):
            load(tmp_path, skip_unreadable=skip)


@pytest.mark.parametrize("skip", [False, True])
def test_images_in_memory_are_those_of_their_labels_whatever_was_left_out(tmp_path, skip):
    fill(tmp_path)
    if skip:
        (tmp_path / "blue/0.png").write_bytes(b"torn")
    dataset = load(tmp_path, skip_unreadable=True)
    for split in (dataset.train, dataset.validation, dataset.test):
        pixels = data.images(split, range(len(split)), dataset)
        means = pixels.reshape(len(split), -1, 3).mean(1)
        strongest = [dataset.class_names[label] for label in data.labels(split)]
        for mean, name in zip(means, strongest, strict=True):
            near = min(COLOURS, key=lambda c: np.abs(mean - COLOURS[c]).sum())
            assert near == name


@pytest.mark.parametrize(
    ("error", "damaged"),
    [
        (tf.errors.NotFoundError(None, None, "/x/a.jpg; No such file or directory"), True),
        (tf.errors.PermissionDeniedError(None, None, "/x/a.jpg; Permission denied"), True),
        (tf.errors.InvalidArgumentError(None, None, "Invalid PNG data [Op:DecodeImage]"), True),
        (tf.errors.InvalidArgumentError(None, None, "shapes do not match"), False),
    ],
)
def test_a_file_of_a_folder_that_fails_later_is_told_without_what_is_of_tfds(error, damaged):
    kind = InputError if damaged else tf.errors.InvalidArgumentError
    with pytest.raises(kind) as caught, data.readable("folder:birds"):
        raise error
    told = "folder:birds: a file is damaged or gone" in str(caught.value)
    assert told == damaged
    assert "data_dir" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (tf.errors.AbortedError, errno.ESTALE),
        (tf.errors.UnknownError, errno.EIO),
        (tf.errors.DeadlineExceededError, errno.ETIMEDOUT),
        (tf.errors.UnavailableError, errno.EHOSTDOWN),
    ],
)
def test_a_disk_that_goes_away_during_the_run_is_no_damaged_file(kind, code):
    text = f"{{{{function_node __wrapped__x}}}} /x/a.jpg; {os.strerror(code)} [Op:IteratorGetNext]"
    with pytest.raises(InputError) as caught, data.readable("folder:birds"):
        raise kind(None, None, text)
    assert str(caught.value) == (
        f"dataset: folder:birds: /x/a.jpg; {os.strerror(code)}; the file may be intact, so run the"
        " same command again."
    )


def test_another_workers_silence_is_no_file():
    with pytest.raises(tf.errors.UnavailableError), data.readable("folder:birds"):
        raise tf.errors.UnavailableError(None, None, "connect: Connection timed out")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_a_file_of_any_format_that_is_half_rewritten_during_the_run_is_told(tmp_path, share):
    kinds = ["jpeg turned 6", "png turned", "moving gif", "bmp", "moving webp", "cmyk jpeg"]
    contents = [READABLE[kind].content for kind in kinds]
    path = tmp_path / "changed"
    decode = tf.function(lambda name: preparation.decode(tf.io.read_file(name)), autograph=False)
    told = []
    for content in contents:
        path.write_bytes(content[: int(share * len(content))])
        try:
            with data.readable("folder:birds"):
                decode(tf.constant(str(path)))
        except InputError as error:
            told.append(str(error))
    assert len(told) >= 3  # (what a picture ends with may be missing unseen)
    assert all("a file is damaged or gone" in line and "\n" not in line for line in told)
