"""A whole server: configuration read, models loaded, ports opened; and closed again."""

import errno
import os
import socket
import threading
import time
from pathlib import Path

import uvicorn
from absl import logging
from tensorflow.core.protobuf import config_pb2

from serving.embedded import batching, grpc_api, metrics, protos, rest
from serving.embedded.failure import Failure
from serving.embedded.inference import Inference
from serving.embedded.loading import Loader
from serving.embedded.manager import Manager, configs_of
from serving.embedded.protos import ConfigError, read
from serving.embedded.versions import Config

WEB = Path(__file__).parent.parent / "web"
SEND_SECONDS = 5  # for the last answers to reach their clients
_KINDS = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css"}


class Server:
    """Everything that `python -m serving.server` runs. It answers when this returns.

    Args:
        flags: With an attribute for each flag of serving/server.py.
        stop: Set from elsewhere to give up waiting for models.

    Raises:
        ConfigError: A configuration or an address cannot be used.
        Failure: A model cannot be loaded.
    """

    def __init__(self, flags, stop: threading.Event | None = None):
        self._flags, self._cpus = flags, os.cpu_count() or 1
        for name in ("port", "rest_api_port"):
            if getattr(flags, name) > 65535:  # gRPC would take another one
                raise ConfigError(f"--{name}: received {getattr(flags, name)}; valid: 0 to 65535.")
        self.metrics = metrics.Metrics()
        monitoring = _optional(flags.monitoring_config_file, protos.MonitoringConfig)
        options = self._batching()
        key = None
        if flags.ssl_config_file:
            key = grpc_api.credentials(read(flags.ssl_config_file, protos.SSLConfig))
        configs = self._configs()
        self.manager = Manager(
            self._loader(options),
            flags.max_num_load_retries,
            flags.load_retry_interval_micros / 1e6,
            flags.allow_version_labels_for_unavailable_models,
            flags.num_load_threads,
        )
        self._ports(key, options, monitoring)
        self._load(configs, stop or threading.Event())
        self._grpc.start()
        if self._rest is not None:
            self._socket.listen(1024)
            self._rest_thread = threading.Thread(
                target=self._rest.run, args=([self._socket],), name="rest", daemon=True
            )
            self._rest_thread.start()

    def _configs(self) -> list[Config]:
        """Return what is to be served; raises ConfigError."""
        flags = self._flags
        if flags.model_config_file:
            return configs_of(read(flags.model_config_file, protos.ModelServerConfig))
        if not flags.model_base_path:
            raise ConfigError(
                "Both server_options.model_base_path and server_options.model_config_file are"
                " empty! Give --model_base_path or --model_config_file."
            )
        return [Config(flags.model_name, Path(flags.model_base_path).absolute())]

    def _batching(self) -> batching.Options | None:
        flags = self._flags
        if not flags.enable_batching:
            if flags.batching_parameters_file:
                raise ConfigError("--batching_parameters_file: needs --enable_batching.")
            return None
        message = _optional(flags.batching_parameters_file, protos.BatchingParameters)
        return batching.Options.of(message, self._cpus)

    def _loader(self, options: batching.Options | None) -> Loader:
        flags = self._flags
        both = flags.tensorflow_session_parallelism
        config = config_pb2.ConfigProto(
            intra_op_parallelism_threads=flags.tensorflow_intra_op_parallelism or both,
            inter_op_parallelism_threads=flags.tensorflow_inter_op_parallelism or both,
        )
        return Loader(
            self._cpus,
            tuple(flags.saved_model_tags.split(",")),
            config,
            flags.enable_model_warmup,
            flags.num_request_iterations_for_warmup,
            options,
            flags.enable_per_model_batching_parameters,
            self.metrics.batch,
        )

    def _ports(self, key, options: batching.Options | None, monitoring) -> None:
        """Open the ports; raises ConfigError."""
        flags = self._flags
        _bound("port", flags.host, flags.port).close()  # gRPC's own message is C++, and vague
        inference = Inference(self.manager, flags.enable_serialization_as_tensor_content)
        addresses = [(f"{flags.host}:{flags.port}", key)]
        if flags.grpc_socket_path:
            if not Path(flags.grpc_socket_path).parent.is_dir():
                raise ConfigError(
                    f"--grpc_socket_path: received '{flags.grpc_socket_path}'; valid: a path in a"
                    " directory that exists."
                )
            Path(flags.grpc_socket_path).unlink(missing_ok=True)  # of a server that is gone
            addresses.append((f"unix:{flags.grpc_socket_path}", None))
        # Whoever waits in a batch holds a thread, so batches are no larger than the number of
        # threads.
        threads = 4 * self._cpus
        if options is not None:
            threads = max(threads, min(2 * options.size, 128))
        try:
            self._grpc, (self.port, *_) = grpc_api.server(
                inference,
                self.metrics,
                addresses,
                flags.grpc_max_threads or threads,
                _channel_arguments(flags.grpc_channel_arguments),
                flags.enable_grpc_healthcheck_service,
                flags.max_concurrent_requests,
            )
        except RuntimeError:
            raise ConfigError(f"--port: {flags.host}:{flags.port} is taken or not ours.") from None
        self._rest = None
        if flags.rest_api_port:
            self._rest = self._rest_server(inference, monitoring)

    def _rest_server(self, inference: Inference, monitoring) -> uvicorn.Server:
        """Return REST's server with its port open; raises ConfigError."""
        flags = self._flags
        path = None
        if monitoring.prometheus_config.enable:
            path = monitoring.prometheus_config.path or metrics.PATH
        application = rest.Rest(
            inference,
            self.metrics,
            flags.rest_api_num_threads or 4 * self._cpus,
            flags.rest_api_timeout_in_ms / 1000,
            flags.rest_api_max_body_mib << 20,
            flags.max_concurrent_requests,
            flags.rest_api_enable_cors_support,
            path,
            _pages(),
        )
        self._socket = _bound("rest_api_port", flags.host, flags.rest_api_port)
        config = uvicorn.Config(
            application,
            http="httptools",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
        )
        return uvicorn.Server(config)

    def _load(self, configs: list[Config], stop: threading.Event) -> None:
        """Load the models and watch their directories; raises Failure."""
        flags = self._flags
        self.manager.set_configs(configs)
        if flags.file_system_poll_wait_seconds:
            self.manager.every(flags.file_system_poll_wait_seconds, self.manager.refresh)
        if flags.model_config_file and flags.model_config_file_poll_wait_seconds:
            self.manager.every(flags.model_config_file_poll_wait_seconds, self._reread)
        self.manager.wait(stop)

    def _reread(self) -> None:
        """Serve what the configuration file says now; keep what is served where it is wrong."""
        try:
            self.manager.set_configs(self._configs())
        except (ConfigError, Failure) as error:
            logging.error("--model_config_file: the old one stays: %s", error)

    def lines(self) -> list[str]:
        """Return what is served where, for people."""
        flags = self._flags
        host = flags.host if flags.host != "0.0.0.0" else "localhost"
        found = [f"serving {', '.join(self.manager.names())}"]
        found.append(f"gRPC  {host}:{self.port}")
        if self._rest is not None:
            found.append(f"REST  http://{host}:{flags.rest_api_port}/v1/models/...")
            found.append(f"page  http://{host}:{flags.rest_api_port}/")
        return found

    def stop(self, seconds: float) -> None:
        """Take no more requests, and let those that run finish, for so long at most."""
        end = time.monotonic() + seconds
        self.manager.close(seconds)
        # What ran has finished, or may not: only answers are still to be sent.
        left = min(max(end - time.monotonic(), 0), SEND_SECONDS)
        finished = self._grpc.stop(left)
        if self._rest is not None:
            self._rest.config.timeout_graceful_shutdown = left
            self._rest.should_exit = True
            self._rest_thread.join(left + 1)
        finished.wait(left + 1)
        self.manager.stop()


