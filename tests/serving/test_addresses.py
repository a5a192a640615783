"""Where a server listens."""

import io
import socket

import grpc
import pytest
import requests

from serving import addresses, client, load
from serving import server as server_command
from serving.client import Client
from serving.embedded import lifecycle, ports
from serving.embedded.errors import ConfigError
from tests.serving import grpc_calls, served_models

HAS_IPV6 = socket.has_ipv6


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("birds.org", 0, "birds.org:8501"),
        ("birds.org", 9000, "birds.org:9000"),
        ("http://birds.org", 0, "http://birds.org:8501"),
        ("http://birds.org/", 9000, "http://birds.org:9000"),
        ("::1", 0, "[::1]:8501"),
        ("https://birds.org", 0, "https://birds.org"),
        ("https://birds.org/models", 0, "https://birds.org/models"),
        ("https://birds.org:444/models", 0, "https://birds.org:444/models"),
        ("https://birds.org/models", 9000, "https://birds.org:9000/models"),
        ("https://[::1]", 8443, "https://[::1]:8443"),
        ("https://me@birds.org:444/m", 8443, "https://me@birds.org:8443/m"),
    ],
)
def test_the_usual_port_is_that_of_a_server_and_not_of_a_proxy_with_tls(host, port, expected):
    assert addresses.joined(host, port, 8501) == expected


@pytest.mark.skipif(not HAS_IPV6, reason="no IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_a_server_listens_on_ipv6(half, host):
    flags = {**served_models.FLAGS, "model_base_path": str(half), "host": host}
    flags["rest_api_port"] = served_models.free_port()
    server = lifecycle.Server(server_command.options_of(served_models.SimpleNamespace(**flags)))
    try:
        with grpc.insecure_channel(f"[::1]:{server.port}") as channel:
            assert grpc_calls.predict(channel, 2, name="default") == [3]
        url = f"http://[::1]:{flags['rest_api_port']}"
        assert requests.get(f"{url}/v1/models/default", timeout=300).status_code == 200
        shown = "localhost" if host == "::" else "[::1]"
        assert server.lines()[2] == f"REST  http://{shown}:{flags['rest_api_port']}/v1/models/..."
        Client("default", f"[::1]:{flags['rest_api_port']}", rest=True)
    finally:
        server.stop(1)


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("::1", "[::1]:80"),
        ("[::1]", "[::1]:80"),
        ("fe80::1%eth0", "[fe80::1%eth0]:80"),
        ("127.0.0.1", "127.0.0.1:80"),
        ("a.example", "a.example:80"),
        ("https://a.example", "https://a.example:80"),
    ],
)
def test_a_host_of_ipv6_is_put_in_brackets(host, wanted):
    assert addresses.joined(host, 80) == wanted


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        *((text, True) for text in ("localhost", "LOCALHOST:80", "127.0.0.1:80", "127.1.2.3:80")),
        *((text, True) for text in ("[::1]:80", "http://127.0.0.1/x", "https://localhost:80")),
        *((text, False) for text in ("10.0.0.1:80", "localhost.a.example:80", "[::2]:80", "[", "")),
        *((text, False) for text in ("unix:/localhost", "http://a.example/localhost")),
    ],
)
def test_addresses_of_this_machine_are_known(address, wanted):
    assert addresses.is_loopback(address) is wanted


@pytest.mark.skipif(not HAS_IPV6, reason="no IPv6")
@pytest.mark.parametrize("rest", [False, True])
def test_the_commands_reach_a_server_on_ipv6(half, monkeypatch, capsys, rest):
    with served_models.server(model_base_path=str(half), host="::1") as server:
        port = int(server.url.rpartition(":")[2]) if rest else server.port
        given = {name: default for name, (default, *_) in load.FLAGS.items()}
        given |= {"host": "::1", "port": port, "rest": rest, "seconds": 0.1, "warm_up": 0.0}
        given["concurrency"] = "1"
        monkeypatch.setattr(load.flags, "FLAGS", type("Flags", (), given))
        assert load.main() == 0
        given = {name: default for name, (default, *_) in client.FLAGS.items()}
        given |= {"host": "::1", "port": port, "rest": rest}
        monkeypatch.setattr(client.flags, "FLAGS", type("Flags", (), given))
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"x")))
        assert client.main(["-"]) == 1
        assert "serving_bytes" in capsys.readouterr().err  # it was asked, and has no such signature


def test_a_unix_socket_replaces_one_that_was_left_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as earlier:
        earlier.bind("left")
    assert ports.unix_address("left") == "unix:left"
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as later:
        other.bind("used")
        other.listen(1)
        with pytest.raises(ConfigError, match="received 'used', on which a program listens; valid"):
            ports.unix_address("used")
        later.connect("used")  # it was left alone
    (tmp_path / "used").unlink()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("left")
    for name in ("file", "folder", "link"):
        with pytest.raises(
            ConfigError, match=f"received '{name}', which is not a socket; valid: a"
        ):
            ports.unix_address(name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "link"]


def test_a_port_that_another_server_takes_in_the_meantime_is_told():
    first = ports.bound("rest_api_port", "127.0.0.1", 0)
    port = first.getsockname()[1]
    with first, ports.bound("rest_api_port", "127.0.0.1", port) as second:  # nobody listens yet
        ports.listen("rest_api_port", first)
        with pytest.raises(ConfigError, match=f"^127.0.0.1:{port}: .*valid: a port that no other"):
            ports.listen("rest_api_port", second)


def test_a_unix_socket_that_cannot_be_bound_is_told_as_that(half, tmp_path):
    path = tmp_path / ("s" * 120)
    line = served_models.refused(model_base_path=str(half), grpc_socket_path=str(path))
    assert line.startswith(f"--grpc_socket_path: '{path}' cannot be bound: ")
    assert "too long" in line


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("grpc.max_receive_message_length=2147483647,a=-1", [2147483647, -1]),
        ("a=²,b=--1,c=1.5,d=", ["²", "--1", "1.5", ""]),
    ],
)
def test_channel_arguments_are_numbers_where_they_look_so(text, wanted):
    assert [value for _, value in ports.channel_arguments(text)] == wanted


@pytest.mark.parametrize("value", ["2147483648", "9" * 5000, "-2147483649"])
def test_a_channel_argument_of_more_than_32_bits_is_told(value):
    with pytest.raises(ConfigError, match=r"^a: received .{1,20}; valid: a number of 32 bits\.$"):
        ports.channel_arguments(f"a={value}")
