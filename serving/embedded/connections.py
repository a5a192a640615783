"""HTTP connections: how many, how long they may be silent, and how large their headers may be.

uvicorn limits neither headers nor their time. Every connection here waits for headers, waits for a
body, is being answered, or waits for its next request. One that waits too long is dropped; if there
are too many, the one that has been silent for the longest time makes room for a new one.
"""

import asyncio
import logging as python_logging
import resource
import sys
import time

import httptools
from absl import logging
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.embedded.options import ConnectionLimits

FILES = 200  # file descriptors that are left for everything but connections
_CHUNK = 32  # bytes around a piece of a chunked body
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%s"
)


class Connections:
    """All connections of a server. Lives in the thread of its event loop."""

    def __init__(self, limits: ConnectionLimits):
        self.limits = limits
        self._open: set[Connection] = set()
        self._sweeping: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def protocol(self) -> type:
        """Return the class that uvicorn makes for each connection."""
        return type("Connection", (Connection,), {"all": self})

    def add(self, new: "Connection") -> None:
        """Take a new connection; drop the one that has been silent longest if there are too many.

        If all are being answered, the new one is dropped.
        """
        self._open.add(new)
        if self._sweeping is None:
            self._sweeping = new.loop.call_later(1.0, self._sweep, new.loop)
        if len(self._open) > self.limits.most:
            silent = [one for one in self._open if one is not new and not one.answering]
            min(silent, key=lambda one: one.moved, default=new).drop()
            line = "REST: more than %d connections; closing the longest idle ones"
            logging.log_every_n_seconds(logging.WARNING, line, 60, self.limits.most)

    def discard(self, old: "Connection") -> None:
        """Forget a connection that was closed."""
        self._open.discard(old)

    def _sweep(self, loop) -> None:
        """Drop connections that took too long; again every second while there are any."""
        now = time.monotonic()
        for one in list(self._open):
            if one.overdue(now):
                one.drop()
        self._sweeping = loop.call_later(1.0, self._sweep, loop) if self._open else None


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with limits."""

    all: Connections

    def connection_made(self, transport) -> None:
        """Begin to wait for headers."""
        super().connection_made(transport)
        self.moved = self.since = self._sent = time.monotonic()  # last bytes; begin of the wait
        self._unsent = self._overhead = self._headers = 0  # bytes
        self._between = False  # it has sent a whole request, and nothing of a next one
        self.all.add(self)

    def connection_lost(self, exc) -> None:
        """Forget the connection."""
        self.all.discard(self)
        super().connection_lost(exc)

    @property
    def answering(self) -> bool:
        """Whether a whole request is being worked on."""
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete and not cycle.more_body

    def overdue(self, now: float) -> bool:
        """Whether it has waited too long. The application limits the time of bodies and answers."""
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._sent = unsent, now
        if unsent:
            return now - self._sent > self.all.limits.send_seconds
        if self.cycle is not None and not self.cycle.response_complete:
            return False
        limits = self.all.limits
        return now - self.since > (limits.idle_seconds if self._between else limits.header_seconds)

    def drop(self) -> None:
        """Close at once, whatever was not sent."""
        if self.transport is not None:
            self.transport.abort()
        self.all.discard(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes; refuse headers, and what follows a body, that are too large."""
        self.moved = time.monotonic()
        self._overhead += len(data)
        self._data, self._again = data, False
        super().data_received(data)
        self._data = b""
        most = self.all.limits.header_bytes
        if max(self._overhead, self._headers) > most and not self.transport.is_closing():
            said = b'{"error": "the headers are larger than %d bytes"}' % most
            self.transport.write(_TOO_LARGE % (len(said), said))
            self.transport.close()

    @property
    def _refused(self) -> bool:
        return self._headers > self.all.limits.header_bytes

    def on_message_begin(self) -> None:
        """Begin to wait for the rest of the headers."""
        super().on_message_begin()
        self.since, self._headers, self._between = time.monotonic(), 0, False

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request line."""
        self._headers += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._headers += len(name) + len(value) + 4
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to work, unless the parser is about to stop: see below."""
        if not self._refused and not self.parser.should_upgrade():
            super().on_headers_complete()
            self._overhead = 0

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body, which the application limits."""
        if not self._refused:
            super().on_body(body)
            self._overhead = max(0, self._overhead - len(body) - _CHUNK)

    def on_message_complete(self) -> None:
        """End a request."""
        if not self._refused and not self.parser.should_upgrade():
            super().on_message_complete()
            self._overhead, self._between = 0, True

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self.since = time.monotonic()
        super().on_response_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Begin again without the wish for another protocol, as RFC 9110 section 7.8 has it.

        The parser has stopped after the headers, and would not read a body.
        """
        rest = self._data[sys.exc_info()[1].args[0] :]
        method = self.parser.get_method()
        if method == b"CONNECT" or self._again:  # or a second such request without an answer
            self.send_400_response("Invalid HTTP request received.")
            return
        lines = [b"%s %s HTTP/1.1" % (method, self.url)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser, self._again = httptools.HttpRequestParser(self), True
        super().data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)


def possible(*most: int) -> list[int]:
    """Return how many connections of each kind there can be: at most these, and fewer than files.

    The process' soft limit of open files is raised first, as far as it may be. If it is too low all
    the same, every kind has its share.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = sum(most) + 2 * FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return list(most)
    left = min(soft - FILES, sum(most))
    return [max(1, one * left // sum(most)) for one in most]


class Rarely(python_logging.Filter):
    """Lets a message of a log pass once a minute, on one line."""

    def __init__(self, seconds: float = 60.0):
        super().__init__()
        self._seconds = seconds
        self._last: dict[str, float] = {}

    def filter(self, record: python_logging.LogRecord) -> bool:
        """Whether to write a record."""
        now = time.monotonic()
        text = str(record.msg).split("\n")[0][:100]
        if now - self._last.get(text, -self._seconds) < self._seconds:
            return False
        if len(self._last) > 100:
            self._last.clear()
        self._last[text] = now
        error = record.exc_info[1] if record.exc_info else None
        record.msg, record.args = f"{record.getMessage()}".strip().split("\n")[0], ()
        if isinstance(error, OSError):  # a network that fails, or no file descriptors
            record.msg += f": {error.strerror}"
            record.exc_info = record.exc_text = None
        return True


def log_rarely() -> None:
    """Let uvicorn and asyncio write the same line once a minute."""
    for name in ("uvicorn.error", "asyncio"):
        logger = python_logging.getLogger(name)
        if not any(isinstance(one, Rarely) for one in logger.filters):
            logger.addFilter(Rarely())
