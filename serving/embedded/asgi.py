"""REST as an ASGI application: bodies, time limits, pages. What is answered is `rest_api`'s."""

import asyncio
import json
import time
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from serving.embedded import rest_api
from serving.embedded.calls import Call, accounted
from serving.embedded.errors import BodyTooLargeError, StatusError, invalid
from serving.embedded.inference import Inference
from serving.embedded.metrics import CONTENT_TYPE, Metrics

WEB = Path(__file__).parent.parent / "web"
_CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".css": "text/css",
}
_GUNZIPPED = 100 << 20  # bytes, upstream's limit
_CORS = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
]
_NOT_FOUND = b"<html><body><h1>404 Not Found</h1></body></html>"


class Application:
    """An ASGI application.

    Args:
        inference: Answers.
        metrics: Counts.
        threads: How many requests are worked on at a time.
        timeout: Seconds that a request may take.
        largest: Bytes of a body.
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
        largest: int = 1 << 30,
        most: int = 1000,
        cors: bool = False,
        metrics_path: str | None = None,
        pages: Mapping[str, tuple[str, Path]] | None = None,
    ):
        self._inference, self._metrics = inference, metrics
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="rest")
        self._timeout, self._largest, self._most, self._now = timeout, largest, most, 0
        self._headers = _CORS if cors else []
        self._metrics_path, self._pages = metrics_path, dict(pages or {})

    async def __call__(self, scope, receive, send):
        """Answer one request."""
        if scope["type"] != "http":
            return
        path = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            path += "?" + scope["query_string"].decode("latin-1")
        method = scope["method"]
        if method == "GET" and path in self._pages:
            content_type, file = self._pages[path]
            await _send(send, 200, content_type, file.read_bytes(), [])
        elif method == "GET" and path == "/models.json" and self._pages:
            names = json.dumps({"models": self._inference.manager.names()}).encode()
            await _send(send, 200, "application/json", names, [])
        elif method == "GET" and path == self._metrics_path:
            await _send(send, 200, CONTENT_TYPE, self._metrics.text(), [])
        elif not path.lower().startswith("/v1/"):
            await _send(send, 404, "text/html", _NOT_FOUND, [])
        elif method == "OPTIONS" and self._headers:
            await _send(send, 200, "text/plain", b"", self._headers)
        else:
            status, content = await self._api(scope, method, path, receive)
            await _send(send, status, "application/json", content, self._headers)

    async def _api(self, scope, method: str, path: str, receive) -> tuple[int, bytes]:
        """Return status and body for a request below /v1/."""
        call = Call("REST", f"{method} {path}")
        self._now += 1
        try:
            with accounted(call, self._metrics):
                return 200, await self._computed(scope, method, path, receive, call)
        except StatusError as error:
            body = json.dumps({"error": error.message}, indent=4, ensure_ascii=False)
            return error.http, body.encode()
        finally:
            self._now -= 1

    async def _computed(self, scope, method: str, path: str, receive, call: Call) -> bytes:
        """Return the answer, computed in a thread; raises StatusError."""
        deadline = time.monotonic() + self._timeout
        if self._now > self._most:
            raise StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests at a time")
        body = await _body(receive, self._largest)
        zipped = (b"content-encoding", b"gzip") in scope["headers"]

        def work():
            plain = _unzipped(body) if zipped else body
            return rest_api.answer(self._inference, method, path, plain, deadline, call)

        answer = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            return await asyncio.wait_for(answer, deadline - time.monotonic())
        except asyncio.TimeoutError:
            raise StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, "Timed out") from None


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


async def _body(receive, largest: int) -> bytes:
    """Return the body of a request; raises StatusError."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise StatusError(grpc.StatusCode.CANCELLED, "the client went away")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > largest:
            raise BodyTooLargeError(f"the body is larger than {largest} bytes")
        more = message.get("more_body", False)
    return b"".join(parts)


def _unzipped(body: bytes) -> bytes:
    """Return what a gzipped body holds; raises StatusError."""
    unzip = zlib.decompressobj(wbits=31)
    try:
        content = unzip.decompress(body, _GUNZIPPED)
    except zlib.error:
        raise invalid("Failed to decompress the body: it is not gzip") from None
    if unzip.unconsumed_tail:
        raise BodyTooLargeError(f"the body is larger than {_GUNZIPPED} bytes when unzipped")
    return content


async def _send(send, status: int, content_type: str, content: bytes, headers: list) -> None:
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(content)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
