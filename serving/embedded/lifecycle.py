"""A whole server: configuration read, models loaded, ports opened; and closed again."""

import dataclasses
import os
import threading
import time

import uvicorn
from absl import logging
from tensorflow.core.protobuf import config_pb2

from serving.embedded import asgi, certificates, connections, grpc_api, ports, protos
from serving.embedded.configs import configs_of, local
from serving.embedded.errors import ConfigError, ServingError
from serving.embedded.factory import ServableFactory
from serving.embedded.inference import Inference
from serving.embedded.manager import Manager
from serving.embedded.metrics import PATH, Metrics
from serving.embedded.options import BatchingOptions, Options
from serving.embedded.versions import ModelConfig

SEND_SECONDS = 5  # for the last answers to reach their clients


def cpus() -> int:
    """Return how many CPUs there are for this process, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Server:
    """Everything that `python -m serving.server` runs. It answers when this returns.

    Args:
        options: What to serve, where and how.
        stop: Set from elsewhere to give up waiting for models.

    Raises:
        ConfigError: A configuration or an address cannot be used.
        StatusError: A model cannot be loaded.
    """

    def __init__(self, options: Options, stop: threading.Event | None = None):
        self._options, self._cpus = options, cpus()
        self.metrics = Metrics(lambda: self.manager.names())
        monitoring = _optional(
            options.rest.monitoring_file, protos.MonitoringConfig, "monitoring_config_file"
        )
        batching = self._batching()
        key = None
        if options.grpc.ssl_file:
            config = protos.read(options.grpc.ssl_file, protos.SSLConfig, "ssl_config_file")
            key = certificates.credentials(config)
        configs = self._configs()
        self.manager = Manager(
            self._factory(batching),
            options.loads.retries,
            options.loads.retry_seconds,
            options.models.early_labels,
            options.loads.threads,
        )
        inference = Inference(
            self.manager, options.grpc.tensor_content, options.grpc.filled, options.reloads
        )
        self._checks = grpc_api.health_checks() if options.grpc.health_service else None
        most, *rest_most = self._possible_connections()
        self._grpc, self.port = self._grpc_server(inference, key, batching, most)
        self._rest = None
        if options.rest.port:
            self._rest = self._rest_server(inference, monitoring, *rest_most)
            self._socket = ports.bound("rest_api_port", options.host, options.rest.port)
        self._load(configs, stop or threading.Event())
        self._start()

    def _start(self) -> None:
        if self._rest is not None:
            ports.listen("rest_api_port", self._socket)
        self._grpc.start()
        if self._rest is not None:
            self._rest_thread = threading.Thread(
                target=self._rest.run, args=([self._socket],), name="rest", daemon=True
            )
            self._rest_thread.start()

    def _configs(self) -> list[ModelConfig]:
        """Return what is to be served; raises ConfigError."""
        models = self._options.models
        if models.config_file:
            config = protos.read(models.config_file, protos.ModelServerConfig, "model_config_file")
            return configs_of(config)
        base = local(models.base_path, "model_base_path")
        return [ModelConfig(models.name, base.absolute())]

    def _batching(self) -> BatchingOptions | None:
        batches = self._options.batches
        if not batches.enabled:
            return None
        message = _optional(
            batches.parameters_file, protos.BatchingParameters, "batching_parameters_file"
        )
        return BatchingOptions.of(message, self._cpus)

    def _factory(self, batching: BatchingOptions | None) -> ServableFactory:
        loads = self._options.loads
        config = config_pb2.ConfigProto(
            intra_op_parallelism_threads=loads.intra_op_threads,
            inter_op_parallelism_threads=loads.inter_op_threads,
        )
        return ServableFactory(
            self._cpus,
            loads.tags,
            config,
            loads.warm_up,
            loads.warm_up_rounds,
            batching,
            self._options.batches.per_model,
            self.metrics.batch,
        )

    def _possible_connections(self) -> list[int]:
        """Return how many connections gRPC, and REST if there is one, may have at a time."""
        most = [self._options.grpc.connections]
        if self._options.rest.port:
            most.append(self._options.rest.connections.most)
        return connections.possible(*most)

    def _grpc_server(self, inference: Inference, key, batching: BatchingOptions | None, most: int):
        """Return gRPC's server, for so many connections, and its TCP port; raises ConfigError."""
        host, options = self._options.host, self._options.grpc
        addresses = [(ports.grpc_address(host, options.port), key)]
        if options.socket_path:
            addresses.append((ports.unix_address(options.socket_path), key))
        # A request that waits in a batch is worked on, so no batch can be larger than the number of
        # these.
        threads = 4 * self._cpus
        if batching is not None:
            threads = max(threads, min(2 * batching.size, 128))
        try:
            server, (port, *_) = grpc_api.server(
                inference,
                self.metrics,
                addresses,
                options.threads or threads,
                ports.channel_arguments(options.channel_arguments),
                self._checks,
                self._options.most_requests,
                dataclasses.replace(options, connections=most),
            )
        except RuntimeError:
            raise ConfigError(
                f"{host}:{options.port} cannot be bound: the port is in use or not permitted.",
                "port",
            ) from None
        return server, port

    def _rest_server(self, inference: Inference, monitoring, most: int) -> uvicorn.Server:
        """Return REST's server, for so many connections, without a port."""
        options = self._options.rest
        metrics_path = None
        if monitoring.prometheus_config.enable:
            metrics_path = monitoring.prometheus_config.path or PATH
        application = asgi.Application(
            inference,
            self.metrics,
            options.threads or 4 * self._cpus,
            options.timeout_seconds,
            options.bodies,
            self._options.most_requests,
            options.cors,
            metrics_path,
            asgi.pages(),
        )
        connections.log_rarely()
        limits = dataclasses.replace(options.connections, most=most)
        self._connections = connections.Connections(limits)
        config = uvicorn.Config(
            application,
            http=self._connections.protocol(),
            ws="none",
            timeout_keep_alive=limits.idle_seconds,
            backlog=128,  # asyncio complains so often whenever there is no file descriptor left
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
        )
        return uvicorn.Server(config)

    def _load(self, configs: list[ModelConfig], stop: threading.Event) -> None:
        """Load the models and watch their directories; raises StatusError."""
        models = self._options.models
        self.manager.set_configs(configs)
        if models.version_poll_seconds:
            self.manager.every(models.version_poll_seconds, self.manager.refresh)
        if models.config_file and models.config_poll_seconds:
            self.manager.every(models.config_poll_seconds, self._reread)
        self.manager.wait(stop)

    def _reread(self) -> None:
        """Serve what the configuration file says now; if it is wrong, change nothing."""
        try:
            self.manager.set_configs(self._configs())
        except ServingError as error:
            logging.error("--model_config_file: keeping the previous configuration: %s", error)

    def lines(self) -> list[str]:
        """Return what is served where, for people."""
        host = self._options.host
        host = "localhost" if host in ("0.0.0.0", "::") else ports.bracketed(host)
        lines = [f"serving {', '.join(self.manager.names())}", f"gRPC  {host}:{self.port}"]
        if self._rest is not None:
            root = f"http://{host}:{self._options.rest.port}"
            lines += [f"REST  {root}/v1/models/...", f"page  {root}/"]
        return lines

    def stop(self, seconds: float) -> None:
        """Take no more requests, and give those that run this long to finish."""
        end = time.monotonic() + seconds
        if self._checks is not None:
            self._checks.enter_graceful_shutdown()
        self.manager.close(seconds)
        # Running requests have finished or run out of time; only answers remain to be sent.
        left = min(max(end - time.monotonic(), 0), SEND_SECONDS)
        finished = self._grpc.stop(left)
        if self._rest is not None:
            self._rest.config.timeout_graceful_shutdown = left
            self._rest.should_exit = True
            self._rest_thread.join(left + 1)
        finished.wait(left + 1)
        self.manager.stop(left + 1)


def _optional(path: str, message: type, argument: str):
    """Return the message of a text file, an empty one without a file; raises ConfigError."""
    return protos.read(path, message, argument) if path else message()
