"""The models over gRPC: PredictionService, ModelService, and gRPC's own health service.

To add an RPC, name it in SERVICES; its request and response are those of the service's .proto.
"""

import functools
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.protobuf import message_factory
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2,
    prediction_service_pb2,
)

from serving.embedded.calls import Call, accounted
from serving.embedded.configs import configs_of
from serving.embedded.errors import ConfigError, StatusError, invalid
from serving.embedded.inference import Inference
from serving.embedded.messages import Messages
from serving.embedded.metrics import Metrics
from serving.embedded.options import Grpc

LARGEST = 2**31 - 1  # bytes of a message, as upstream; grpcio's own limit is 4 MiB
_HANDSHAKE = 20_000  # ms until a connection speaks HTTP/2; gRPC's own limit is two minutes
_IDLE = 3_600_000  # ms without a call, after which a client is asked to connect again when it calls
_ENDLESS = 1e6  # seconds left that mean no deadline
_OPTIONS = {
    "grpc.max_send_message_length": LARGEST,
    "grpc.server_handshake_timeout_ms": _HANDSHAKE,
    "grpc.max_connection_idle_ms": _IDLE,
    # Without it a second server could take the same port, and half of the requests.
    "grpc.so_reuseport": 0,
}


@dataclass(frozen=True)
class Rpc:
    """A method of a service.

    Args:
        answer: Makes the response of (Inference, request, deadline); raises StatusError.
        model: The name of the model that a request is for.
        changes: Whether it changes what is served, which not every client may.
    """

    answer: Callable
    model: Callable = lambda request: request.model_spec.name
    changes: bool = False


def _reload(inference: Inference, request, deadline: float | None):
    """Serve another set of models; returns when they are loaded."""
    try:
        configs = configs_of(request.config)
    except ConfigError as error:
        raise invalid(str(error)) from None
    roots = [Path(root).resolve() for root in inference.reloads.roots]
    for config in configs:
        if roots and not any(_inside(config.base_path, root) for root in roots):
            raise StatusError(
                grpc.StatusCode.PERMISSION_DENIED,
                f"model {config.name}: base_path {config.base_path} is not in --model_roots",
            )
    now = time.monotonic()
    end = now + inference.reloads.wait_seconds
    if deadline is not None:
        end = min(end, deadline - min(1.0, (deadline - now) / 2))  # time for the answer itself
    broken = inference.manager.reload(configs, end)
    if broken:
        listed = ", ".join(f"{name}: {message}" for name, message in broken.items())
        raise StatusError(
            grpc.StatusCode.UNKNOWN,
            f"{len(broken)} servable(s) did not become available: {{{listed}}}",
        )
    response = model_management_pb2.ReloadConfigResponse()
    response.status.SetInParent()
    return response


def _inside(path: Path, root: Path) -> bool:
    """Whether a path is in a directory, wherever links lead."""
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError, ValueError):  # links that lead nowhere
        return False


def _first_model(request) -> str:
    return request.tasks[0].model_spec.name if request.tasks else ""


def _no_model(request) -> str:
    return ""


# By the module that declares the service: every method of it, by its name.
SERVICES = {
    prediction_service_pb2: {
        "Predict": Rpc(Inference.predict),
        "Classify": Rpc(Inference.classify),
        "Regress": Rpc(Inference.regress),
        "MultiInference": Rpc(Inference.multi, _first_model),
        "GetModelMetadata": Rpc(lambda inference, request, _: inference.metadata(request)),
    },
    model_service_pb2: {
        "GetModelStatus": Rpc(lambda inference, request, _: inference.status(request)),
        "HandleReloadConfigRequest": Rpc(_reload, _no_model, changes=True),
    },
}


def _identified(context) -> bool:
    """Whether the client showed a certificate that was verified: mutual TLS."""
    kind = context.auth_context().get("transport_security_type")
    return kind == [b"ssl"] and bool(context.peer_identities())


