"""Where a server listens."""

import socket

import grpc
import pytest
import requests

from serving import server as server_command
from serving.client import Client
from serving.embedded import lifecycle, ports
from serving.embedded.errors import ConfigError
from tests.serving import grpc_calls, served_models

HAS_IPV6 = socket.has_ipv6


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
    with pytest.raises(ConfigError, match=r"^a: received .{1,20}; valid: 32 bits\.$"):
        ports.channel_arguments(f"a={value}")
