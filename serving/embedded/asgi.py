"""REST as an ASGI application: bodies, time limits, pages. What is answered is `rest_api`'s."""

import asyncio
import base64
import hashlib
import json
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from absl import logging

from serving.embedded import rest_api
from serving.embedded.bodies import Bodies, unzipped
from serving.embedded.calls import Call, accounted
from serving.embedded.errors import StatusError, let_go
from serving.embedded.inference import Inference
from serving.embedded.metrics import CONTENT_TYPE, Metrics
from serving.embedded.options import BodyLimits

WEB = Path(__file__).parent.parent / "web"
_CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".css": "text/css",
}
_CORS = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
]
_SAFE = [(b"x-content-type-options", b"nosniff")]
# blob: is the image that a person chose, data: the empty icon.
_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' blob: data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_NOT_FOUND = b"<html><body><h1>404 Not Found</h1></body></html>"


class Application:
    """An ASGI application.

    Args:
        inference: Answers.
        metrics: Counts.
        threads: How many requests are worked on at a time.
        timeout: Seconds that a request may take once its body is there.
        bodies: Limits of bodies.
        most: Requests at a time, waiting or running; more are refused.
        cors: Whether pages from anywhere may ask.
        metrics_path: Where Prometheus reads; None: nowhere.
        pages: Files to serve as well, by path: (content type, file).
    """

    def __init__(
        self,
        inference: Inference,
        metrics: Metrics,
        threads: int,
        timeout: float = 30.0,
        bodies: BodyLimits = BodyLimits(),  # noqa: B008
        most: int = 1000,
        cors: bool = False,
        metrics_path: str | None = None,
        pages: Mapping[str, tuple[str, Path]] | None = None,
    ):
        self._inference, self._metrics = inference, metrics
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="rest")
        self._timeout, self._most, self._now = timeout, most, 0
        self._bodies, self._unzipped = Bodies(bodies), bodies.unzipped
        self._headers = _CORS if cors else []
        self._metrics_path, self._pages = metrics_path, dict(pages or {})

    async def __call__(self, scope, receive, send):
        """Answer one request."""
        if scope["type"] != "http":
            return
        path = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            path += "?" + scope["query_string"].decode("latin-1")
        try:
            answer = await self._answer(scope, scope["method"], path, receive)
        except Exception:  # nothing that is known: whatever it is, the client gets JSON
            logging.exception("%s", path[:200])
            answer = 500, "application/json", b'{"error": "internal error"}', []
        await _send(send, *answer)

    async def _answer(self, scope, method: str, path: str, receive) -> tuple:
        """Return status, content type, content and headers."""
        reads = method in ("GET", "HEAD")  # of a HEAD, the server above leaves the content out
        if reads and path in self._pages:
            content_type, file = self._pages[path]
            content = file.read_bytes()
            return 200, content_type, content, _page_headers(content)
        if reads and path == "/models.json" and self._pages:
            names = json.dumps({"models": self._inference.manager.names()}).encode()
            return 200, "application/json", names, _SAFE
        if reads and path == self._metrics_path:
            return 200, CONTENT_TYPE, self._metrics.text(), []
        if not path.lower().startswith("/v1/"):
            return 404, "text/html", _NOT_FOUND, []
        if method == "OPTIONS" and self._headers:
            return 200, "text/plain", b"", self._headers
        status, content = await self._api(scope, method, path, receive)
        return status, "application/json", content, self._headers

    async def _api(self, scope, method: str, path: str, receive) -> tuple[int, bytes]:
        """Return status and body for a request below /v1/."""
        call = Call("REST", f"{method} {path}")
        try:
            with accounted(call, self._metrics):
                return 200, await self._computed(scope, method, path, receive, call)
        except StatusError as error:
            let_go(error)
            body = json.dumps({"error": error.message}, indent=4, ensure_ascii=False)
            return error.http, body.encode(errors="backslashreplace")

    async def _computed(self, scope, method: str, path: str, receive, call: Call) -> bytes:
        """Return the answer, computed in a thread; raises StatusError."""
        body = await self._bodies.read(receive)
        size, deadline = len(body), time.monotonic() + self._timeout
        # Requests count from here on: a client that sends slowly takes nobody's place.
        if self._now >= self._most:
            self._bodies.release(size)
            raise StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests at a time")

        def work():
            if time.monotonic() >= deadline:  # no thread was free, and nobody waits any longer
                raise _late()
            plain = unzipped(body, scope["headers"], self._unzipped)
            return rest_api.answer(self._inference, method, path, plain, deadline, call)

        def release(_):
            self._now -= 1
            self._bodies.release(size)

        answer = asyncio.get_running_loop().run_in_executor(self._pool, work)
        self._now += 1
        # Not when the client is told: until a thread is done with it, the body is there.
        answer.add_done_callback(release)
        try:
            return await asyncio.wait_for(asyncio.shield(answer), deadline - time.monotonic())
        except asyncio.TimeoutError:
            answer.add_done_callback(lambda done: let_go(done.exception()))  # nobody is told it
            raise _late() from None


def _late() -> StatusError:
    return StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, "Timed out")


def pages() -> dict[str, tuple[str, Path]]:
    """Return the files of the demonstration page by path, each with its content type."""
    by_path = {
        f"/{file.name}": (_CONTENT_TYPES[file.suffix], file)
        for file in WEB.glob("*")
        if file.suffix in _CONTENT_TYPES
    }
    if "/index.html" in by_path:
        by_path["/"] = by_path["/index.html"]
    return by_path


def _page_headers(content: bytes) -> list:
    """Return the headers of a page: nothing but this server and the page's own style is used."""
    styles = re.findall(rb"<style>(.*?)</style>", content, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(style).digest()).decode() for style in styles]
    allowed = " ".join(["'self'", *(f"'sha256-{one}'" for one in hashes)])
    return [*_SAFE, (b"content-security-policy", f"{_POLICY}; style-src {allowed}".encode())]


async def _send(send, status: int, content_type: str, content: bytes, headers: list) -> None:
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(content)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