def answered(name: str, rpc: Rpc, inference: Inference, metrics: Metrics, request, context):
    """Return the response to a request, or end the call with its error."""
    left = context.time_remaining()
    deadline = time.monotonic() + left if left is not None and left < _ENDLESS else None
    try:
        with accounted(Call("GRPC", name, rpc.model(request), name), metrics):
            if not context.is_active():  # cancelled while it waited for a thread
                raise StatusError(grpc.StatusCode.CANCELLED, "cancelled by the client")
            if rpc.changes and inference.reloads.needs_mutual_tls and not _identified(context):
                raise StatusError(
                    grpc.StatusCode.PERMISSION_DENIED,
                    f"{name} is allowed only to clients whose certificate this server has verified",
                )
            return rpc.answer(inference, request, deadline)
    except StatusError as error:
        context.abort(error.code, error.details)


def health_checks() -> health.HealthServicer:
    """Return gRPC's health service, which says that all is well until it is told otherwise."""
    made = health.HealthServicer()
    for name in ("", "ModelService", "PredictionService"):
        made.set(name, health_pb2.HealthCheckResponse.SERVING)
    return made


def server(
    inference: Inference,
    metrics: Metrics,
    addresses: Sequence[tuple[str, grpc.ServerCredentials | None]],
    threads: int,
    options: Sequence[tuple[str, object]] = (),
    checks: health.HealthServicer | None = None,
    most: int = 1000,
    limits: Grpc = Grpc(),  # noqa: B008
) -> tuple[grpc.Server, list[int]]:
    """Return a server that is not started yet, and the ports it is bound to.

    Args:
        inference: Answers.
        metrics: Counts.
        addresses: What to listen on, and the credentials for TLS there.
        threads: How many requests are worked on at a time.
        options: Of gRPC's channels.
        checks: gRPC's health service; None: there is none.
        most: Calls at a time, waiting or running; more are answered RESOURCE_EXHAUSTED.
        limits: Of connections and messages.

    Raises:
        RuntimeError: An address cannot be bound.
    """
    ours = {
        "grpc.max_allowed_incoming_connections": limits.connections,
        "grpc.max_receive_message_length": min(limits.largest, LARGEST),
    }
    # Of two by one name gRPC takes the first.
    chosen = list({**_OPTIONS, **ours, **dict(options)}.items())
    # A call takes a thread before its message is there, so there is one for each.
    pool = futures.ThreadPoolExecutor(most, thread_name_prefix="grpc")
    made = grpc.server(pool, options=chosen, maximum_concurrent_rpcs=most)
    messages = Messages(threads, most, limits.together)
    for module, rpcs in SERVICES.items():
        made.add_generic_rpc_handlers([_handlers(module, rpcs, inference, metrics, messages)])
    if checks is not None:
        health_pb2_grpc.add_HealthServicer_to_server(checks, made)
    ports = [
        made.add_insecure_port(address) if key is None else made.add_secure_port(address, key)
        for address, key in addresses
    ]
    return made, ports


def _handlers(
    module, rpcs: dict[str, Rpc], inference: Inference, metrics: Metrics, messages: Messages
):
    """Return gRPC's handlers of a service; requests are parsed by the threads that answer them.

    grpcio keeps 19 KB for every request that a deserializer given to it refuses (1.85). The
    handlers take a stream, of which they read one message: those of single messages learn of a call
    only when its message is there.
    """
    (service,) = module.DESCRIPTOR.services_by_name.values()
    handlers = {}
    for method in service.methods:
        rpc = rpcs[method.name]
        parse = message_factory.GetMessageClass(method.input_type).FromString
        answer = functools.partial(answered, method.name, rpc, inference, metrics)
        handlers[method.name] = grpc.stream_unary_rpc_method_handler(
            functools.partial(_served, messages, parse, not rpc.changes, answer),
            response_serializer=message_factory.GetMessageClass(
                method.output_type
            ).SerializeToString,
        )
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def _served(
    messages: Messages, parse: Callable, computes: bool, answer: Callable, arriving, context
):
    try:
        with messages.received(arriving, context, parse, computes) as request:
            return answer(request, context)
    except StatusError as error:
        context.abort(error.code, error.details)
