"""Everything that can be chosen about a server. `serving.server` fills it from flags."""

from dataclasses import dataclass, field

from serving.embedded.errors import ConfigError

LARGEST_PORT = 65535


@dataclass(frozen=True)
class Models:
    """Which models are served, and how changes are noticed.

    Args:
        name: The name of the model in `base_path`.
        base_path: The directory of its versions.
        config_file: ModelServerConfig, as text; instead of the two above.
        config_poll_seconds: How often `config_file` is read again; 0: never.
        version_poll_seconds: How often to look for new versions; 0: once.
        early_labels: Whether a label may name a version that is not loaded yet.
    """

    name: str = "default"
    base_path: str = ""
    config_file: str = ""
    config_poll_seconds: float = 0.0
    version_poll_seconds: float = 1.0
    early_labels: bool = False

    def __post_init__(self):
        if not self.base_path and not self.config_file:
            raise ConfigError(
                "Both server_options.model_base_path and server_options.model_config_file are"
                " empty! Give --model_base_path or --model_config_file."
            )


@dataclass(frozen=True)
class Loads:
    """How a version of a model is loaded.

    Args:
        tags: Of the graph in the SavedModel.
        threads: Models loaded at a time; 0: one.
        retries: How often a version that failed is tried again.
        retry_seconds: Time between tries.
        intra_op_threads: Threads of one operation; 0: as many as CPUs.
        inter_op_threads: Operations at a time; 0: as many as CPUs.
        warm_up: Whether to run a version's warm-up requests before serving it.
        warm_up_rounds: How often to run each of them.
    """

    tags: tuple[str, ...] = ("serve",)
    threads: int = 0
    retries: int = 5
    retry_seconds: float = 60.0
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    warm_up: bool = True
    warm_up_rounds: int = 1


@dataclass(frozen=True)
class Batches:
    """Whether requests of several clients share a call.

    Args:
        enabled: Whether they do.
        parameters_file: BatchingParameters, as text; empty: the defaults.
        per_model: Whether each version's own file decides.
    """

    enabled: bool = False
    parameters_file: str = ""
    per_model: bool = False

    def __post_init__(self):
        if self.parameters_file and not self.enabled:
            raise ConfigError("needs --enable_batching.", "batching_parameters_file")


@dataclass(frozen=True)
class BodyLimits:
    """Of bodies.

    Args:
        largest: Bytes of a body, as it is sent.
        unzipped: Bytes of a body that was sent zipped; upstream's limit.
        together: Bytes of all bodies that are held at a time.
        seconds: Until a body is complete.
    """

    largest: int = 1 << 30
    unzipped: int = 100 << 20
    together: int = 2 << 30
    seconds: float = 30.0


@dataclass(frozen=True)
class ConnectionLimits:
    """Of HTTP connections.

    Args:
        most: Connections at a time.
        header_bytes: Of the request line and all headers together.
        header_seconds: Until the headers are complete; also for a silent connection.
        send_seconds: How long a client may read nothing of its answer.
    """

    most: int = 1000
    header_bytes: int = 64 << 10
    header_seconds: float = 10.0
    send_seconds: float = 30.0


@dataclass(frozen=True)
class Grpc:
    """The gRPC side.

    Args:
        port: TCP port; 0: a free one.
        socket_path: A UNIX socket to listen on as well; empty: none.
        threads: Requests worked on at a time; 0: 4 per CPU, more if batching.
        connections: Connections at a time; more are refused.
        channel_arguments: NAME=VALUE,... of gRPC's channels.
        health_service: Whether to add grpc.health.v1.
        ssl_file: SSLConfig, as text; empty: no TLS.
        tensor_content: Whether answers hold `tensor_content` instead of typed values.
        filled: Bytes of a request's tensors that may be declared by a shape without values.
    """

    port: int = 8500
    socket_path: str = ""
    threads: int = 0
    connections: int = 1000
    channel_arguments: str = ""
    health_service: bool = False
    ssl_file: str = ""
    tensor_content: bool = False
    filled: int = 64 << 20

    def __post_init__(self):
        _check_port("port", self.port)


@dataclass(frozen=True)
class Rest:
    """The REST side, with the page and what Prometheus reads.

    Args:
        port: TCP port; 0: no REST.
        threads: Requests worked on at a time; 0: 4 per CPU.
        timeout_seconds: Longest time of a request.
        bodies: Limits of bodies.
        connections: Limits of connections.
        cors: Whether web pages from anywhere may ask.
        monitoring_file: MonitoringConfig, as text; empty: no metrics are published.
    """

    port: int = 0
    threads: int = 0
    timeout_seconds: float = 30.0
    bodies: BodyLimits = field(default_factory=BodyLimits)
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    cors: bool = False
    monitoring_file: str = ""

    def __post_init__(self):
        _check_port("rest_api_port", self.port)


@dataclass(frozen=True)
class Reloads:
    """What clients may change by ReloadConfig.

    Args:
        needs_mutual_tls: Whether only clients with a certificate of their own may.
        roots: Base paths must be in one of these directories; empty: anywhere.
        wait_seconds: How long a call waits for new models, if its deadline is not nearer.
    """

    needs_mutual_tls: bool = False
    roots: tuple[str, ...] = ()
    wait_seconds: float = 60.0


@dataclass(frozen=True)
class Options:
    """A whole server.

    Args:
        models: What is served.
        host: Address to listen on.
        most_requests: Requests at a time, waiting or running; more are refused.
        loads: How versions are loaded.
        batches: Whether requests share calls.
        grpc: The gRPC side.
        rest: The REST side.
        reloads: What clients may change.
    """

    models: Models
    host: str = "127.0.0.1"
    most_requests: int = 1000
    loads: Loads = field(default_factory=Loads)
    batches: Batches = field(default_factory=Batches)
    grpc: Grpc = field(default_factory=Grpc)
    rest: Rest = field(default_factory=Rest)
    reloads: Reloads = field(default_factory=Reloads)


def _check_port(argument: str, port: int) -> None:
    """Raise ConfigError for a port that cannot be: gRPC would silently take another one."""
    if port > LARGEST_PORT:
        raise ConfigError(f"received {port}; valid: 0 to {LARGEST_PORT}.", argument)
