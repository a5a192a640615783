"""Serve a page that classifies in the browser: this directory and one .tflite file.

python -m serving.mobile.web MODEL.tflite [--port=8010] [--host=127.0.0.1]
"""

import argparse
import functools
import http.server
import shutil
import socket
import sys
import urllib.parse
from pathlib import Path

HERE = Path(__file__).parent
# What the page promises: nothing leaves it. Scripts have no limits, as LiteRT.js compiles its own.
POLICY = (
    "connect-src 'self' blob: data:; img-src 'self' blob: data:; object-src 'none';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the files of this directory; /model.tflite is the model."""

    model: Path
    path = ""  # until a request has one that can be read

    def translate_path(self, path: str) -> str:
        """Return the file of a URL; none for this program's own, nor for what Python compiled."""
        if _is_model(path):
            return str(self.model)
        found = super().translate_path(path)
        inside = Path(found).relative_to(self.directory)
        own = "__pycache__" in inside.parts or inside.suffix in (".py", ".pyc")
        return "" if own else found

    def end_headers(self) -> None:
        """Send the content security policy with every answer, and which file the model is."""
        if _is_model(self.path):
            # The next model at this address may be an older file, which a browser takes for known.
            self.send_header("Cache-Control", "no-store")
            name = urllib.parse.quote(self.model.name, safe="", errors="replace")
            self.send_header("Content-Disposition", f"inline; filename*=UTF-8''{name}")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, *_):
        """Do not log requests."""


def _is_model(path: str) -> bool:
    return path.partition("?")[0] == "/model.tflite"


Handler.extensions_map = {
    **Handler.extensions_map,
    **{".js": "text/javascript", ".wasm": "application/wasm"},
}


def server(model: Path, port: int, host: str = "127.0.0.1") -> http.server.ThreadingHTTPServer:
    """Return a server of the page that is not started yet; port 0 takes a free one."""
    kind = type("Handler", (Handler,), {"model": model})
    handler = functools.partial(kind, directory=str(HERE))
    return http.server.ThreadingHTTPServer((host, port), handler)


def _shown(host: str) -> str:
    """Return the address that others open: where all are listened on, the one on the network."""
    if host != "0.0.0.0":
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way_out:
        try:
            way_out.connect(("192.0.2.1", 9))  # of documentation; UDP sends nothing to connect
            return way_out.getsockname()[0]
        except OSError:  # no network
            return socket.gethostname()  # which few phones can resolve


def main(arguments: list[str] | None = None) -> int:
    """Serve until Ctrl-C; return 1 if something is missing."""
    parser = argparse.ArgumentParser(prog="serving.mobile.web", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--port", type=int, default=8010, help="port to listen on (8010)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (127.0.0.1: this machine alone); 0.0.0.0: all that reach it",
    )
    options = parser.parse_args(arguments)
    if not 0 <= options.port <= 65535:
        parser.error(f"--port: received {options.port}; valid: 0 to 65535.")
    problem = None
    if not options.model.is_file():
        problem = f"{options.model}: there is no such file."
    elif not (HERE / "node_modules" / "@litertjs" / "core").is_dir():
        npm = "npm" if shutil.which("npm") else "npm (of Node.js)"
        problem = f"LiteRT.js is not there; run '{npm} install' in {HERE} once."
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    try:
        with server(options.model, options.port, options.host) as page:
            address = f"http://{_shown(options.host)}:{page.server_port}/"
            print(f"{address}  (Ctrl-C ends it)", flush=True)
            page.serve_forever()
    except OSError as error:
        where = f"--host={options.host} --port={options.port}"
        print(f"error: {where}: {error.strerror or error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
