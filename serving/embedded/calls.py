"""One call of the server, gRPC or REST: counted by the metrics, and every failure a StatusError."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from absl import logging

from serving.embedded.errors import StatusError
from serving.embedded.metrics import Metrics


@dataclass
class Call:
    """What is known of a call. A transport fills in what it learns while it reads the request.

    Args:
        entrypoint: GRPC or REST, as metrics name it.
        text: What the log says of a call that fails unexpectedly.
        model: The name of the model, as the client gave it.
        api: What is asked of the model.
    """

    entrypoint: str
    text: str
    model: str = ""
    api: str = "unknown"


@contextmanager
def accounted(call: Call, metrics: Metrics) -> Iterator[None]:
    """Count a call when it ends, with its outcome.

    Raises:
        StatusError: Whatever went wrong: an exception that nobody expected is logged, and its
            words are kept from the client.
    """
    begin, code = time.monotonic(), grpc.StatusCode.OK
    try:
        yield
    except StatusError as error:
        code = error.code
        raise
    except Exception:
        logging.exception("%s", call.text)
        code = grpc.StatusCode.INTERNAL
        raise StatusError(code, "internal error") from None
    finally:
        metrics.request(call.model, call.api, call.entrypoint, code, time.monotonic() - begin)
