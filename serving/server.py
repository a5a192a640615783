"""Serve SavedModels by TF Serving's protocol, gRPC and REST, without TF Serving.

python -m serving.server --model_name=NAME --model_base_path=DIRECTORY --rest_api_port=8501

Flags and their defaults are those of tensorflow_model_server, but for --host: this server listens
on this machine alone unless told otherwise.
"""

import logging
import signal
import threading

from absl import flags

from serving import command

SIGNALS = (signal.SIGTERM, signal.SIGINT)
FLAGS = {  # default, help, least
    "host": ("127.0.0.1", "Address to listen on; 0.0.0.0: all."),
    "port": (8500, "TCP port of gRPC; 0: a free one.", 0),
    "grpc_socket_path": ("", "A UNIX socket for gRPC, besides."),
    "rest_api_port": (0, "TCP port of REST; 0: no REST.", 0),
    "rest_api_num_threads": (0, "Requests worked on at a time; 0: 4 a CPU.", 0),
    "rest_api_timeout_in_ms": (30000, "Longest time of a REST request.", 1),
    "rest_api_enable_cors_support": (False, "Let web pages from anywhere ask."),
    "rest_api_max_body_mib": (1024, "Largest body of a REST request, MiB.", 1),
    "grpc_max_threads": (0, "Requests worked on at a time; 0: 4 a CPU, more if batching.", 0),
    "grpc_channel_arguments": ("", "Comma-separated NAME=VALUE of gRPC."),
    "enable_grpc_healthcheck_service": (False, "Add grpc.health.v1."),
    "model_name": ("default", "Name to serve --model_base_path by."),
    "model_base_path": ("", "Directory of a model's versions."),
    "model_config_file": ("", "ModelServerConfig, as text; instead of the two above."),
    "model_config_file_poll_wait_seconds": (0.0, "How often it is read again; 0: never.", 0),
    "file_system_poll_wait_seconds": (1.0, "How often to look for versions; 0: once.", 0),
    "max_num_load_retries": (5, "How often a version that failed is tried again.", 0),
    "load_retry_interval_micros": (60000000, "Time between tries.", 0),
    "num_load_threads": (0, "Models loaded at a time; 0: one.", 0),
    "enable_batching": (False, "Run requests of several clients in one call."),
    "batching_parameters_file": ("", "BatchingParameters, as text."),
    "enable_per_model_batching_parameters": (False, "Batch by versions' batching_params.pbtxt."),
    "allow_version_labels_for_unavailable_models": (False, "Labels before their versions."),
    "monitoring_config_file": ("", "MonitoringConfig, as text."),
    "ssl_config_file": ("", "SSLConfig, as text: TLS for gRPC."),
    "tensorflow_session_parallelism": (0, "Threads of both kinds below; 0: as many as CPUs.", 0),
    "tensorflow_intra_op_parallelism": (0, "Threads of one operation.", 0),
    "tensorflow_inter_op_parallelism": (0, "Operations at a time.", 0),
    "saved_model_tags": ("serve", "Comma-separated tags of the graph."),
    "enable_model_warmup": (True, "Run a version's warm-up requests before serving it."),
    "num_request_iterations_for_warmup": (1, "How often each of them.", 1),
    "enable_serialization_as_tensor_content": (False, "Answer with tensor_content."),
    "max_concurrent_requests": (1000, "More at a time, waiting or running, are refused.", 1),
    "drain_seconds": (30.0, "How long requests may take to finish at SIGTERM.", 0),
    "version": (False, "Print TensorFlow's version, and end."),
}


def main() -> int:
    """Serve until SIGTERM or Ctrl-C, then let what runs finish; a second one ends it at once."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # for every thread from here on
    with command.quiet():
        import tensorflow as tf

        from serving.embedded import serve
        from serving.embedded.failure import Failure
        from serving.embedded.protos import ConfigError

        tf.config.list_physical_devices("GPU")  # looks for drivers, and tells
    if flags.FLAGS.version:
        print(f"TensorFlow Library: {tf.__version__}")
        return 0
    tf.get_logger().setLevel("ERROR")
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)

    stop = threading.Event()
    threading.Thread(target=_wait_for_signal, args=(stop,), daemon=True).start()
    try:
        server = serve.Server(flags.FLAGS, stop)
    except (ConfigError, Failure) as error:
        raise command.MistakeError(str(error)) from None
    for line in server.lines() if not stop.is_set() else ():  # stopped while it waited for models
        print(line)
    stop.wait()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    print("finishing what runs ...")
    server.stop(flags.FLAGS.drain_seconds)
    return 0


def _wait_for_signal(stop: threading.Event) -> None:
    """Set `stop` at the first signal. A handler could not: it may interrupt who holds its lock."""
    signal.sigwait(SIGNALS)
    stop.set()


if __name__ == "__main__":
    command.define(FLAGS)
    command.run(main)
