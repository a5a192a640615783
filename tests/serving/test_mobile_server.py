"""The server of the mobile page: its files, the model, and what it lets the page do."""

import socket
import threading

import pytest
import requests

from serving.mobile.web import __main__ as web


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    model = tmp_path_factory.mktemp("web") / "any bär.tflite"
    model.write_bytes(b"a model")
    with web.server(model, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_model_is_the_file_that_was_named(root):
    assert requests.get(f"{root}/model.tflite?1", timeout=60).content == b"a model"


def test_the_model_is_named_and_kept_by_no_browser(root):
    """Another model may be at this address tomorrow, and its file may be the older one."""
    headers = requests.get(f"{root}/model.tflite", timeout=60).headers
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Disposition"] == "inline; filename*=UTF-8''any%20b%C3%A4r.tflite"
    assert "Content-Disposition" not in requests.get(f"{root}/app.js", timeout=60).headers


@pytest.mark.parametrize("path", ["/__main__.py", "/__pycache__/", "/%5F_init__.py"])
def test_the_program_itself_is_not_served(root, path):
    assert requests.get(root + path, timeout=60).status_code == 404


@pytest.mark.parametrize("path", ["__pycache__/a.pyc", "__pycache__/deep/a.js", "a.pyc", "a.js"])
def test_what_python_compiles_is_not_served_in_any_directory(path, tmp_path, monkeypatch):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).touch()
    monkeypatch.setattr(web, "HERE", tmp_path)
    with web.server(tmp_path / "m.tflite", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        answer = requests.get(f"http://127.0.0.1:{server.server_port}/{path}", timeout=60)
        server.shutdown()
    assert answer.status_code == (200 if path == "a.js" else 404)


def test_what_is_no_request_is_answered(root):
    with socket.create_connection(("127.0.0.1", int(root.rpartition(":")[2])), 60) as one:
        one.sendall(b"no request\r\n\r\n")
        assert b"400" in one.recv(1 << 16)


@pytest.mark.parametrize("port", [70_000, -1])
def test_a_port_that_cannot_be_is_told_in_a_line(port, tmp_path, monkeypatch, capsys):
    (tmp_path / "node_modules" / "@litertjs" / "core").mkdir(parents=True)
    (tmp_path / "m.tflite").touch()
    monkeypatch.setattr(web, "HERE", tmp_path)
    with pytest.raises(SystemExit) as ended:
        web.main([str(tmp_path / "m.tflite"), f"--port={port}"])
    assert ended.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"--port: received {port}; valid: 0 to 65535." in line


def test_an_address_that_is_not_here_is_told_in_a_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "node_modules" / "@litertjs" / "core").mkdir(parents=True)
    (tmp_path / "m.tflite").touch()
    monkeypatch.setattr(web, "HERE", tmp_path)
    assert web.main([str(tmp_path / "m.tflite"), "--port=0", "--host=192.0.2.7"]) == 1
    assert capsys.readouterr().err.startswith("error: --host=192.0.2.7 --port=0: Cannot assign")


@pytest.mark.parametrize("network", [True, False])
def test_who_listens_everywhere_is_told_an_address_that_a_phone_can_open(
    network, tmp_path, monkeypatch, capsys
):
    def route(self, address):
        if not network:
            raise OSError("Network is unreachable")
        self.bind(("127.0.0.1", 0))  # as the system does with the address of the way out

    (tmp_path / "node_modules" / "@litertjs" / "core").mkdir(parents=True)
    (tmp_path / "m.tflite").touch()
    monkeypatch.setattr(web, "HERE", tmp_path)
    monkeypatch.setattr(web.http.server.ThreadingHTTPServer, "serve_forever", lambda _: None)
    monkeypatch.setattr(socket.socket, "connect", route)
    assert web.main([str(tmp_path / "m.tflite"), "--port=0", "--host=0.0.0.0"]) == 0
    host = "127.0.0.1" if network else socket.gethostname()
    assert capsys.readouterr().out.startswith(f"http://{host}:")


@pytest.mark.parametrize("path", ["/", "/app.js", "/model.tflite", "/nothing"])
def test_nothing_leaves_the_page(root, path):
    headers = requests.get(root + path, timeout=60).headers
    policy = dict(
        part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";")
    )
    for what in ("connect-src", "img-src"):
        assert set(policy[what].split()) == {"'self'", "blob:", "data:"}
    for what in ("base-uri", "form-action", "frame-ancestors", "object-src"):
        assert policy[what] == "'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"
