"""What can go wrong in the server: one family of exceptions.

ServingError
    ConfigError             the configuration cannot be used, so there is no server
    StatusError             a request or a load failed, with a status code
        BodyTooLargeError   HTTP has a code of its own for that
"""

import grpc

LONGEST = 1024  # characters of a message that travel in gRPC's trailers
# tensorflow_serving/model_servers/http_server.cc; every other code is 500.
_HTTP = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


class ServingError(Exception):
    """Anything that the server cannot do."""


class ConfigError(ServingError):
    """A configuration that cannot be used.

    Args:
        message: One line for the person who wrote it.
        argument: The flag it is about, without its dashes; empty: none in particular.
    """

    def __init__(self, message: str, argument: str = ""):
        super().__init__(message)
        self.argument = argument


class StatusError(ServingError):
    """A request that cannot be answered, or a version that cannot be loaded.

    Args:
        code: gRPC's status code.
        message: As TF Serving words it.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def http(self) -> int:
        """The HTTP status that REST answers with."""
        return _HTTP.get(self.code, 500)

    @property
    def details(self) -> str:
        """The message as gRPC carries it: cut if it would outgrow the trailers."""
        if len(self.message) <= LONGEST:
            return self.message
        return self.message[:LONGEST] + "...TRUNCATED"

    @property
    def status(self) -> str:
        """Code and message, as `absl::Status::ToString` prints them."""
        return f"{self.code.name}: {self.message}"


class BodyTooLargeError(StatusError):
    """The body of a REST request is larger than the server accepts."""

    http = 413

    def __init__(self, message: str):
        super().__init__(grpc.StatusCode.INVALID_ARGUMENT, message)


def let_go(error: BaseException | None) -> None:
    """Drop the frames that an error, and those before it, passed: they hold the request.

    A future holds the error, and one of the frames the future. Such a cycle, and a body of a
    gigabyte with it, stays until Python looks for cycles, which a quiet server rarely does.
    """
    while error is not None:
        before = error.__context__
        error.__traceback__ = error.__cause__ = error.__context__ = None
        error = before


def invalid(message: str) -> StatusError:
    """Return an error with the most common code, INVALID_ARGUMENT."""
    return StatusError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(servable: str) -> StatusError:
    """Return the error for a model or version that is not served."""
    return StatusError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {servable}")
