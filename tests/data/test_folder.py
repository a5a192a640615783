"""A person's own images: layouts, formats, and what is said about them."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.folders import COLOURS, fill, load, picture, refused
from xkd_keras import data
from xkd_keras.data import dataset as dataset_module
from xkd_keras.data import pipeline


@pytest.mark.parametrize("options", [{}, {"cache_gib": 0}, {"augment": "inception"}])
def test_one_folder_a_class_is_cut_70_10_20(tmp_path, options):
    dataset = load(fill(tmp_path), **options)
    assert dataset.class_names == ("blue", "green", "red")
    counts = [
        np.bincount(data.labels(split)).tolist()
        for split in (dataset.train, dataset.validation, dataset.test)
    ]
    assert counts == [[7] * 3, [1] * 3, [2] * 3]
    for images, labels in data.train_batches(dataset, batch_size=7, epochs=1):
        assert images.shape == (7, 16, 16, 3)
        centre = images.numpy()[:, 8, 8]
        expected = [COLOURS[dataset.class_names[label]] for label in labels.numpy()]
        np.testing.assert_allclose(centre, expected, atol=1)


def test_a_plain_folder_holds_out_as_much_as_is_asked_for(tmp_path):
    dataset = load(fill(tmp_path), validation_fraction=0.3)
    parts = dataset.train, dataset.validation, dataset.test
    counts = [np.bincount(data.labels(part)).tolist() for part in parts]
    assert counts == [[5] * 3, [3] * 3, [2] * 3]


def test_the_three_ways_to_keep_images_agree(tmp_path):
    fill(tmp_path)
    rng = np.random.default_rng(1)
    for path in sorted(tmp_path.rglob("*.png")):
        with Image.open(path) as image:
            size = image.size[::-1]
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
    # 30 images of 16 * 16 * 3 bytes do not fit 1e-5 GiB; their files, of some 800 bytes, neither.
    kinds = [load(tmp_path, augment="none", cache_gib=gib) for gib in (2, 0)]
    kinds.append(load(tmp_path, augment="inception"))
    assert len({type(kind.train.source) for kind in kinds}) == 3
    assert len({kind.fingerprint for kind in kinds}) == 1
    views = [
        next(iter(data.eval_batches(kind.test, dataset=kinds[0], batch_size=6)))[0]
        for kind in (kinds[0], kinds[1])
    ]
    np.testing.assert_array_equal(views[0], views[1])


@pytest.mark.parametrize("validation", ["validation", "val", None])
def test_folders_for_train_and_test(tmp_path, validation):
    fill(tmp_path / "train")
    fill(tmp_path / "test", 4)
    if validation:
        fill(tmp_path / validation, 3)
    dataset = load(tmp_path)
    sizes = [len(split) for split in (dataset.train, dataset.validation, dataset.test)]
    assert sizes == ([30, 9, 12] if validation else [27, 3, 12])


def test_every_format_becomes_rgb(tmp_path):
    fill(tmp_path)
    for name, colour in COLOURS.items():
        folder = tmp_path / name
        for suffix in ("jpg", "bmp", "gif", "webp", "JPEG"):
            picture(folder / f"plain.{suffix}", colour)
        for mode, suffix in (("L", "png"), ("RGBA", "png"), ("LA", "png"), ("CMYK", "jpg")):
            picture(folder / f"{mode}.{suffix}", colour, mode=mode)
        (folder / "notes.txt").write_text("not an image")
        (folder / ".DS_Store").write_bytes(b"\0")
        (folder / ".hidden.png").write_bytes(b"\0")
    dataset = load(tmp_path)
    splits = (dataset.train, dataset.validation, dataset.test)
    assert sum(map(len, splits)) == 3 * (10 + 9)
    for split in splits:
        pixels = data.images(split, range(len(split)), dataset)[:, 8, 8].astype(int)
        for pixel, label in zip(pixels, data.labels(split), strict=True):
            colour = np.array(COLOURS[dataset.class_names[label]])
            grey = np.full(3, round(colour @ [0.299, 0.587, 0.114]))
            assert min(abs(pixel - colour).max(), abs(pixel - grey).max()) <= 6


def test_statistics_are_those_of_numpy_and_need_few_pixels_at_a_time(tmp_path, monkeypatch):
    fill(tmp_path)
    rng = np.random.default_rng(1)
    for path in sorted(tmp_path.rglob("*.png")):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    sizes, batches = [], pipeline.eval_batches

    def counted(split, *, dataset, batch_size):
        sizes.append(batch_size)
        return batches(split, dataset=dataset, batch_size=batch_size)

    monkeypatch.setattr(pipeline, "eval_batches", counted)
    found = []
    for most in (2**22, 4 * 40 * 50, 1):
        monkeypatch.setattr(dataset_module, "_PIXELS", most)
        found.append(data.load(f"folder:{tmp_path}", image_size="40x50"))
    assert sizes == [256, 4, 1]
    seen = data.images(found[0].train, range(len(found[0].train)), found[0]).reshape(-1, 3)
    np.testing.assert_allclose(found[0].mean, seen.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(found[0].std, seen.std(0, dtype=np.float64), rtol=1e-9)
    assert len({(each.mean, each.std) for each in found}) == 1


def test_unusable_layouts_are_explained(tmp_path):
    refused(tmp_path, r"contains no folders with images")
    fill(tmp_path / "one", classes=["red"])
    refused(tmp_path / "one", r"has 1 class .*\(red\); valid: two or more")
    fill(tmp_path / "few")
    (tmp_path / "few" / "red" / "9.png").unlink()
    for i in range(7):
        (tmp_path / "few" / "red" / f"{i}.png").unlink()
    refused(tmp_path / "few", r"class 'red' has 2 images, too few to divide into 3 splits")
    fill(tmp_path / "hollow")
    (tmp_path / "hollow" / "violet").mkdir()
    refused(tmp_path / "hollow", r"class 'violet' contains no images")
    fill(tmp_path / "half" / "train")
    (tmp_path / "half" / "train").rename(tmp_path / "half" / "test")
    refused(tmp_path / "half", r"folder 'test' but no folder 'train'")
    fill(tmp_path / "loose" / "train")
    picture(tmp_path / "loose" / "test" / "1.png", COLOURS["red"])
    refused(tmp_path / "loose", r"'test' contains no folders of classes")
    fill(tmp_path / "strange" / "train", classes=["red", "blue"])
    fill(tmp_path / "strange" / "test")
    refused(tmp_path / "strange", r"class 'green' of test is not among those of train: blue, red")


def test_classes_that_are_too_small_are_told_together_before_any_file_is_decoded(tmp_path):
    fill(tmp_path)
    for i in range(7):
        for place in range(1 + i % 2):
            (tmp_path / f"rare{i}").mkdir(exist_ok=True)
            (tmp_path / f"rare{i}/{place}.png").write_bytes(b"not decoded")
    line = (
        r"class 'rare0' has 1 image, 'rare1' has 2 images, 'rare2' has 1 image and 4 more, too few"
        r" to divide into 3 splits; valid: 3 or more per class"
    )
    refused(tmp_path, line)
    fill(tmp_path / "parted/train", 1)
    fill(tmp_path / "parted/test", 1)
    refused(tmp_path / "parted", r"'red' has 1 image, too few to divide into 2 splits")


def test_a_class_that_is_too_small_without_its_damaged_files_is_told(tmp_path):
    for path in sorted((fill(tmp_path) / "red").iterdir())[:8]:
        path.write_bytes(b"torn")
    line = r"class 'red' has 2 readable images, too few to divide into 3 splits"
    refused(tmp_path, line, skip_unreadable=True)


@pytest.mark.parametrize(
    ("parts", "counts"), [(("train",), [14, 2, 4]), (("train", "valid"), [16, 10, 4])]
)
def test_a_test_that_is_missing_is_a_fifth_of_train(tmp_path, parts, counts):
    for part in parts:
        fill(tmp_path / part, 20 if part == "train" else 10)
    dataset = load(tmp_path, validation_fraction=0.1)
    splits = (dataset.train, dataset.validation, dataset.test)
    assert [np.bincount(data.labels(split)).tolist() for split in splits] == [
        [n] * 3 for n in counts
    ]
    names = [{dataset.train.source.names[i] for i in split.positions} for split in splits]
    assert len(set.union(*names)) == 3 * sum(counts)
    assert any("There is no folder 'test'" in note for note in dataset.notes)


def test_most_images_being_enlarged_is_told_where_nobody_asked_for_it(tmp_path):
    fill(tmp_path, 20)  # shorter sides of 6 to 17 pixels
    for options in ({}, {"cache_gib": 0}):
        (note,) = data.load(f"folder:{tmp_path}", **options).notes
        assert (
            "a side of 12 pixels or less and are enlarged to 64; training with an image_size of 32 "
            in note
        )
        assert "would be 4 times as fast" in note
    assert data.load(f"folder:{tmp_path}", image_size=64).notes == ()


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path)
    (tmp_path / "red").rename(tmp_path / "train")
    assert load(tmp_path).class_names == ("blue", "green", "train")


def test_a_class_called_train_may_have_hidden_folders(tmp_path):
    fill(tmp_path)
    (tmp_path / "red").rename(tmp_path / "train")
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    assert load(tmp_path).class_names == ("blue", "green", "train")


@pytest.mark.parametrize("end", ["\n", "\r"])
def test_a_class_whose_name_has_two_lines_is_refused_before_training(tmp_path, end):
    fill(tmp_path)
    (tmp_path / "red").rename(tmp_path / f"dark{end}red")
    refused(tmp_path, r"the name of class 'dark\\[nr]red' contains a line break")


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    fill(tmp_path / "pets")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(data.load("folder:~/pets", image_size=16).train) == 21


def test_fingerprint_follows_the_content_and_nothing_else(tmp_path):
    original = load(fill(tmp_path / "a")).fingerprint
    assert load(fill(tmp_path / "b")).fingerprint == original  # another place
    (tmp_path / "b" / "red" / "notes.txt").write_text("not an image")
    assert load(tmp_path / "b", seed=3, augment="inception").fingerprint == original
    path = tmp_path / "b" / "red" / "4.png"
    image = Image.open(io.BytesIO(path.read_bytes()))
    image.putpixel((0, 0), (0, 0, 0))
    image.save(path)
    assert load(tmp_path / "b").fingerprint != original
    picture(tmp_path / "a" / "red" / "new.png", COLOURS["red"])
    assert load(tmp_path / "a").fingerprint != original
