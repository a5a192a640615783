"""TLS for gRPC, from an SSLConfig. gRPC itself takes a wrong key without a word."""

import os
import ssl

import grpc

from serving.embedded.errors import ConfigError

_ARGUMENT = "ssl_config_file"


def credentials(config) -> grpc.ServerCredentials:
    """Return the credentials of an SSLConfig; raises ConfigError."""
    if not config.server_key or not config.server_cert:
        raise ConfigError("SSLConfig: server_key and server_cert must hold PEM text.")
    for name in ("server_key", "server_cert", "custom_ca"):
        text = getattr(config, name)
        if text and "-----BEGIN" not in text:
            raise ConfigError(f"{name}: is not PEM text; valid: that of a file.", _ARGUMENT)
    if config.client_verify and not config.custom_ca:
        raise ConfigError("SSLConfig: client_verify needs custom_ca.")
    _check_pair(config.server_cert, config.server_key)
    if config.custom_ca:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=config.custom_ca)
        except (ssl.SSLError, ValueError):
            raise ConfigError(
                "custom_ca: cannot be read; valid: PEM certificates.", _ARGUMENT
            ) from None
    pair = (config.server_key.encode(), config.server_cert.encode())
    authority = config.custom_ca.encode() or None
    return grpc.ssl_server_credentials([pair], authority, config.client_verify)


def _check_pair(certificate: str, key: str) -> None:
    """Raise ConfigError unless a key belongs to a certificate."""
    files = [os.memfd_create(name) for name in ("certificate", "key")]  # never on a disk
    try:
        for file, text in zip(files, (certificate, key), strict=True):
            os.write(file, text.encode())
        paths = [f"/proc/self/fd/{file}" for file in files]
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*paths, password=lambda: "")
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
    finally:
        for file in files:
            os.close(file)
