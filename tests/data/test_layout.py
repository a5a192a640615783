"""What the folders of a person's pictures mean: parts and classes."""

import shutil

import pytest

from tests.folders import COLOURS, fill, load, picture, refused, sizes
from xkd_keras import data


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("Train", "Valid", "Test"),
        ("TRAIN", "VAL", "TEST"),
        ("training", "dev", "testing"),
        ("Training", "Validation", "Testing"),
    ],
)
def test_parts_are_known_by_any_usual_word_in_any_case(tmp_path, train, validation, test):
    fill(tmp_path / train)
    fill(tmp_path / validation, 3)
    fill(tmp_path / test, 4)
    dataset = load(tmp_path)
    assert dataset.class_names == ("blue", "green", "red")
    assert sizes(dataset) == [30, 9, 12]
    assert dataset.notes == ()


def test_parts_are_never_two_classes(tmp_path):
    for part in ("Train", "Test"):
        for i in range(5):
            picture(tmp_path / part / f"{i}.png", COLOURS["red"])
    refused(tmp_path, r"'Test', 'Train' contain no folders of classes")


def test_parts_without_classes_are_no_classes_beside_another_folder_either(tmp_path):
    for folder in ("train", "test", "extra"):
        for i in range(5):
            picture(tmp_path / folder / f"{i}.png", COLOURS["red"])
    refused(tmp_path, r"'test', 'train' are names of splits.* classes beside 'extra', rename")


def test_parts_beside_a_folder_that_may_be_the_training_one_are_no_classes(tmp_path):
    for folder in ("Test", "Val", "images"):
        fill(tmp_path / folder, 4)
    refused(
        tmp_path,
        r"'Test', 'Val' .* no folder for training contains .*: PATH/train/CLASS .* 'images'",
    )


@pytest.mark.parametrize("part", ["train", "test", "val"])
def test_a_part_without_folders_of_classes_is_refused(tmp_path, part):
    for folder in ("train", "test", "val"):
        fill(tmp_path / folder, 4)
    for path in list((tmp_path / part).rglob("*.png")):
        path.rename(tmp_path / part / f"{path.parent.name}-{path.name}")
    for folder in COLOURS:
        (tmp_path / part / folder).rmdir()
    refused(tmp_path, f"'{part}' contains no folders of classes")


def test_a_part_within_itself_is_looked_through(tmp_path):
    fill(tmp_path / "train" / "train")
    fill(tmp_path / "Test" / "testing", 2)
    dataset = load(tmp_path)
    assert dataset.class_names == ("blue", "green", "red")
    assert sizes(dataset) == [27, 3, 6]
    assert dataset.notes == (
        "'train' contains nothing but 'train', so that folder was read.",
        "'Test' contains nothing but 'testing', so that folder was read.",
    )


def test_a_part_within_itself_without_classes_is_no_class(tmp_path):
    for part in ("train", "test"):
        picture(tmp_path / part / part / "0.png", COLOURS["red"])
    refused(tmp_path, r"'test', 'train' contain no folders of classes")


def test_two_folders_for_one_part_are_refused(tmp_path):
    for part in ("train", "test", "val", "Valid"):
        fill(tmp_path / part, 2)
    refused(tmp_path, r"'Valid', 'val' are both for validation")


def test_a_class_may_be_called_test_beside_others(tmp_path):
    fill(tmp_path)
    (tmp_path / "red").rename(tmp_path / "test")
    picture(tmp_path / "test" / "2020" / "x.png", COLOURS["red"])
    dataset = load(tmp_path)
    assert dataset.class_names == ("blue", "green", "test")


