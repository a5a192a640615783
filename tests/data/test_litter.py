"""What lies among a person's pictures: links, hidden folders, wrappers, what programs leave."""

import pytest

from tests.folders import COLOURS, fill, load, picture, refused, sizes


def test_files_among_the_pictures_that_are_none_by_name_are_said_not_to_be_used(tmp_path):
    expected = load(fill(tmp_path / "birds")).fingerprint
    for name in ("notes.txt", "more/a.xml", "more/b.xml", "without_an_ending"):
        path = tmp_path / "birds" / "red" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("?")
    found = load(tmp_path / "birds")
    assert found.fingerprint == expected
    assert found.notes == (
        "Not used, because their names have no image extension: 'red/more/a.xml',"
        " 'red/more/b.xml', 'red/notes.txt' and 1 more.",
    )


def test_links_to_folders_are_followed_and_loops_are_not(tmp_path):
    fill(tmp_path / "birds")
    for i in range(7):
        picture(tmp_path / f"disk/{i}.png", COLOURS["red"])
    (tmp_path / "birds/red/more").symlink_to(tmp_path / "disk")
    (tmp_path / "birds/red/again").symlink_to(tmp_path / "birds/red")
    (tmp_path / "birds/grey").symlink_to(tmp_path / "disk")
    dataset = load(tmp_path / "birds")
    assert dataset.class_names == ("blue", "green", "grey", "red")
    assert sum(sizes(dataset)) == 3 * 10 + 7 + 7


@pytest.mark.parametrize("options", [{}, {"cache_gib": 0}, {"augment": "inception"}])
def test_a_link_to_nothing_is_an_image_that_cannot_be_read_or_a_class_that_is_not_there(
    tmp_path, options
):
    fill(tmp_path)
    (tmp_path / "red/lost.png").symlink_to(tmp_path / "gone/lost.png")
    line = r"red/lost\.png cannot be read \(.*\); skip_unreadable leaves it out"
    refused(tmp_path, line, **options)
    assert len(load(tmp_path, skip_unreadable=True, **options).skipped) == 1
    (tmp_path / "grey").symlink_to(tmp_path / "gone")
    for skip in (False, True):
        refused(
            tmp_path, r"'grey' is a link to '.*gone', which does not exist", skip_unreadable=skip
        )


@pytest.mark.parametrize(
    "litter", ["@eaDir/1.png/SYNOPHOTO_THUMB_XL.png", "#recycle/a.png", "lost+found/b.png"]
)
def test_what_disks_and_their_boxes_write_is_no_image_and_no_class(tmp_path, litter):
    expected = load(fill(tmp_path)).fingerprint
    picture(tmp_path / "red" / litter, COLOURS["blue"])
    picture(tmp_path / litter, COLOURS["blue"])
    assert load(tmp_path).fingerprint == expected


def test_a_hidden_folder_that_nobody_may_read_is_not_looked_into(tmp_path, monkeypatch):
    fill(tmp_path)
    (tmp_path / ".Trashes").mkdir()
    look = type(tmp_path).iterdir

    def iterdir(path):
        if path.name == ".Trashes":
            raise PermissionError(13, "Permission denied")
        return look(path)

    monkeypatch.setattr(type(tmp_path), "iterdir", iterdir)
    assert load(tmp_path).class_names == ("blue", "green", "red")


def test_a_link_to_nothing_in_a_class_called_after_a_part_is_as_in_any_class(tmp_path):
    fill(tmp_path)
    (tmp_path / "red").rename(tmp_path / "test_tube")
    (tmp_path / "test_tube/old").symlink_to(tmp_path / "nowhere")
    assert load(tmp_path).class_names == ("blue", "green", "test_tube")


def test_a_hidden_folder_of_images_is_said_not_to_be_used(tmp_path):
    fill(tmp_path)
    picture(tmp_path / ".grey/a.png", COLOURS["red"])
    (tmp_path / ".git").mkdir()
    assert "begin with a dot are hidden: '.grey'." in " ".join(load(tmp_path).notes)