def _optional(path: str, message: type):
    """Return the message of a text file, an empty one without a file; raises ConfigError."""
    return read(path, message) if path else message()


def _bound(name: str, host: str, port: int) -> socket.socket:
    """Return a socket at the address of flag `name`; raises ConfigError."""
    # asyncio turns Nagle's algorithm off only for sockets that name their protocol; with it, an
    # answer's body waits 40 ms for the client to acknowledge its head.
    made = socket.socket(proto=socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(
                f"--host: received '{host}'; valid: an address of this machine, or 0.0.0.0."
            ) from None
        raise ConfigError(f"--{name}: {host}:{port}: {error.strerror}.") from None
    return made


def _channel_arguments(text: str) -> list[tuple[str, object]]:
    """Return NAME=VALUE,... as gRPC's options; raises ConfigError."""
    found = []
    for each in filter(None, text.split(",")):
        name, sign, value = each.partition("=")
        if not sign or not name:
            raise ConfigError(f"--grpc_channel_arguments: received '{each}'; valid: NAME=VALUE,...")
        found.append((name, int(value) if value.lstrip("-").isdigit() else value))
    return found


def _pages() -> dict[str, tuple[str, Path]]:
    """Return the demonstration page's files by path."""
    found = {
        f"/{file.name}": (_KINDS[file.suffix], file)
        for file in WEB.glob("*")
        if file.suffix in _KINDS
    }
    if "/index.html" in found:
        found["/"] = found["/index.html"]
    return found
