"""Where a server listens: addresses, sockets, and the arguments of gRPC's channels."""

import errno
import re
import socket
import stat
from pathlib import Path

from serving.embedded.errors import ConfigError

_ARGUMENTS, _SOCKET = "grpc_channel_arguments", "grpc_socket_path"


def bound(argument: str, host: str, port: int) -> socket.socket:
    """Return a socket at an address; raises ConfigError.

    Args:
        argument: The flag that chose the port.
        host: An address of this machine.
        port: 0: a free one.
    """
    # asyncio turns Nagle's algorithm off only for sockets that name their protocol; with it, an
    # answer's body waits 40 ms for the client to acknowledge its head.
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, proto=socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(
                f"received '{host}'; valid: an address of this machine, or 0.0.0.0.", "host"
            ) from None
        raise _unusable(argument, host, port, error) from None
    return made


def listen(argument: str, made: socket.socket) -> None:
    """Listen on a socket of `bound`; raises ConfigError: another one may have begun since then."""
    try:
        made.listen(1024)
    except OSError as error:
        host, port, *_ = made.getsockname()
        made.close()
        raise _unusable(argument, host, port, error) from None


def _unusable(argument: str, host: str, port: int, error: OSError) -> ConfigError:
    taken = error.errno == errno.EADDRINUSE
    remedy = "; valid: a port that no other program uses" if taken else ""
    return ConfigError(f"{host}:{port}: {error.strerror}{remedy}.", argument)


def grpc_address(host: str, port: int) -> str:
    """Return a TCP address for gRPC; raises ConfigError if it cannot be bound."""
    bound("port", host, port).close()  # gRPC's own message is C++, and vague
    return f"{bracketed(host)}:{port}"


def bracketed(host: str) -> str:
    """Return a host as addresses hold it: IPv6 in brackets."""
    return f"[{host.strip('[]')}]" if ":" in host else host


def unix_address(path: str) -> str:
    """Return the address of a UNIX socket for gRPC; raises ConfigError."""
    file = Path(path)
    if not file.parent.is_dir():
        raise ConfigError(f"received '{path}'; valid: a path in a directory that exists.", _SOCKET)
    if (file.exists() or file.is_symlink()) and not stat.S_ISSOCK(file.lstat().st_mode):
        raise ConfigError(
            f"received '{path}', which is not a socket; valid: a path that does not exist, or the"
            " socket of an earlier server.",
            _SOCKET,
        )
    try:
        if _answers(path):
            raise ConfigError(
                f"received '{path}', on which a program listens; valid: a path that no other"
                " program uses.",
                _SOCKET,
            )
        file.unlink(missing_ok=True)  # left by an earlier server
        with socket.socket(socket.AF_UNIX) as tried:  # gRPC's own message is C++, and vague
            tried.bind(path)
        file.unlink()
    except OSError as error:
        raise ConfigError(
            f"'{path}' cannot be bound: {error.strerror or error}.", _SOCKET
        ) from None
    return f"unix:{path}"


def _answers(path: str) -> bool:
    """Whether a program listens on a UNIX socket, even if it takes nobody now."""
    with socket.socket(socket.AF_UNIX) as tried:
        tried.setblocking(False)
        return tried.connect_ex(path) in (0, errno.EAGAIN)


def channel_arguments(text: str) -> list[tuple[str, object]]:
    """Return NAME=VALUE,... as gRPC's options; raises ConfigError."""
    arguments = []
    for pair in filter(None, text.split(",")):
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise ConfigError(f"received '{pair}'; valid: NAME=VALUE,...", _ARGUMENTS)
        if re.fullmatch(r"-?[0-9]+", value):
            if len(value) > 11 or not -(2**31) <= int(value) < 2**31:
                raise ConfigError(
                    f"{name}: received {value[:20]}; valid: a number of 32 bits.", _ARGUMENTS
                )
            value = int(value)
        arguments.append((name, value))
    return arguments
