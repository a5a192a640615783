"""A wrong value of a flag is one line: the flag, the value received, what is valid."""

import pytest
from absl import flags

from xkd_keras.errors import FlagError, InputError
from xkd_keras.flags import command_line, parsing
from xkd_keras.flags import config as configs
from xkd_keras.flags import peer as peer_options
from xkd_keras.flags.effects import TEACHING


@pytest.fixture
def values(monkeypatch):
    """Flags of every kind that commands have, in the place of the process's own."""
    made = flags.FlagValues()
    flags.DEFINE_integer("count", 1, "", 1, flag_values=made)
    flags.DEFINE_integer("version", 0, "", 0, flag_values=made)
    flags.DEFINE_integer("level", 5, "", 3, flag_values=made)
    flags.DEFINE_float("share", 0.5, "", 0.01, 0.99, flag_values=made)
    flags.DEFINE_bool("wanted", False, "", flag_values=made)
    flags.DEFINE_multi_string("compare", [], "", flag_values=made)
    monkeypatch.setattr(command_line.flags, "FLAGS", made)
    return made


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("--count=x", "--count: received 'x'; valid: a whole number."),
        ("--share=x", "--share: received 'x'; valid: a number."),
        ("--count=0", "--count: received '0'; valid: 1 or more."),
        ("--version=-1", "--version: received '-1'; valid: 0 or more."),
        ("--level=2", "--level: received '2'; valid: 3 or more."),
        ("--share=2", "--share: received '2'; valid: 0.01 to 0.99."),
        ("--wanted=maybe", "--wanted: received 'maybe'; valid: true or false."),
    ],
)
def test_a_wrong_value_is_one_line_of_ours(values, capsys, typed, line):
    with pytest.raises(SystemExit) as ended:
        command_line._parse_flags(["command", typed])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_an_argument_that_is_a_flag_gets_its_dashes_back(values):
    assert parsing.as_typed(InputError("is wrong.", argument="count")) == "--count: is wrong."
    assert parsing.as_typed(InputError("is wrong.", argument="peers")) == "peers: is wrong."


def test_an_option_within_a_flag_is_named_as_it_was_typed(values):
    with pytest.raises(FlagError) as caught:
        peer_options.options("--compare=mcod,foo=1", "foo=1", TEACHING)
    line = parsing.as_typed(caught.value)
    assert line.startswith("--compare=mcod,foo=1: unknown option 'foo';")


@pytest.mark.parametrize("epochs", ["10:5", "5:5", "0:5"])
def test_epochs_at_which_the_rate_falls_come_one_after_the_other(epochs):
    with pytest.raises(FlagError, match=f"^--learning_rate_epochs: received '{epochs}'; valid: "):
        configs.Config(learning_rate_epochs=epochs)
