"""The models over REST: TF Serving's HTTP API, as an ASGI application.

Source: tensorflow_serving/model_servers/http_rest_api_{util,handler}.cc.
"""

import asyncio
import json
import re
import time
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import grpc
from absl import logging
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    regression_pb2,
)

from serving.embedded import json_examples, json_tensor
from serving.embedded.failure import Failure, invalid
from serving.embedded.inference import Inference
from serving.embedded.metrics import CONTENT_TYPE, Metrics
from serving.embedded.versions import MAX_VERSION

_MODEL = r"/v1/models(?:/([^/:]+))?(?:/versions/(\d+)|/labels/([^/:]+))?"
_CALL = re.compile(
    _MODEL.replace("(?:/([^/:]+))?", "/([^/:]+)") + ":(classify|regress|predict)", re.I | re.A
)
_LOOK = re.compile(_MODEL + "(?:/(metadata))?", re.I | re.A)
_GUNZIPPED = 100 << 20  # bytes, upstream's limit
_CORS = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
]


class Rest:
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
        pages: Files to serve besides, by path: (content type, content).
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
            kind, file = self._pages[path]
            await _send(send, 200, kind, file.read_bytes(), [])
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
        """Return status and body for a request below /v1/; the work is done in a thread."""
        begin, seen = time.monotonic(), _Seen()
        code = grpc.StatusCode.OK
        self._now += 1
        try:
            if self._now > self._most:
                raise Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests at a time")
            body = await _body(receive, self._largest)
            zipped = (b"content-encoding", b"gzip") in scope["headers"]
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(
                self._pool, self._answer, method, path, body, zipped, begin + self._timeout, seen
            )
            left = begin + self._timeout - time.monotonic()
            return 200, await asyncio.wait_for(work, left)
        except Failure as failure:
            code, message, status = failure.code, failure.message, failure.http
        except asyncio.TimeoutError:
            code, message, status = grpc.StatusCode.DEADLINE_EXCEEDED, "Timed out", 504
        except _TooLarge as large:
            code, message, status = grpc.StatusCode.INVALID_ARGUMENT, str(large), 413
        except Exception:
            logging.exception("%s %s", method, path)
            code, message, status = grpc.StatusCode.INTERNAL, "internal error", 500
        finally:
            self._now -= 1
            seconds = time.monotonic() - begin
            self._metrics.request(seen.model, seen.api, "REST", code, seconds)
        return status, json.dumps({"error": message}, indent=4, ensure_ascii=False).encode()

    def _answer(
        self, method: str, path: str, body: bytes, zipped: bool, deadline: float, seen: "_Seen"
    ) -> bytes:
        """Return the body of the answer to a request; raises Failure or _TooLarge."""
        if zipped:
            body = _unzipped(body)
        match = None
        if method == "POST":
            match = _CALL.fullmatch(path)
        elif method == "GET":
            match = _LOOK.fullmatch(path)
        if not match:
            raise invalid(f"Malformed request: {method} {path}")
        name, version, label, verb = match.groups()
        spec = model_pb2.ModelSpec(name=unquote(name or ""))
        seen.model, seen.api = spec.name, verb or "status"
        if version:
            if int(version) > MAX_VERSION:
                raise invalid(f"Failed to convert version: {version} to numeric.")
            spec.version.value = int(version)
        if label:
            spec.version_label = unquote(label)
        if not spec.name:
            raise invalid("Missing model name in request.")
        if method == "GET":
            return self._metadata(spec) if verb else self._status(spec)
        seen.api = verb.lower()
        return self._call(spec, seen.api, json_tensor.parse(body), deadline)

    def _call(self, spec, verb: str, body: Mapping, deadline: float) -> bytes:
        signature = body.get("signature_name", "")
        if not isinstance(signature, str):
            raise invalid(
                f"JSON Value: {json_tensor.quoted(body)} not formatted correctly. 'signature_name'"
                " key must be a string value."
            )
        if verb == "predict":
            found = self._inference.compute(
                spec, signature, lambda each: json_tensor.inputs_of(body, each), deadline
            )
            return json_tensor.answer(found, "instances" in body)
        spec.signature_name = signature
        classify = verb == "classify"
        kind = (
            classification_pb2.ClassificationRequest
            if classify
            else regression_pb2.RegressionRequest
        )
        request = kind(model_spec=spec)
        json_examples.fill(body, request)
        if classify:
            return json_examples.classes(self._inference.classify(request, deadline).result)
        return json_examples.values(self._inference.regress(request, deadline).result)

    def _status(self, spec) -> bytes:
        # Labels are ignored there, as upstream.
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        return _json(self._inference.status(request)).encode()

    def _metadata(self, spec) -> bytes:
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec, metadata_field=["signature_def"]
        )
        response = self._inference.metadata(request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return (
            f'{{\n"model_spec":{_json(response.model_spec)},\n"metadata": '
            f'{{"signature_def": {_json(signatures)}}}\n}}\n'
        ).encode()


_NOT_FOUND = b"<html><body><h1>404 Not Found</h1></body></html>"


class _Seen:
    """What metrics are told of a request, filled as it is understood."""

    model = ""
    api = "unknown"


class _TooLarge(Exception):
    """A body larger than the server takes."""


def _json(message) -> str:
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


async def _body(receive, largest: int) -> bytes:
    """Return the body of a request; raises _TooLarge or Failure."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Failure(grpc.StatusCode.CANCELLED, "the client went away")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > largest:
            raise _TooLarge(f"the body is larger than {largest} bytes")
        more = message.get("more_body", False)
    return b"".join(parts)


def _unzipped(body: bytes) -> bytes:
    """Return what a gzipped body holds; raises Failure or _TooLarge."""
    unzip = zlib.decompressobj(wbits=31)
    try:
        found = unzip.decompress(body, _GUNZIPPED)
    except zlib.error:
        raise invalid("Failed to decompress the body: it is not gzip") from None
    if unzip.unconsumed_tail:
        raise _TooLarge(f"the body is larger than {_GUNZIPPED} bytes when unzipped")
    return found


async def _send(send, status: int, kind: str, content: bytes, headers: list) -> None:
    headers = [
        (b"content-type", kind.encode()),
        (b"content-length", str(len(content)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