def test_what_lies_beside_the_parts_is_said_not_to_be_used(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", 2)
    fill(tmp_path / "drafts", 1)
    assert load(tmp_path).notes == ("Not used beside 'test': 'drafts'.",)


def test_classes_whose_names_are_nearly_the_same_are_told(tmp_path):
    fill(tmp_path)
    for name in ("Red", "sea_gull", "Sea-gull", "1-5", "15"):
        (tmp_path / name).mkdir()
        for i in range(7):
            picture(tmp_path / name / f"{i}.png", (40 * i, 7 * len(name), ord(name[0])))
    dataset = load(tmp_path)
    assert len(dataset.class_names) == 8
    assert dataset.notes == (
        "'Red', 'red' are 2 different classes, though their names are nearly the same.",
        "'Sea-gull', 'sea_gull' are 2 different classes, though their names are nearly the same.",
    )


@pytest.mark.parametrize(
    ("folders", "named"),
    [
        (("seg_train/seg_train", "seg_test/seg_test", "seg_pred"), "'seg_test', 'seg_train'"),
        (("train_another", "test", "test_another"), "'test', 'test_another', 'train_another'"),
        (("training_set", "test_set"), "'test_set', 'training_set'"),
    ],
)
def test_parts_with_names_of_their_own_are_not_taken_for_classes(tmp_path, folders, named):
    for folder in folders:
        fill(tmp_path / folder, 4)
    if "seg_pred" in folders:
        shutil.rmtree(tmp_path / "seg_pred")
        picture(tmp_path / "seg_pred/1.png", COLOURS["red"])
    line = rf"{named} look like splits, .* \('blue', 'green', 'red'\); valid: PATH/train/CLASS"
    refused(tmp_path, line)


@pytest.mark.parametrize(
    "classes", [("test_negative", "test_positive"), ("freight_train", "passenger_train")]
)
def test_classes_called_after_one_part_may_hold_the_same_folders(tmp_path, classes):
    for i, folder in enumerate(classes):
        fill(tmp_path / folder, 4 + i)
    assert load(tmp_path).class_names == classes


def test_classes_called_after_parts_of_other_things_are_classes(tmp_path):
    for folder in ("test_tube/day", "test_tube/night", "train_station/day", "bus/day"):
        for i in range(4):
            picture(tmp_path / folder / f"{i}.png", (20 * i, len(folder), ord(folder[-1])))
    assert load(tmp_path).class_names == ("bus", "test_tube", "train_station")


def test_a_name_of_composed_or_decomposed_letters_is_one_class(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    fill(tmp_path / "one")
    fill(tmp_path / "two")
    (tmp_path / "one/red").rename(tmp_path / "one" / composed)
    (tmp_path / "two/red").rename(tmp_path / "two" / decomposed)
    one, two = load(tmp_path / "one"), load(tmp_path / "two")
    assert one.class_names == two.class_names == ("blue", composed, "green")
    assert sizes(one) == sizes(two)
    for folder in (tmp_path / "one" / composed, tmp_path / "two" / decomposed):
        assert len(load(folder, class_names=one.class_names).test) == 10  # a class by itself


@pytest.mark.parametrize(
    ("run", "other", "split", "expected"),
    [
        ("birds", "birds/train", "all", True),
        ("birds", "birds/test", "all", False),
        ("birds", "birds/Testing/robin", "all", False),
        ("birds/train", "birds", "test", False),
        ("birds/train", "birds", "all", True),
        ("birds", "birds2", "all", False),
        ("birds", "link", "all", True),
        ("birds", "birds/new", "all", False),  # beside the parts: of no use to the run
        ("flat", "flat/robin", "all", True),
    ],
)
def test_a_folder_in_that_of_a_run_or_around_it_holds_its_training_images(
    tmp_path, run, other, split, expected
):
    folders = ("birds/train/robin", "birds/test/robin", "birds/new/robin", "birds2")
    for name in (*folders, "flat/robin", "flat/wren"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "birds/train")
    own, theirs = (f"folder:{tmp_path}/{name}" for name in (run, other))
    assert data.holds_training_images(own, theirs, split) is expected
    assert data.holds_training_images("digits", theirs, split) is False


@pytest.mark.parametrize("layout", ["wren", ".", "wrapped/wren", "Test/wren"])
def test_one_image_of_one_known_class_is_enough_to_evaluate(tmp_path, layout):
    root = tmp_path / "wren"
    picture(root / layout / "only.png", (9, 8, 7))
    dataset = load(root, class_names=("robin", "wren"))
    assert dataset.class_names == ("robin", "wren")
    assert sizes(dataset) == [0, 0, 1]
    assert data.labels(dataset.test).tolist() == [1]
    assert (data.images(dataset.test, [0], dataset) == [9, 8, 7]).all()


def test_an_unknown_class_is_named_before_anything_is_decoded(tmp_path):
    fill(tmp_path)
    refused(
        tmp_path,
        r"its class 'blue' is unknown to the run; valid: red",
        class_names=("red", "green"),
    )


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["TEST/red", "train/red"], True),
        (["red"], False),
        (["w/Testing/red"], True),
        (["test/test/red", "train/train/red"], True),
        (["test/test"], False),
    ],
)
def test_whether_there_is_a_part_for_the_test(tmp_path, folders, expected):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    assert data.has_test(tmp_path) is expected
