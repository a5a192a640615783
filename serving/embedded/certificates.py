"""TLS for gRPC, from an SSLConfig. gRPC itself takes a wrong key without a word."""

import contextlib
import os
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc

from serving.embedded.errors import ConfigError

_ARGUMENT = "ssl_config_file"


def credentials(config) -> grpc.ServerCredentials:
    """Return the credentials of an SSLConfig; raises ConfigError."""
    if not config.server_key or not config.server_cert:
        raise ConfigError("server_key and server_cert must hold PEM text.", _ARGUMENT)
    for name in ("server_key", "server_cert", "custom_ca"):
        text = getattr(config, name)
        if text and "-----BEGIN" not in text:
            raise ConfigError(
                f"{name}: is not PEM text; valid: the text of a PEM file, not its name.", _ARGUMENT
            )
    if config.client_verify and not config.custom_ca:
        raise ConfigError("client_verify needs custom_ca.", _ARGUMENT)
    _check_pair(config.server_cert, config.server_key)
    if config.custom_ca:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=config.custom_ca)
        except (ssl.SSLError, ValueError):
            raise ConfigError(
                "custom_ca: cannot be read; valid: certificates as PEM text.", _ARGUMENT
            ) from None
    pair = (config.server_key.encode(), config.server_cert.encode())
    authority = config.custom_ca.encode() or None
    return grpc.ssl_server_credentials([pair], authority, config.client_verify)


def _check_pair(certificate: str, key: str) -> None:
    """Raise ConfigError unless a key belongs to a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        with _files(certificate, key) as paths:
            context.load_cert_chain(*paths, password=lambda: "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                "server_key does not match server_cert; valid: the key of that certificate.",
                _ARGUMENT,
            ) from None
        raise ConfigError(
            f"server_cert, server_key: cannot be read ({error.reason or 'no PEM'}); valid: PEM"
            " text without a password.",
            _ARGUMENT,
        ) from None


@contextlib.contextmanager
def _files(*texts: str) -> Iterator[list[str]]:
    """Give the paths of files that hold these texts: `ssl` reads a pair from files alone."""
    with contextlib.ExitStack() as held:
        if hasattr(os, "memfd_create"):  # Linux: never on a disk
            files = [os.memfd_create("pem") for _ in texts]
            for file in files:
                held.callback(os.close, file)
            paths = [f"/proc/self/fd/{file}" for file in files]
        else:
            directory = held.enter_context(tempfile.TemporaryDirectory())  # this user's alone
            paths = [os.path.join(directory, str(i)) for i in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            Path(path).write_text(text, encoding="utf-8")
        yield paths
