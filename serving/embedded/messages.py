"""Messages of gRPC's calls: waited for, held within a limit, worked on a few at a time."""

import contextlib
import threading
from collections.abc import Callable, Iterator

import grpc
from absl import logging
from google.protobuf.message import DecodeError

from serving.embedded.errors import StatusError


class Messages:
    """Waits for the messages of a server's calls; threads share it.

    A call has a thread from its headers on, and may never send its message. If too many calls are
    silent, the one that has been silent longest makes room, as it does among REST's connections.

    Args:
        threads: How many messages are worked on at a time.
        most: How many calls there are at a time.
        together: Bytes of all messages that are held at a time.
    """

    def __init__(self, threads: int, most: int, together: int):
        self._places, self._room = threading.Semaphore(threads), max(1, most - threads)
        self._lock, self._held, self._together = threading.Lock(), 0, together
        self._silent: dict[grpc.ServicerContext, None] = {}  # the longest silent first

    @contextlib.contextmanager
    def received(
        self, arriving: Iterator[bytes], context, parse: Callable, computes: bool
    ) -> Iterator:
        """Hold the request of a call while it is worked on.

        Args:
            arriving: The messages of the call.
            context: Of the call.
            parse: Makes the request of a message; raises DecodeError.
            computes: Whether it takes a place among those that are worked on.

        Raises:
            StatusError: There is no message, too much is held, or it cannot be parsed.
        """
        content = self._next(arriving, context)
        size = len(content)
        self._hold(size)
        try:
            with self._places if computes else contextlib.nullcontext():
                try:
                    request = parse(content)
                except DecodeError:
                    raise StatusError(
                        grpc.StatusCode.INTERNAL, "Exception deserializing request!"
                    ) from None
                del content  # nobody else holds it
                yield request
        finally:
            with self._lock:
                self._held -= size

    def _next(self, arriving: Iterator[bytes], context) -> bytes:
        """Return the message of a call; raises StatusError, and gRPC's error if it is cancelled."""
        with self._lock:
            self._silent[context] = None
            if len(self._silent) > self._room:
                longest = next(iter(self._silent))
                del self._silent[longest]
                longest.cancel()
                line = "gRPC: more than %d calls without a message; cancelling the longest silent"
                logging.log_every_n_seconds(logging.WARNING, line, 60, self._room)
        try:
            content = next(arriving, None)
        finally:
            with self._lock:
                self._silent.pop(context, None)
        if content is None:
            raise StatusError(grpc.StatusCode.UNIMPLEMENTED, "the call ended without a message")
        return content

    def _hold(self, size: int) -> None:
        with self._lock:
            if self._held + size > self._together:
                raise StatusError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"the messages of all calls are larger than {self._together} bytes",
                )
            self._held += size
