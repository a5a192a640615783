"""TLS and mutual TLS for gRPC."""

import http.server
import os
import ssl
import subprocess
import tempfile
import threading

import grpc
import pytest
import requests
from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

from serving.client import Client, RefusedError
from serving.command import MistakeError
from serving.embedded import certificates as embedded_certificates
from serving.embedded.errors import ConfigError
from serving.embedded.protos import SSLConfig
from tests.serving import served_models
from tests.serving.grpc_calls import error, predict


def certificates(path):
    """Make an authority, and a server's and a client's certificate by it."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=path, check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl(*new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority")
    (path / "extensions").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("server", "client"):
        request = ("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}")
        openssl(*request, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        sign = ("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key")
        openssl(*sign, "-CAcreateserial", "-out", f"{name}.pem", "-extfile", "extensions")


def test_a_pair_is_checked_without_files_in_memory_and_none_stays(tmp_path, monkeypatch):
    certificates(tmp_path)
    texts = {name: (tmp_path / name).read_text() for name in ("server.key", "server.pem")}
    (tmp_path / "here").mkdir()
    monkeypatch.delattr(os, "memfd_create", raising=False)  # macOS has none
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "here"))
    config = SSLConfig(server_key=texts["server.key"], server_cert=texts["server.pem"])
    assert isinstance(embedded_certificates.credentials(config), grpc.ServerCredentials)
    config.server_key = (tmp_path / "client.key").read_text()
    with pytest.raises(ConfigError, match="server_key does not match server_cert"):
        embedded_certificates.credentials(config)
    assert list((tmp_path / "here").iterdir()) == []


@pytest.fixture
def proxy(tmp_path):
    """An address of HTTPS whose certificate no machine knows, where one answer is given."""
    certificates(tmp_path)
    row = b'{"predictions": [{"labels": ["yes"], "scores": [1.0]}]}'

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(row)))
            self.end_headers()
            self.wfile.write(row)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Proxy)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_proxy_with_tls_is_reached_where_its_authority_is_known(proxy, tmp_path, monkeypatch):
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RefusedError, match=r"TLS failed \(certificate verify failed"):
        Client("m", proxy, rest=True, retries=0).classify([b""])
    ca_file = str(tmp_path / "ca.pem")
    known = Client("m", proxy, rest=True, ca_file=ca_file)
    assert known.classify([b""]) == [[("yes", 1.0)]]
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ca_file)
    assert Client("m", proxy, rest=True).classify([b""]) == [[("yes", 1.0)]]


def test_an_authority_that_nothing_asks_for_is_told(tmp_path):
    with pytest.raises(MistakeError, match=r"^--ca_file: works with gRPC and https://"):
        Client("m", "http://a", rest=True, ca_file="ca.pem")
    with pytest.raises(MistakeError, match=r"^--ca_file: .*no\.pem: No such file"):
        Client("m", "https://a", rest=True, ca_file=str(tmp_path / "no.pem"))


@pytest.mark.parametrize("mutual", [False, True])
def test_grpc_speaks_tls_and_knows_its_clients_where_that_is_asked_for(half, tmp_path, mutual):
    certificates(tmp_path)

    def read(name):
        return (tmp_path / name).read_bytes()

    lines = [f"server_key: {read('server.key')!r}", f"server_cert: {read('server.pem')!r}"]
    lines += [f"custom_ca: {read('ca.pem')!r}", "client_verify: true"] if mutual else []
    file = tmp_path / "ssl.config"
    file.write_text("\n".join(line.replace(": b'", ": '") for line in lines))
    path = tmp_path / "socket"
    flags = {"ssl_config_file": str(file), "reload_config_needs_mutual_tls": True}
    flags["grpc_socket_path"] = str(path)
    with served_models.server(model_name="half", model_base_path=str(half), **flags) as server:
        address = server.address.replace("127.0.0.1", "localhost")
        known = grpc.ssl_channel_credentials(read("ca.pem"), read("client.key"), read("client.pem"))
        unknown = grpc.ssl_channel_credentials(read("ca.pem"))
        with grpc.secure_channel(address, known) as channel:
            assert predict(channel, 2, timeout=300) == [3]
            change = model_management_pb2.ReloadConfigRequest()
            change.config.model_config_list.config.add(name="half", base_path=str(half))
            call = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest
            if mutual:
                assert call(change, timeout=300).status.error_code == 0
            else:
                assert error(call, change)[0] is grpc.StatusCode.PERMISSION_DENIED
        with grpc.secure_channel(address, unknown) as channel:
            if not mutual:
                assert predict(channel, 2, timeout=300) == [3]
            else:
                with pytest.raises(grpc.RpcError):
                    predict(channel, 2, timeout=5)
        for plain in (address, f"unix:{path}"):
            with grpc.insecure_channel(plain) as channel, pytest.raises(grpc.RpcError):
                predict(channel, 2, timeout=5)
        named = [("grpc.ssl_target_name_override", "localhost")]  # no certificate names a path
        with grpc.secure_channel(f"unix:{path}", known, named) as channel:
            assert predict(channel, 2, timeout=300) == [3]
            call = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest
            if mutual:
                assert call(change, timeout=300).status.error_code == 0
        client = Client("half", address, ca_file=str(tmp_path / "ca.pem"), retries=0)
        why = "failed to connect" if mutual else "signature key .serving_bytes. not found"
        with pytest.raises(RefusedError, match=why):
            client.classify([b""])
        assert requests.get(f"{server.url}/v1/models/half", timeout=300).ok  # REST stays plain


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"server_key": "client.key"}, "--ssl_config_file: server_key does not match server_cert"),
        ({"server_cert": "server.key"}, "--ssl_config_file: server_cert, server_key: cannot be"),
        ({"server_key": "server.pem"}, "--ssl_config_file: server_cert, server_key: cannot be"),
        ({"custom_ca": "server.key"}, "--ssl_config_file: custom_ca: cannot be read"),
    ],
)
def test_files_that_do_not_go_together_are_told(half, tmp_path, changed, message):
    certificates(tmp_path)
    named = {"server_key": "server.key", "server_cert": "server.pem", "custom_ca": "ca.pem"}
    lines = [
        f"{key}: {(tmp_path / name).read_text()!r}" for key, name in {**named, **changed}.items()
    ]
    file = tmp_path / "ssl.config"
    file.write_text("\n".join(lines))
    line = served_models.refused(model_base_path=str(half), ssl_config_file=str(file))
    assert line.startswith(message)
    assert "\n" not in line
