"""What the server's command refuses, and in which words: one line each."""

import signal
import subprocess
import sys

import pytest
from absl import flags as absl_flags

from serving import command, server
from serving.embedded import protos
from serving.embedded.errors import StatusError
from tests import shell
from tests.serving import served_models


@pytest.fixture
def start(monkeypatch, capsys):
    """Starts the command in this process; returns its exit code and its errors."""

    def started(*arguments):
        values = absl_flags.FlagValues()
        command.define(server.FLAGS, values)
        monkeypatch.setattr(absl_flags, "FLAGS", values)
        monkeypatch.setattr(command.app, "run", _run)
        monkeypatch.setattr(command.logging, "use_absl_handler", lambda: None)
        monkeypatch.setattr(sys, "argv", ["server", *arguments])
        with shell.signals_kept(), pytest.raises(SystemExit) as ended:
            command.run(server.main)
        return ended.value.code, capsys.readouterr().err

    return started


def _run(main, flags_parser):
    """Do what absl's app.run does, without its own flags: those are of the whole process."""
    sys.exit(main(flags_parser(sys.argv)))


@pytest.mark.parametrize(
    ("flags", "code", "line"),
    [
        (("--prt=1",), 2, "error: --prt: no such flag. Did you mean --port? See --help."),
        (("--port=x",), 2, "error: --port: received 'x'; valid: a whole number."),
        (("model",), 2, "error: received 'model'; valid: flags only"),
    ],
)
def test_flags_that_cannot_be_used_are_told_in_a_line(start, flags, code, line):
    ended, errors = start(*flags)
    assert errors.splitlines()[-1].startswith(line)
    assert "Traceback" not in errors
    assert ended == code


def test_a_home_that_no_shell_expands_after_an_equals_sign_is_expanded(
    start, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    _, errors = start("--model_base_path=/m", "--ssl_config_file=~/no")
    assert errors.splitlines()[-1].startswith(
        f"error: --ssl_config_file: {tmp_path}/no: cannot be read"
    )


def test_a_server_that_does_not_start_leaves_no_signal_blocked(start):
    start("--model_base_path=/m", "--ssl_config_file=/no")
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_what_cannot_be_encoded_is_printed_all_the_same(monkeypatch, capsys):
    monkeypatch.setattr(command.app, "run", lambda main, flags_parser: main(["command"]))
    monkeypatch.setattr(command.logging, "use_absl_handler", lambda: None)
    command.run(lambda: print("caf\udce9.png"))
    assert capsys.readouterr().out == "caf\\udce9.png\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "Both server_options.model_base_path and server_options.model_config_file are empty!"),
        ({"batching_parameters_file": "/b"}, "--batching_parameters_file: needs --enable_batching"),
        ({"port": 70000}, "--port: received 70000; valid: 0 to 65535"),
        ({"ssl_config_file": "/no"}, "--ssl_config_file: /no: cannot be read: No such file"),
        ({"monitoring_config_file": "/no"}, "--monitoring_config_file: /no: cannot be read: No"),
        (
            {"host": "no.invalid"},
            "--host: received 'no.invalid'; valid: an address of this machine",
        ),
        ({"host": "192.0.2.1"}, "--host: received '192.0.2.1'; valid: an address of this machine"),
        ({"grpc_socket_path": "/no/s"}, "--grpc_socket_path: received '/no/s'; valid: a path in"),
        (
            {"grpc_channel_arguments": "a"},
            "--grpc_channel_arguments: received 'a'; valid: NAME",
        ),
    ],
)
def test_a_configuration_that_cannot_be_used_is_told(flags, message):
    base = {} if "Both" in message else {"model_base_path": "/m"}
    assert served_models.refused(**base, **flags).startswith(message)


def test_a_reader_that_goes_ends_a_command_without_a_word():
    program = "from serving import command; command.run(lambda: [print(i) for i in range(9)] and 0)"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert (process.stderr.read(), process.wait(60)) == (b"", 0)
    process.stderr.close()


def test_a_byte_order_mark_is_no_part_of_a_configuration(tmp_path):
    (tmp_path / "b.config").write_text("max_batch_size { value: 7 }", encoding="utf-8-sig")
    read = protos.read(tmp_path / "b.config", protos.BatchingParameters, "batching_parameters_file")
    assert read.max_batch_size.value == 7


def test_ports_that_are_taken_are_told(half):
    with served_models.server(model_base_path=str(half)) as server:
        rest = int(server.url.rpartition(":")[2])
        for flags in ({"port": server.port}, {"rest_api_port": rest}):
            name = next(iter(flags))
            line = served_models.refused(model_base_path=str(half), **flags)
            assert line.startswith(f"--{name}: 127.0.0.1:{flags[name]}")


def test_files_that_hold_something_else_are_told(tmp_path):
    (tmp_path / "models.config").write_text("model_config_list { konfig {} }")
    line = served_models.refused(model_config_file=str(tmp_path / "models.config"))
    assert line.startswith("--model_config_file: Error parsing text-format tensorflow.serving.M")
    (tmp_path / "m" / "1").mkdir(parents=True)
    with (
        pytest.raises(StatusError, match="Could not load version 1: ") as caught,
        served_models.server(model_base_path=str(tmp_path / "m")),
    ):
        pass
    assert str(tmp_path) not in caught.value.message
