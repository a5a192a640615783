"""What a person sees while something takes long."""

import io

import pytest

from xkd_keras import console


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def _tenth_of_a_second_each(monkeypatch):
    """Let a tenth of a second pass whenever the time is asked for."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(ticks) / 10)


@pytest.mark.usefixtures("_tenth_of_a_second_each")
def test_a_terminals_line_is_replaced_and_cleared_at_the_end():
    stream = Terminal()
    assert list(console.counted("abcdefghijkl", 12, "reading", console.Line(stream))) == list(
        "abcdefghijkl"
    )
    lines = stream.getvalue().split("\r")
    # Asked once an item, and once more for each line: the sixth item is the first that is late.
    assert lines[1] == "reading  5/12  8/s  0:01 left\x1b[K"
    assert lines[-1] == "\x1b[K"
    assert "\n" not in stream.getvalue()


@pytest.mark.usefixtures("_tenth_of_a_second_each")
def test_a_log_has_a_line_a_minute():
    stream = io.StringIO()
    assert len(list(console.counted(range(1500), 1500, "reading", console.Line(stream)))) == 1500
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0] == "reading  600/1,500  10/s  1:30 left"


def test_what_is_done_at_once_says_nothing(capsys):
    assert list(console.counted([1, 2], 2, "reading")) == [1, 2]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3723, "1:02:03")]
)
def test_durations(seconds, shown):
    assert console.clock(seconds) == shown


def test_a_name_is_printed_on_one_line_and_letters_stay():
    name = "a\nb\rc\x1b[2Jd\u2028e\udce9"
    assert console.printable(name) == "a\\nb\\rc\\x1b[2Jd\\u2028e\\udce9"
    assert console.printable("größer 写真\u202f\u200d👩.png") == "größer 写真\u202f\u200d👩.png"


def test_of_many_texts_the_first_are_told_and_how_many_there_are_more():
    assert console.few(list("abc"), 3, " = ") == "a = b = c"
    assert console.few(["x"] * 1005, 2) == "x, x and 1,003 more"