def test_litter_of_other_programs_is_left_out(tmp_path):
    expected = load(fill(tmp_path / "birds")).fingerprint
    root = tmp_path / "birds"
    picture(root / "__MACOSX" / "red" / "0.png", COLOURS["red"])
    picture(root / "red" / ".ipynb_checkpoints" / "0.png", COLOURS["blue"])
    picture(root / ".ipynb_checkpoints" / "0.png", COLOURS["blue"])
    picture(root / "red" / "__MACOSX" / "0.png", COLOURS["blue"])
    (root / "red" / "._0.png").write_bytes(b"\0")
    (root / "red" / "Thumbs.db").write_bytes(b"\0")
    (root / "red" / "desktop.ini").write_bytes(b"\0")
    dataset = load(root)
    assert dataset.fingerprint == expected
    assert dataset.notes == ()


def test_a_wrapper_is_looked_through_and_said(tmp_path):
    fill(tmp_path / "download" / "birds" / "train")
    fill(tmp_path / "download" / "birds" / "test", 2)
    (tmp_path / "download" / "__MACOSX").mkdir()
    dataset = load(tmp_path / "download")
    assert sizes(dataset) == [27, 3, 6]
    assert dataset.notes == ("'download' contains nothing but 'birds', so that folder was read.",)


def test_nested_folders_tell_which_names_become_classes(tmp_path):
    for folder in ("animals/cat", "animals/dog", "plants/rose"):
        for i in range(6):
            picture(tmp_path / folder / f"{i}.png", (10 * i, 20, 30 + len(folder)))
    dataset = load(tmp_path)
    assert dataset.class_names == ("animals", "plants")
    (note,) = dataset.notes
    assert note == (
        "The classes are 'animals', 'plants'; subfolders belong to their class"
        " ('animals/cat', 'animals/dog', 'plants/rose')."
    )


def test_pictures_in_no_class_are_counted(tmp_path):
    fill(tmp_path)
    picture(tmp_path / "stray.jpg", COLOURS["red"])
    (note,) = load(tmp_path).notes
    assert note == f"Not used: 1 in '{tmp_path.name}' itself, outside the classes' folders."


def test_hidden_images_are_said_not_to_be_used(tmp_path):
    expected = load(fill(tmp_path)).fingerprint
    for name in (".IMG_1.jpg", "more/.b.PNG", ".IMG_2.jpg.icloud", "._0.png", ".DS_Store", ".jpg"):
        (tmp_path / "red" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "red" / name).write_bytes(b"?")
    (tmp_path / "red/.cache.png").mkdir()
    (tmp_path / "red/.icloud").write_bytes(b"?")
    dataset = load(tmp_path)
    assert dataset.fingerprint == expected
    assert dataset.notes == (
        "Not used, because names that begin with a dot are hidden: 3 images ('red/.IMG_1.jpg',"
        " 'red/.IMG_2.jpg.icloud', 'red/more/.b.PNG'). Those that end in .icloud are not"
        " downloaded yet.",
    )


def test_a_name_with_a_line_break_is_used_and_told_on_one_line(tmp_path):
    fill(tmp_path)
    (tmp_path / "red/3.png").rename(tmp_path / "red/3\n\x1b[2J.png")
    picture(tmp_path / "dark\nred/1.png", COLOURS["red"])
    (tmp_path / "red/no\ntes.txt").write_text("?")
    refused(tmp_path, r"class 'dark\\nred' contains a line break")
    (tmp_path / "dark\nred").rename(tmp_path / "red/more\n")
    dataset = load(tmp_path)
    assert sum(sizes(dataset)) == 31
    assert "red/3\\n\\x1b[2J.png" in dataset.train.source.names
    assert "'red/no\\ntes.txt'" in dataset.notes[1]
    (tmp_path / "red/3\n\x1b[2J.png").write_bytes(b"")
    refused(tmp_path, r"red/3\\n\\x1b\[2J\.png cannot be read \(empty file\)")
