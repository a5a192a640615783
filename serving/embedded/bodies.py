"""Bodies of REST requests: read within limits of size and time, and unzipped."""

import asyncio
import time
import zlib
from collections.abc import Sequence

import grpc

from serving.embedded.errors import BodyTooLargeError, StatusError, invalid
from serving.embedded.options import BodyLimits


class Bodies:
    """Reads the bodies of a server. Lives in the thread of its event loop."""

    def __init__(self, limits: BodyLimits):
        self._limits, self._held = limits, 0

    async def read(self, receive) -> bytes:
        """Return the body of a request, which counts as held until `release`.

        Args:
            receive: ASGI's.

        Raises:
            StatusError: It is too large, too slow, or the client went away.
        """
        parts, size = [], 0
        end = time.monotonic() + self._limits.seconds
        try:
            more = True
            while more:
                try:
                    message = await asyncio.wait_for(receive(), max(0.0, end - time.monotonic()))
                except asyncio.TimeoutError:
                    raise StatusError(
                        grpc.StatusCode.DEADLINE_EXCEEDED, "Timed out: the body is incomplete"
                    ) from None
                if message["type"] == "http.disconnect":
                    raise StatusError(grpc.StatusCode.CANCELLED, "the client went away")
                part = message.get("body", b"")
                more = message.get("more_body", False)
                self._held += len(part)
                size += len(part)
                self._check(size)
                parts.append(part)
            return b"".join(parts)
        except BaseException:
            self.release(size)
            raise

    def release(self, size: int) -> None:
        """Count a body of this size as held no longer."""
        self._held -= size

    def _check(self, size: int) -> None:
        if size > self._limits.largest:
            raise BodyTooLargeError(f"the body is larger than {self._limits.largest} bytes")
        if self._held > self._limits.together:
            raise StatusError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the bodies of all requests are larger than {self._limits.together} bytes",
            )


def unzipped(body: bytes, headers: Sequence[tuple[bytes, bytes]], largest: int) -> bytes:
    """Return a body, unzipped if its headers say so; raises StatusError.

    As upstream: any Content-Encoding that contains "gzip", and one member.
    """
    coded = any(name == b"content-encoding" and b"gzip" in value.lower() for name, value in headers)
    if not coded or not body:
        return body
    unzip = zlib.decompressobj(wbits=31)
    try:
        content = unzip.decompress(body, largest)
        if unzip.unconsumed_tail and not unzip.eof:
            # Nothing but the trailer may be left of a body that is as large as it may be.
            content += unzip.decompress(unzip.unconsumed_tail, 1)
    except zlib.error:
        raise invalid("Failed to decompress the body: it is not gzip") from None
    if len(content) > largest:
        raise BodyTooLargeError(f"the body is larger than {largest} bytes when unzipped")
    if not unzip.eof:
        raise invalid("Failed to decompress the body: it ends too early")
    if unzip.unused_data:
        raise invalid("Failed to decompress the body: other data follows it")
    return content
