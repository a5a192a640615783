"""Where a server is, as its clients are told, and how gRPC reaches it."""

import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit

from serving import command

# The limit of a channel is 4 MiB unless told otherwise; the server has no limit either.
_UNLIMITED = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
_NO_PROXY = [("grpc.enable_http_proxy", 0)]


def joined(host: str, port: int, usual: int = 0) -> str:
    """Return HOST:PORT, with IPv6 in brackets; https://... as it is, but for a port that is given.

    Args:
        host: Of the server, or the URL of a proxy with TLS that leads to it.
        port: 0 if none was given.
        usual: The port of a host for which none was given.
    """
    if host.startswith("https://"):
        parts = urlsplit(host)
        bare = re.sub(r":\d*$", "", parts.netloc)  # the hostname, as it was written
        return parts._replace(netloc=f"{bare}:{port}").geturl() if port else host
    port, host = port or usual, host.rstrip("/")
    bare = host.strip("[]")
    return f"[{bare}]:{port}" if _is_ip(bare) and ":" in bare else f"{host}:{port}"


def usual_port(rest: bool, given: int = 0) -> int:
    """Return the port of REST or gRPC where none is given; raises MistakeError for no port."""
    if given > 65535:
        raise command.MistakeError(f"--port: received {given}; valid: 0 to 65535.")
    return 8501 if rest else 8500


def is_loopback(address: str) -> bool:
    """Whether [SCHEME://]HOST[:PORT] is of this machine, to which no proxy leads."""
    try:
        host = urlsplit(address if "://" in address else f"//{address}").hostname or ""
    except ValueError:  # half of a pair of brackets
        return False
    return host == "localhost" or (_is_ip(host) and ipaddress.ip_address(host).is_loopback)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def url_of(address: str) -> str:
    """Return the root of REST at HOST:PORT, or at the URL that people copied instead."""
    return (address if "://" in address else f"http://{address}").rstrip("/")


def channel_to(address: str, ca_file: str = ""):
    """Return a gRPC channel, with TLS if an authority is given; raises MistakeError."""
    import grpc

    address = address.removeprefix("http://").rstrip("/")  # as people copy it
    if address.startswith("https://"):
        raise command.MistakeError(
            f"address: received '{address}'; valid: HOST:PORT, with a ca_file if the server uses"
            " TLS; https:// needs --rest."
        )
    options = _UNLIMITED + (_NO_PROXY if is_loopback(address) else [])
    if not ca_file:
        return grpc.insecure_channel(address, options=options)
    credentials = grpc.ssl_channel_credentials(authority(ca_file))
    return grpc.secure_channel(address, credentials, options)


def authority(ca_file: str) -> bytes:
    """Return the certificates of a PEM file; raises MistakeError."""
    try:
        content = Path(ca_file).read_bytes()
    except OSError as error:
        raise command.MistakeError(f"--ca_file: {ca_file}: {error.strerror}.") from None
    if b"-----BEGIN" not in content:
        raise command.MistakeError(f"--ca_file: {ca_file}: is not PEM text.")
    return content
