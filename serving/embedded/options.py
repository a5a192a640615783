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
class BatchingOptions:
    """Of tensorflow_serving/servables/tensorflow/session_bundle_config.proto, with its defaults.

    Args:
        size: max_batch_size: examples of a request, and of a call unless `largest` is less.
        timeout: batch_timeout_micros, in seconds: how long the first request of a batch waits for
            others.
        queue: max_enqueued_batches.
        slots: num_batch_threads: batches that run at a time.
        allowed: allowed_batch_sizes: batches are padded to the next of them; empty: not at all.
        pad: pad_variable_length_inputs.
        largest: max_execution_batch_size where enable_large_batch_splitting is true: examples of a
            call; a request of more runs in pieces. 0: as `size`.
    """

    size: int = 1000
    timeout: float = 0.0
    queue: int = 10
    slots: int = 2
    allowed: tuple[int, ...] = ()
    pad: bool = False
    largest: int = 0

    @property
    def call(self) -> int:
        """Most examples of a call."""
        return self.largest or self.size

    @classmethod
    def of(cls, message, cpus: int) -> "BatchingOptions":
        """Return the options of a BatchingParameters; raises ConfigError."""
        values = {"slots": cpus, "allowed": tuple(message.allowed_batch_sizes)}
        values["pad"] = message.pad_variable_length_inputs
        for name, key, least in (
            ("max_batch_size", "size", 1),
            ("batch_timeout_micros", "timeout", 0),
            ("max_enqueued_batches", "queue", 1),
            ("num_batch_threads", "slots", 1),
            ("max_execution_batch_size", "largest", 1),
        ):
            if message.HasField(name):
                values[key] = getattr(message, name).value
                if values[key] < least:
                    raise ConfigError(f"{name}: received {values[key]}; valid: {least} or more.")
        values["timeout"] = values.get("timeout", 0) / 1e6
        if not message.enable_large_batch_splitting.value:
            values["largest"] = 0
        options = cls(**values)
        options._check()
        return options

    def _check(self) -> None:
        """Raise ConfigError for sizes that do not go together."""
        sizes = self.allowed
        if self.largest > self.size:
            raise ConfigError(
                f"max_execution_batch_size: received {self.largest}; valid: at most"
                f" max_batch_size, {self.size}."
            )
        if sizes and (list(sizes) != sorted(set(sizes)) or sizes[0] < 1):
            raise ConfigError(
                f"allowed_batch_sizes: received {list(sizes)}; valid: increasing numbers."
            )
        # Where requests are split, upstream's code wants the first here, and the second there.
        if sizes and sizes[-1] not in (self.size, self.call):
            split = f", or max_execution_batch_size, {self.call}" if self.call < self.size else ""
            raise ConfigError(
                f"allowed_batch_sizes: the last, {sizes[-1]}, must be max_batch_size,"
                f" {self.size}{split}."
            )


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
        header_seconds: Until the headers are complete; also of silence on a new connection.
        idle_seconds: Between two requests. A load balancer that keeps connections must be the first
            to give one up, or else a request meets a connection that was just closed; most wait for
            up to a minute.
        send_seconds: How long a client may read nothing of its answer.
    """

    most: int = 1000
    header_bytes: int = 64 << 10
    header_seconds: float = 10.0
    idle_seconds: float = 75.0
    send_seconds: float = 30.0


@dataclass(frozen=True)
class Grpc:
    """The gRPC side.

    Args:
        port: TCP port; 0: a free one.
        socket_path: A UNIX socket to listen on as well; empty: none.
        threads: Requests worked on at a time; 0: 4 per CPU, more if batching.
        connections: Connections at a time; more are refused.
        largest: Bytes of a request, also once it is unzipped.
        together: Bytes of all requests that are held at a time.
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
    largest: int = 512 << 20
    together: int = 2 << 30
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
        timeout_seconds: Longest time of a request, from when its body is complete.
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
