"""The same file in train and test, or under two labels: counted, listed, dropped, refused."""

import shutil

import pytest

from tests.folders import load
from tests.folders import picture as plain_picture
from xkd_keras import data
from xkd_keras.errors import FlagError, InputError


@pytest.fixture
def birds(tmp_path):
    """Folders for train, validation and test, without duplicates."""
    for k, (part, count) in enumerate((("train", 8), ("validation", 2), ("test", 3))):
        for j, name in enumerate(("robin", "wren")):
            for i in range(count):
                plain_picture(tmp_path / part / name / f"{i}.png", (20 * i, 100 * j, 50 * k))
    return tmp_path


def copy(root, source, target):
    shutil.copy(root / source, root / target)


def sizes(dataset):
    return [len(split) for split in (dataset.train, dataset.validation, dataset.test)]


def test_without_duplicates_nothing_is_said(birds):
    assert load(birds, duplicates="stop").duplicates == ()


def test_a_warning_lists_them_and_changes_nothing(birds):
    copy(birds, "train/robin/1.png", "test/robin/same.png")
    copy(birds, "train/wren/2.png", "train/robin/mistake.png")
    copy(birds, "train/wren/3.png", "train/wren/harmless.png")
    dataset = load(birds)
    assert sizes(dataset) == [18, 4, 7]
    assert sorted(dataset.duplicates) == [
        ("in train and test", ("train/robin/1.png", "test/robin/same.png")),
        ("labelled robin and wren", ("train/robin/mistake.png", "train/wren/2.png")),
    ]


def test_dropping_keeps_the_test_and_no_file_of_two_labels(birds):
    copy(birds, "train/robin/1.png", "test/robin/same.png")
    copy(birds, "train/wren/2.png", "train/robin/mistake.png")
    copy(birds, "validation/wren/0.png", "train/wren/again.png")
    dataset = load(birds, duplicates="drop")
    assert sizes(dataset) == [14, 4, 7]
    gone = {files for what, files in dataset.duplicates if what == "left out"}
    assert gone == {
        *(("train/robin/1.png",), ("train/robin/mistake.png",)),
        *(("train/wren/2.png",), ("train/wren/again.png",)),
    }
    assert dataset.fingerprint != load(birds).fingerprint


@pytest.mark.parametrize("parts", [False, True])
def test_dropping_a_whole_class_stops_the_run(birds, parts):
    root = birds if parts else birds / "train"
    train = birds / "train"
    shutil.copytree(train / "wren", train / "crow")  # the same files under two labels
    shutil.copytree(train / "robin", train / "rook")
    plain_picture(train / "crow" / "own.png", (9, 9, 9))
    plain_picture(train / "rook" / "own.png", (8, 8, 8))
    with pytest.raises(InputError, match="no image of classes 'robin', 'wren' is left: all") as e:
        load(root, duplicates="drop")
    assert "\n" not in str(e.value)


def test_they_stop_the_run_in_one_line(birds):
    copy(birds, "train/robin/1.png", "test/robin/same.png")
    copy(birds, "train/robin/2.png", "validation/robin/same.png")
    with pytest.raises(InputError, match=r"^duplicates: stop: folder:.* the same file is in") as e:
        load(birds, duplicates="stop")
    assert "train/robin/1.png = test/robin/same.png, and 1 more such groups" in str(e.value)
    assert "\n" not in str(e.value)


def test_a_folder_that_is_cut_here_is_looked_at_after_the_cut(tmp_path):
    for name, colour in (("robin", 10), ("wren", 200)):
        for i in range(10):
            plain_picture(tmp_path / name / f"{i}.png", (colour, colour, colour))
    (found, other) = sorted(load(tmp_path).duplicates)
    assert found[0] == other[0] == "in train and validation and test"
    assert len(found[1]) == 10
    plain_picture(tmp_path / "robin" / "a.png", (1, 2, 3))
    plain_picture(tmp_path / "wren" / "b.png", (3, 2, 1))
    for i in range(4):
        plain_picture(tmp_path / "robin" / f"r{i}.png", (1, i, 3))
        plain_picture(tmp_path / "wren" / f"w{i}.png", (3, i, 1))
    dataset = load(tmp_path, duplicates="drop")
    assert sum(sizes(dataset)) == 10  # of 5 and of 5 different contents, each once


def test_another_choice_is_told(birds):
    with pytest.raises(FlagError, match=r"duplicates: unknown value 'keep'"):
        load(birds, duplicates="keep")


def test_of_many_files_that_are_the_same_a_line_names_the_first(tmp_path):
    for name in ("robin", "wren"):
        for i in range(6):
            plain_picture(tmp_path / name / f"{i}.png", (9, 9, 9))
    dataset = load(tmp_path)
    assert len(dataset.duplicates[0][1]) == 12
    (line,) = data.about_reading(dataset)
    told = " = ".join(f"robin/{i}.png" for i in range(5)) + " and 7 more"
    assert line == f"warning: identical files, labelled robin and wren: {told}"
    with pytest.raises(InputError) as caught:
        load(tmp_path, duplicates="stop")
    assert f": {told}; valid: drop" in str(caught.value)
