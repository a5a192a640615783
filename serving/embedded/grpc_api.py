"""The models over gRPC: PredictionService, ModelService, and gRPC's own health service."""

import functools
import time
from collections.abc import Callable, Sequence
from concurrent import futures

import grpc
from absl import logging
from google.protobuf import message, message_factory
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
)

from serving.embedded.failure import Failure, invalid
from serving.embedded.inference import Inference
from serving.embedded.manager import configs_of
from serving.embedded.metrics import Metrics
from serving.embedded.protos import ConfigError

LARGEST = 2**31 - 1  # bytes of a message, as upstream; grpcio's own limit is 4 MiB
_ENDLESS = 1e6  # seconds left that mean no deadline


class _Answers:
    """What both services do with a request."""

    def __init__(self, inference: Inference, metrics: Metrics):
        self._inference = inference
        self._metrics = metrics

    def _answer(self, name: str, call: Callable, request, context, model: str | None = None):
        """Return call(request, deadline), or end the call with its failure; counts it."""
        begin, left = time.monotonic(), context.time_remaining()
        deadline = begin + left if left is not None and left < _ENDLESS else None
        code, details = grpc.StatusCode.OK, ""
        try:
            if not context.is_active():  # cancelled while it waited for a thread
                raise Failure(grpc.StatusCode.CANCELLED, "cancelled by the client")
            return call(request, deadline)
        except Failure as failure:
            code, details = failure.code, failure.details
        except Exception:
            logging.exception("%s", name)
            code, details = grpc.StatusCode.INTERNAL, "internal error"
        finally:
            model = request.model_spec.name if model is None else model
            self._metrics.request(model, name, "GRPC", code, time.monotonic() - begin)
        context.abort(code, details)


class Predictions(_Answers, prediction_service_pb2_grpc.PredictionServiceServicer):
    """PredictionService of tensorflow_serving/apis/prediction_service.proto."""

    def Predict(self, request, context):
        return self._answer("Predict", self._inference.predict, request, context)

    def Classify(self, request, context):
        return self._answer("Classify", self._inference.classify, request, context)

    def Regress(self, request, context):
        return self._answer("Regress", self._inference.regress, request, context)

    def MultiInference(self, request, context):
        model = request.tasks[0].model_spec.name if request.tasks else ""
        return self._answer("MultiInference", self._inference.multi, request, context, model)

    def GetModelMetadata(self, request, context):
        call = self._inference.metadata
        return self._answer("GetModelMetadata", lambda r, _: call(r), request, context)


class Models(_Answers, model_service_pb2_grpc.ModelServiceServicer):
    """ModelService of tensorflow_serving/apis/model_service.proto."""

    def GetModelStatus(self, request, context):
        call = self._inference.status
        return self._answer("GetModelStatus", lambda r, _: call(r), request, context)

    def HandleReloadConfigRequest(self, request, context):
        return self._answer("HandleReloadConfigRequest", self._reload, request, context, "")

    def _reload(self, request, _):
        """Serve another set of models; returns when they are loaded."""
        try:
            configs = configs_of(request.config)
        except ConfigError as error:
            raise invalid(str(error)) from None
        manager = self._inference.manager
        manager.set_configs(configs)
        models = {name: manager.model(name).versions() for name in manager.names()}
        broken = {
            name: versions[0].failure.message
            for name, versions in models.items()
            if versions and not manager.model(name).ready and versions[0].failure
        }
        if broken:
            listed = ", ".join(f"{name}: {message}" for name, message in broken.items())
            raise Failure(
                grpc.StatusCode.UNKNOWN,
                f"{len(broken)} servable(s) did not become available: {{{listed}}}",
            )
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        return response


def server(
    inference: Inference,
    metrics: Metrics,
    addresses: Sequence[tuple[str, grpc.ServerCredentials | None]],
    threads: int,
    options: Sequence[tuple[str, object]] = (),
    with_health: bool = False,
    most: int | None = None,
) -> tuple[grpc.Server, list[int]]:
    """Return a server that is not started yet, and the ports it is bound to.

    Args:
        inference: Answers.
        metrics: Counts.
        addresses: What to listen on, and the credentials for TLS there.
        threads: How many requests are worked on at a time.
        options: Of gRPC's channels.
        with_health: Whether to add gRPC's health service.
        most: Requests at a time, waiting or running; more are answered RESOURCE_EXHAUSTED.

    Raises:
        RuntimeError: An address cannot be bound.
    """
    ours = {
        "grpc.max_receive_message_length": LARGEST,
        "grpc.max_send_message_length": LARGEST,
        # Without it a second server could take the same port, and half of the requests.
        "grpc.so_reuseport": 0,
    }
    chosen = list({**ours, **dict(options)}.items())  # of two by one name gRPC takes the first
    pool = futures.ThreadPoolExecutor(threads, thread_name_prefix="grpc")
    made = grpc.server(pool, options=chosen, maximum_concurrent_rpcs=most)
    _add(made, prediction_service_pb2, Predictions(inference, metrics))
    _add(made, model_service_pb2, Models(inference, metrics))
    if with_health:
        checks = health.HealthServicer()
        for name in ("", "ModelService", "PredictionService"):
            checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, made)
    ports = [
        made.add_insecure_port(address) if key is None else made.add_secure_port(address, key)
        for address, key in addresses
    ]
    return made, ports


def _add(made: grpc.Server, module, servicer: _Answers) -> None:
    """Add the service of a module of protos; requests are parsed by the threads that answer them.

    grpcio keeps 19 KB for every request that a deserializer given to it refuses (1.85).
    """
    (service,) = module.DESCRIPTOR.services_by_name.values()
    handlers = {}
    for method in service.methods:
        parse = message_factory.GetMessageClass(method.input_type).FromString
        handlers[method.name] = grpc.unary_unary_rpc_method_handler(
            functools.partial(_parsed, parse, getattr(servicer, method.name)),
            response_serializer=message_factory.GetMessageClass(
                method.output_type
            ).SerializeToString,
        )
    made.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(service.full_name, handlers)]
    )


def _parsed(parse: Callable, answer: Callable, content: bytes, context):
    try:
        request = parse(content)
    except message.DecodeError:
        context.abort(grpc.StatusCode.INTERNAL, "Exception deserializing request!")
    return answer(request, context)


def credentials(config) -> grpc.ServerCredentials:
    """Return the credentials of an SSLConfig; raises ConfigError."""
    if not config.server_key or not config.server_cert:
        raise ConfigError("SSLConfig: server_key and server_cert must hold PEM text.")
    for name in ("server_key", "server_cert", "custom_ca"):
        if getattr(config, name) and "-----BEGIN" not in getattr(config, name):
            raise ConfigError(f"--ssl_config_file: {name}: is not PEM text; valid: that of a file.")
    if config.client_verify and not config.custom_ca:
        raise ConfigError("SSLConfig: client_verify needs custom_ca.")
    pair = (config.server_key.encode(), config.server_cert.encode())
    authority = config.custom_ca.encode() or None
    return grpc.ssl_server_credentials([pair], authority, config.client_verify)
