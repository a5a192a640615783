"""Serve SavedModels by TF Serving's protocol, gRPC and REST, without TF Serving.

python -m serving.server --model_name=NAME --model_base_path=DIRECTORY --rest_api_port=8501

Flags and their defaults are those of tensorflow_model_server, except --host: this server listens on
this machine alone unless told otherwise. What they become is in embedded/options.py.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from importlib import metadata

from absl import flags

from serving import command
from serving.embedded import options
from serving.embedded.errors import ServingError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
FLAGS = {  # default, help, least
    "host": ("127.0.0.1", "Address to listen on; 0.0.0.0: all addresses."),
    "port": (8500, "TCP port of gRPC; 0: a free one.", 0),
    "grpc_socket_path": ("", "UNIX socket on which gRPC listens as well."),
    "rest_api_port": (0, "TCP port of REST; 0: no REST.", 0),
    "rest_api_num_threads": (0, "REST requests processed at a time; 0: 4 per CPU.", 0),
    "rest_api_timeout_in_ms": (30000, "Time limit for answering once the body has arrived.", 1),
    "rest_api_enable_cors_support": (False, "Allow requests from web pages of other sites."),
    "rest_api_max_body_mib": (1024, "Largest body of a REST request, in MiB.", 1),
    "rest_api_max_unzipped_mib": (100, "Largest gzipped body after decompression, in MiB.", 1),
    "rest_api_max_bodies_mib": (2048, "Total size of the bodies held at a time, in MiB.", 1),
    "rest_api_body_timeout_in_ms": (30000, "Time limit for receiving a REST request's body.", 1),
    "rest_api_max_header_kib": (64, "Largest headers of a REST request, in KiB.", 1),
    "rest_api_header_timeout_in_ms": (
        10000,
        "Time limit for a request's headers, and for the first byte on a new connection.",
        1,
    ),
    "rest_api_idle_timeout_in_ms": (75000, "How long a connection may idle between requests.", 1),
    "rest_api_max_connections": (
        1000,
        "REST connections at a time; beyond that, the longest idle ones are closed.",
        1,
    ),
    "grpc_max_connections": (1000, "gRPC connections at a time; more are refused.", 1),
    "grpc_max_message_mib": (512, "Largest request over gRPC, also once unzipped, in MiB.", 1),
    "grpc_max_messages_mib": (2048, "Total size of gRPC requests held at a time, in MiB.", 1),
    "max_filled_tensor_mib": (
        64,
        "Largest size, in MiB, of values that a gRPC request declares by shape but does not send.",
        0,
    ),
    "reload_config_needs_mutual_tls": (False, "Allow ReloadConfig only with mutual TLS."),
    "reload_config_wait_seconds": (60.0, "Seconds that ReloadConfig waits for new models.", 0),
    "model_roots": ("", "Comma-separated directories that ReloadConfig may use; empty: any."),
    "grpc_max_threads": (0, "gRPC requests processed at a time; 0: 4 per CPU or more.", 0),
    "grpc_channel_arguments": ("", "Comma-separated NAME=VALUE channel arguments of gRPC."),
    "enable_grpc_healthcheck_service": (False, "Add the service grpc.health.v1."),
    "model_name": ("default", "Name under which --model_base_path is served."),
    "model_base_path": ("", "Directory that holds a model's versions."),
    "model_config_file": ("", "File of a ModelServerConfig; replaces the two flags above."),
    "model_config_file_poll_wait_seconds": (0.0, "Seconds between two reads of it; 0: once.", 0),
    "file_system_poll_wait_seconds": (1.0, "Seconds between two looks for versions; 0: once.", 0),
    "max_num_load_retries": (5, "How often to retry loading a version that failed.", 0),
    "load_retry_interval_micros": (60000000, "Time between two retries, in microseconds.", 0),
    "num_load_threads": (0, "Models loaded at a time; 0: one.", 0),
    "enable_batching": (False, "Combine the requests of several clients into one call."),
    "batching_parameters_file": ("", "File with BatchingParameters as text."),
    "enable_per_model_batching_parameters": (
        False,
        "Use the batching_params.pbtxt in each version's directory.",
    ),
    "allow_version_labels_for_unavailable_models": (
        False,
        "Allow labels for versions that are not loaded yet.",
    ),
    "monitoring_config_file": ("", "File with a MonitoringConfig as text."),
    "ssl_config_file": ("", "File with an SSLConfig as text; turns on TLS for gRPC."),
    "tensorflow_session_parallelism": (
        0,
        "Default of the two flags below; 0: the number of CPUs.",
        0,
    ),
    "tensorflow_intra_op_parallelism": (0, "Threads used within one operation.", 0),
    "tensorflow_inter_op_parallelism": (0, "Operations that run at a time.", 0),
    "saved_model_tags": ("serve", "Comma-separated tags of the graph to load."),
    "enable_model_warmup": (True, "Run a version's warm-up requests before serving it."),
    "num_request_iterations_for_warmup": (1, "How often to run each warm-up request.", 1),
    "enable_serialization_as_tensor_content": (
        False,
        "Send gRPC answers as tensor_content, not as typed values.",
    ),
    "max_concurrent_requests": (1000, "Requests beyond this number at a time are refused.", 1),
    "drain_seconds": (30.0, "Seconds that running requests get to finish after SIGTERM.", 0),
    "version": (False, "Print the versions of the protocol and of TensorFlow, and exit."),
}


def options_of(given) -> options.Options:
    """Return the server's options; raises ConfigError.

    Args:
        given: With an attribute for each of FLAGS.
    """
    return options.Options(
        host=given.host,
        most_requests=given.max_concurrent_requests,
        grpc=_grpc(given),
        rest=_rest(given),
        batches=options.Batches(
            enabled=given.enable_batching,
            parameters_file=given.batching_parameters_file,
            per_model=given.enable_per_model_batching_parameters,
        ),
        models=options.Models(
            name=given.model_name,
            base_path=given.model_base_path,
            config_file=given.model_config_file,
            config_poll_seconds=given.model_config_file_poll_wait_seconds,
            version_poll_seconds=given.file_system_poll_wait_seconds,
            early_labels=given.allow_version_labels_for_unavailable_models,
        ),
        loads=_loads(given),
        reloads=options.Reloads(
            needs_mutual_tls=given.reload_config_needs_mutual_tls,
            roots=tuple(filter(None, given.model_roots.split(","))),
            wait_seconds=given.reload_config_wait_seconds,
        ),
    )


def _grpc(given) -> options.Grpc:
    return options.Grpc(
        port=given.port,
        socket_path=given.grpc_socket_path,
        threads=given.grpc_max_threads,
        channel_arguments=given.grpc_channel_arguments,
        health_service=given.enable_grpc_healthcheck_service,
        ssl_file=given.ssl_config_file,
        connections=given.grpc_max_connections,
        largest=given.grpc_max_message_mib << 20,
        together=given.grpc_max_messages_mib << 20,
        tensor_content=given.enable_serialization_as_tensor_content,
        filled=given.max_filled_tensor_mib << 20,
    )


def _rest(given) -> options.Rest:
    return options.Rest(
        port=given.rest_api_port,
        threads=given.rest_api_num_threads,
        timeout_seconds=given.rest_api_timeout_in_ms / 1000,
        bodies=options.BodyLimits(
            largest=given.rest_api_max_body_mib << 20,
            unzipped=given.rest_api_max_unzipped_mib << 20,
            together=given.rest_api_max_bodies_mib << 20,
            seconds=given.rest_api_body_timeout_in_ms / 1000,
        ),
        connections=options.ConnectionLimits(
            most=given.rest_api_max_connections,
            header_bytes=given.rest_api_max_header_kib << 10,
            header_seconds=given.rest_api_header_timeout_in_ms / 1000,
            idle_seconds=given.rest_api_idle_timeout_in_ms / 1000,
            send_seconds=given.rest_api_body_timeout_in_ms / 1000,
        ),
        cors=given.rest_api_enable_cors_support,
        monitoring_file=given.monitoring_config_file,
    )


def _loads(given) -> options.Loads:
    both = given.tensorflow_session_parallelism
    return options.Loads(
        tags=tuple(given.saved_model_tags.split(",")),
        threads=given.num_load_threads,
        retries=given.max_num_load_retries,
        retry_seconds=given.load_retry_interval_micros / 1e6,
        intra_op_threads=given.tensorflow_intra_op_parallelism or both,
        inter_op_threads=given.tensorflow_inter_op_parallelism or both,
        warm_up=given.enable_model_warmup,
        warm_up_rounds=given.num_request_iterations_for_warmup,
    )


def line_of(error: ServingError) -> str:
    """Return an error of the server as a line that names the flag it is about."""
    argument = getattr(error, "argument", "")
    return f"--{argument}: {error}" if argument else str(error)


def main() -> int:
    """Serve until SIGTERM or Ctrl-C, then let requests finish; a second signal ends it at once."""
    if flags.FLAGS.version:
        print(f"TensorFlow ModelServer: {metadata.version('tensorflow-serving-api')}+embedded")
        print(f"TensorFlow Library: {metadata.version('tensorflow')}")
        return 0
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with _signals_wait() as stop:
        server = _started(stop)
        for line in server.lines() if not stop.is_set() else ():  # stopped while waiting for models
            print(line)
        stop.wait()
    print("finishing the running requests ...")
    server.stop(flags.FLAGS.drain_seconds)
    # Python would wait for the threads of requests that still compute, however long they take.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _started(stop: threading.Event):
    """Return the server, its models loaded."""
    print("loading TensorFlow ...", file=sys.stderr)
    with command.quiet():
        import tensorflow as tf

        from serving.embedded.lifecycle import Server

        tf.config.list_physical_devices("GPU")  # looks for drivers, and reports on them
    tf.get_logger().setLevel("ERROR")
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        return Server(options_of(flags.FLAGS), stop)
    except ServingError as error:
        raise command.MistakeError(line_of(error)) from None


@contextlib.contextmanager
def _signals_wait() -> Iterator[threading.Event]:
    """Block the signals in every thread from here on; yield the event that the first one sets.

    A handler could interrupt a thread that holds its lock.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    stop = threading.Event()
    threading.Thread(target=_wait_for_signal, args=(stop,), daemon=True).start()
    try:
        yield stop
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _wait_for_signal(stop: threading.Event) -> None:
    signal.sigwait(SIGNALS)
    stop.set()


if __name__ == "__main__":
    command.define(FLAGS)
    command.run(main)
