"""An error says what is wrong, with which argument, and what is valid; dashes are the shell's."""

import pickle

import pytest
from absl import flags

from tests.shell import fails, here
from xkd_keras import data
from xkd_keras.errors import FlagError, InputError, first_line, nearest, one_line
from xkd_keras.flags import command_line, fields, parsing, peer


@pytest.mark.parametrize("kind", [InputError, FlagError])
def test_the_text_begins_with_the_argument(kind):
    error = kind("received 3; valid: 4.", argument="batch_size")
    assert (error.message, error.argument) == ("received 3; valid: 4.", "batch_size")
    assert str(error) == "batch_size: received 3; valid: 4."
    assert isinstance(error, ValueError)


def test_of_another_error_the_first_line_is_told_or_its_kind():
    assert first_line(RuntimeError("\n  why\n  and pages more")) == "why"
    assert first_line(AssertionError()) == "AssertionError"


def test_an_error_about_no_argument_is_its_message():
    error = InputError("x.png: is damaged.")
    assert (str(error), error.message, error.argument) == ("x.png: is damaged.",) * 2 + ("",)


def test_a_wrong_command_line_has_an_exit_code_of_its_own():
    assert (InputError.exit_code, FlagError.exit_code) == (1, 2)


@pytest.mark.parametrize("kind", [InputError, FlagError])
def test_an_unknown_value_is_told_with_the_nearest_and_all_valid_ones(kind):
    error = kind.unknown("method", "mcdo", ("mcod", "solo"))
    assert type(error) is kind
    assert error.argument == "method"
    assert str(error) == "method: unknown value 'mcdo'. Did you mean 'mcod'? valid: mcod, solo."


def test_an_unknown_thing_is_called_what_it_is_and_nothing_near_is_not_guessed():
    error = InputError.unknown("peer", "zzz", iter(["name", "weight"]), "option")
    assert str(error) == "peer: unknown option 'zzz'; valid: name, weight."


@pytest.mark.parametrize(
    ("received", "valid", "expected"),
    [
        ("resnet21", ["resnet20", "resnet110", "vgg11"], "resnet20"),
        ("int9", ["int16x8", "int8"], "int8"),
        ("pqt", ["qat", "pqat"], "pqat"),
        ("xyz", ["qat"], ""),
        ("qat", [], ""),
    ],
)
def test_the_nearest_is_the_most_alike(received, valid, expected):
    assert nearest(received, valid) == expected


@pytest.mark.parametrize("kind", [InputError, FlagError])
def test_an_error_survives_the_way_between_processes(kind):
    error = pickle.loads(pickle.dumps(kind("is gone.", argument="dataset")))
    assert type(error) is kind
    assert (error.message, error.argument) == ("is gone.", "dataset")
    assert str(error) == "dataset: is gone."


@pytest.mark.parametrize("option", ["value", "option", "peer", "unknown"])
def test_an_unknown_option_is_told_in_the_words_of_the_user(option):
    """The message was once edited as a text, and with it what the user had typed."""
    with pytest.raises(
        FlagError, match=rf"^peer=alexnet,{option}=3: unknown option '{option}'.* valid: name, "
    ):
        peer.parse_peer(f"alexnet,{option}=3", fields.Fields())
    with pytest.raises(FlagError, match=rf"^compare: unknown option '{option}'; valid"):
        peer.options("compare", f"{option}=3", ("temperature",))


def test_a_library_speaks_of_arguments_and_a_command_of_flags(tmp_path):
    with pytest.raises(InputError) as told:
        data.load("digit")
    assert str(told.value).startswith("dataset: unknown value 'digit'. Did you mean 'digits'?")
    result = here("train", f"--run_dir={tmp_path}", "--dataset=digit", "--peer=alexnet")
    fails(result, 2, f"error: --{told.value}")


def test_the_command_line_puts_dashes_only_before_what_is_a_flag(monkeypatch):
    values = flags.FlagValues()
    flags.DEFINE_string("dataset", "", "Its name.", flag_values=values)
    monkeypatch.setattr(command_line.flags, "FLAGS", values)
    line = parsing.as_typed
    assert line(InputError("is gone.", argument="dataset")) == "--dataset: is gone."
    assert line(InputError("differ.", argument="labels")) == "labels: differ."
    assert line(InputError("x.png: is damaged.")) == "x.png: is damaged."


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\nfirst\nsecond", "first"),
        ("", "ValueError"),
        (
            "Graph execution error:\n\nDetected at node Next defined at (most recent call last):\n"
            '  File "/home/cuda/train.py", line 3, in <module>\n\n<stack traces unavailable>\n'
            "{{function_node __wrapped}} /x/a.jpg; No such file\n\t [[{{node ReadFile}}]]",
            "{{function_node __wrapped}} /x/a.jpg; No such file",
        ),
        ("2 root error(s) found.\n  (0) UNKNOWN: disk\n  (1) CANCELLED: it", "(0) UNKNOWN: disk"),
    ],
)
def test_the_first_line_of_an_error_is_its_reason(text, line):
    assert first_line(ValueError(text)) == line


def test_a_long_error_is_one_line_that_is_cut():
    error = ValueError("no \n such\tfile " + "x" * 300)
    assert one_line(error, 8) == "no such "
    assert one_line(error, 8, end="...") == "no su..."
    assert one_line("as it is", 8, end="...") == "as it is"
    assert len(one_line(error)) == 200
