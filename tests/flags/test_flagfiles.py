"""Flag files: by path, by name, within each other, and what is said of one that is not there."""

import pytest

from tests.shell import ROOT, fails, run
from xkd_keras.errors import FlagError
from xkd_keras.flags import config as configs
from xkd_keras.flags import flagfiles


def expanded(*words):
    return flagfiles.expanded(words)


@pytest.mark.parametrize(
    "name", ["quickstart", "quickstart.flags", "configs/quickstart.flags", "./configs/quickstart"]
)
def test_a_configuration_is_found_by_its_name_and_by_its_path_in_the_repository(
    tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    assert flagfiles.find(name).samefile(ROOT / "configs" / "quickstart.flags")


def test_a_file_of_the_users_comes_before_a_configuration_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()  # a folder is no file of flags
    (tmp_path / "quickstart").write_text("--epochs=3\n")
    assert expanded("--flagfile=quickstart") == ["--epochs=3"]
    assert "--dataset=digits" in expanded("--flagfile=digits")


def test_a_file_at_home_is_found_and_a_home_that_is_nobodys_is_no_traceback(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.flags").write_text("--epochs=3\n")
    assert expanded("--flagfile=~/mine.flags") == ["--epochs=3"]
    with pytest.raises(FlagError, match=r"'~nobody-there/x' cannot be found"):
        expanded("--flagfile=~nobody-there/x")


def test_a_name_that_no_file_can_have_is_no_traceback():
    with pytest.raises(FlagError, match="cannot be found, and no configuration has this name"):
        expanded(f"--flagfile={'long' * 100}.flags")


def test_the_lines_of_a_file_stand_where_it_was_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "inner").write_text("--seed=1\n")
    (tmp_path / "outer").write_text("# about\n\n--epochs=3\n--flagfile=inner\n// more\n--seed=2\n")
    inside = ["--epochs=3", "--seed=1", "--seed=2"]
    assert expanded("--a", "--flagfile=outer", "--b") == ["--a", *inside, "--b"]
    assert expanded("-flagfile", "outer", "--b") == [*inside, "--b"]
    assert expanded("--flagfile=inner", "--flagfile=inner") == ["--seed=1"] * 2
    assert expanded("--", "--flagfile=outer") == ["--", "--flagfile=outer"]


def test_a_byte_order_mark_is_no_part_of_the_first_flag(tmp_path):
    (tmp_path / "mine").write_text("--epochs=3\n--seed=1\n", encoding="utf-8-sig")  # Windows'
    assert expanded(f"--flagfile={tmp_path / 'mine'}") == ["--epochs=3", "--seed=1"]


@pytest.mark.parametrize("words", [["--flagfile"], ["--flagfile="]])
def test_a_flagfile_without_a_name_is_refused(words):
    with pytest.raises(FlagError, match=r"^--flagfile: missing"):
        expanded(*words)


def test_a_file_that_reads_itself_or_is_no_text_is_refused(tmp_path):
    (tmp_path / "a").write_text(f"--flagfile={tmp_path / 'b'}")
    (tmp_path / "b").write_text(f"--flagfile={tmp_path / 'a'}")
    with pytest.raises(FlagError, match=r"^--flagfile: '.*a' includes itself"):
        expanded(f"--flagfile={tmp_path / 'a'}")
    (tmp_path / "c").write_bytes(b"\xff\xfe")
    with pytest.raises(FlagError, match="is not text"):
        expanded(f"--flagfile={tmp_path / 'c'}")


def test_configurations_are_found_where_a_clone_has_a_file_for_the_link(tmp_path):
    package = tmp_path / "xkd_keras"
    for place in (package, tmp_path / "configs"):
        place.mkdir()
    (package / "configs").write_text("../configs")  # as Git for Windows writes a link
    assert flagfiles.home(package) == (tmp_path / "configs").resolve()
    (package / "configs").unlink()
    (package / "configs").mkdir()  # as it is installed
    assert flagfiles.home(package) == (package / "configs").resolve()


def test_the_package_lists_what_there_is_without_any_configuration(tmp_path, monkeypatch, capsys):
    from xkd_keras import __main__

    monkeypatch.setattr(flagfiles, "HOME", tmp_path)
    __main__.main()
    assert "python -m xkd_keras.train" in capsys.readouterr().out


def test_an_unknown_name_is_one_line_with_the_nearest_and_how_to_list_them():
    parts = ["--flagfile: 'quikstart'", "Did you mean 'quickstart'?", "`python -m xkd_keras` lists"]
    fails(run("train", "--flagfile=quikstart"), 2, *parts)


def test_the_package_itself_lists_commands_and_configurations(capsys):
    from xkd_keras import __main__

    __main__.main()
    lines = capsys.readouterr().out.splitlines()
    for start in ("  python -m xkd_keras.train  ", "  quickstart  ", "  paper/cifar10_alexnet"):
        assert [line for line in lines if line.startswith(start)], start
    listed = {line.split()[0] for line in lines if line.startswith("  ") and "-m" not in line}
    there = (ROOT / "configs").rglob("*.flags")
    assert listed == {
        path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in there
    }


def test_a_configuration_read_by_name_is_the_one_read_by_path():
    assert configs.read("digits") == configs.read(ROOT / "configs" / "digits.flags")
    assert configs.read("digits").momentum == 0.9  # of base.flags, which it names
