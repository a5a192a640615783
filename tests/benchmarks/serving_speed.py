"""How fast is the server, against what the machine allows and what people would write instead?

python tests/benchmarks/serving_speed.py [--rounds=5] [--seconds=4]

Needs the `benchmark` extra (fastapi). All is measured in turn, `--rounds` times over; medians are
printed. The limit is that of an empty call through the same transport plus that of the bare call of
the signature: 1 / (1 / answers a second of an empty server + seconds of a call).
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import app, flags

flags.DEFINE_integer("rounds", 5, "How often everything is measured.")
flags.DEFINE_float("seconds", 4, "How long each measurement takes.")
HERE = Path(__file__).parent
MODELS = {"small": ("resnet20", 32, 10), "mnv2": ("imagenet_mobilenet_v2", 224, 1000)}


def export(base: Path) -> None:
    """Write the models, untrained: their numbers take as long."""
    import numpy as np

    from xkd_keras import peers
    from xkd_keras.ship import savedmodel

    for name, (peer, side, classes) in MODELS.items():
        model = peers.stock(peers.build(peer, (side, side, 3), classes))
        labels = [str(i) for i in range(classes)]
        example = np.zeros((side, side, 3), np.uint8)
        (base / name).mkdir()
        savedmodel.write(base / name / "1", {name: model}, {name: 1.0}, labels, 1.0, example, name)


def bare(path: str, batch: int, seconds: float) -> float:
    """Return the median seconds of a call of the signature, in this process."""
    import numpy as np

    from serving.embedded.servable import Servable

    servable = Servable(Path(path))
    (info,) = servable.signature("").inputs.values()
    shape = [batch, *(dim.size for dim in info.tensor_shape.dim[1:])]
    inputs = {"pixels": np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)}
    outputs, times = sorted(servable.signature("").outputs), []
    end = time.perf_counter() + 1 + seconds
    while (begin := time.perf_counter()) < end:
        servable.run("serving_default", inputs, outputs)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[len(times) // 5 :])


def metadata(path: str):
    """Return the answer to GetModelMetadata, which the load generator asks for."""
    from tensorflow.core.protobuf import saved_model_pb2
    from tensorflow_serving.apis import get_model_metadata_pb2

    content = (Path(path) / "saved_model.pb").read_bytes()
    (graph,) = saved_model_pb2.SavedModel.FromString(content).meta_graphs
    signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=graph.signature_def)
    answer = get_model_metadata_pb2.GetModelMetadataResponse()
    answer.metadata["signature_def"].Pack(signatures)
    return answer


def empty(port: int, path: str) -> None:
    """Serve gRPC that parses a request and answers nothing, for ever."""
    from concurrent import futures

    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    from serving.embedded.grpc_api import LARGEST

    about = metadata(path)

    class Nothing(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):  # noqa: N802
            return predict_pb2.PredictResponse()

        def GetModelMetadata(self, request, context):  # noqa: N802
            return about

    options = [("grpc.max_receive_message_length", LARGEST)]
    server = grpc.server(futures.ThreadPoolExecutor(4 * os.cpu_count()), options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Nothing(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def plain(port: int, path: str) -> None:
    """Serve what people would otherwise write, for ever."""
    import fastapi
    import tensorflow as tf
    import uvicorn
    from google.protobuf import json_format
    from tensorflow_serving.apis import get_model_metadata_pb2

    call = tf.saved_model.load(path).signatures["serving_default"]
    application, about = fastapi.FastAPI(), metadata(path)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    about.metadata["signature_def"].Unpack(signatures)

    @application.get("/v1/models/{name}/metadata")
    def describe(name: str):
        return {"metadata": {"signature_def": json_format.MessageToDict(signatures)}}

    @application.post("/v1/models/{name}:predict")
    def predict(name: str, body: dict):
        found = call(pixels=tf.constant(body["inputs"]["pixels"], tf.float32))
        return {"outputs": {name: value.numpy().tolist() for name, value in found.items()}}

    uvicorn.run(application, host="127.0.0.1", port=port, log_level="error")


@contextlib.contextmanager
def process(*arguments, port: int):
    """Run a server while it is needed; yields when it listens."""
    import socket

    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(HERE.parent.parent)}
    command = [sys.executable, *map(str, arguments)]
    running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if running.poll() is not None:
                raise SystemExit(f"{command} ended")
            time.sleep(0.2)
        yield
    finally:
        running.terminate()
        running.wait()


def load(model: str, port: int, clients: int, *more: str) -> dict:
    """Return what `serving.load` measures."""
    with tempfile.NamedTemporaryFile() as file:
        command = [sys.executable, "-m", "serving.load", f"--model_name={model}", f"--port={port}"]
        command += [f"--concurrency={clients}", f"--seconds={flags.FLAGS.seconds}", "--warm_up=1"]
        command += [f"--json={file.name}", *more]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(Path(file.name).read_text())[0]


def servers(base: Path, stack: contextlib.ExitStack) -> dict[str, int]:
    """Start all servers; return their ports."""
    from tests.serving.served_models import free_port

    ports = {name: free_port() for name in ("ours", "rest", "batched", "rest-2", "plain")}
    configs = " ".join(f"config {{ name: '{n}' base_path: '{base / n}' }}" for n in MODELS)
    (base / "models.config").write_text(f"model_config_list {{ {configs} }}")
    (base / "batching.config").write_text("max_batch_size { value: 32 }")
    common = ("-m", "serving.server", f"--model_config_file={base / 'models.config'}")
    batching = ("--enable_batching", f"--batching_parameters_file={base / 'batching.config'}")
    for name, rest, more in (("ours", "rest", ()), ("batched", "rest-2", batching)):
        flags_ = (f"--port={ports[name]}", f"--rest_api_port={ports[rest]}")
        stack.enter_context(process(*common, *flags_, *more, port=ports[rest]))
    for name in MODELS:
        port = ports[f"empty-{name}"] = free_port()
        stack.enter_context(process(__file__, "--", "empty", port, base / name / "1", port=port))
    plain_ = (__file__, "--", "plain", ports["plain"], base / "small" / "1")
    stack.enter_context(process(*plain_, port=ports["plain"]))
    return ports


def once(base: Path, ports: dict[str, int]) -> dict[str, float]:
    """Measure everything once."""
    found, seconds = {}, flags.FLAGS.seconds
    for name in MODELS:
        path = str(base / name / "1")
        calls = {n: bare(path, n, seconds) for n in (1, 32)}
        for clients, server, batch in ((8, "ours", 1), (32, "batched", 32)):
            idle = load(name, ports[f"empty-{name}"], clients)["throughput"]
            step = load(name, ports[server], clients)
            limit = 1 / (1 / idle + calls[batch] / batch)
            found[f"{name}, gRPC, {clients} clients, {server}: of the limit"] = (
                step["throughput"] / limit
            )
            found[f"{name}, gRPC, {clients} clients, {server}: answers/s"] = step["throughput"]
            found[f"{name}, gRPC, {clients} clients, {server}: p99 / p50"] = (
                step["latencies"][2] / step["latencies"][0]
            )
        for clients in (1, 2):
            step = load(name, ports["ours"], clients, "--batch=32")
            key = f"{name}, gRPC, 32 images a request, {clients} client(s): of the bare call"
            found[key] = step["throughput"] * calls[32]
    step = load("small", ports["rest"], 8, "--rest")
    other = load("small", ports["plain"], 8, "--rest")
    found["small, REST, 8 clients: answers/s"] = step["throughput"]
    key = "small, gRPC, 8 clients, ours: answers/s"
    found["small, REST, 8 clients: of gRPC"] = step["throughput"] / found[key]
    found["small, REST, 8 clients: times FastAPI"] = step["throughput"] / other["throughput"]
    one, two = (load("small", ports[server], 1)["latencies"][0] for server in ("ours", "batched"))
    found["small, gRPC, 1 client: latency with batching / without"] = two / one
    return found


def main(argv):
    """Print a table of medians, and the least and largest of the rounds."""
    if argv[1:2] == ["empty"]:
        return empty(int(argv[2]), argv[3])
    if argv[1:2] == ["plain"]:
        return plain(int(argv[2]), argv[3])
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        export(Path(folder))
        ports = servers(Path(folder), stack)
        rounds = [once(Path(folder), ports) for _ in range(flags.FLAGS.rounds)]
    print("| what | median | least | most |\n|---|---|---|---|")
    for name in rounds[0]:
        values = [each[name] for each in rounds]
        cells = (f"{f(values):.3g}" for f in (statistics.median, min, max))
        print(f"| {name} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent.parent))
    app.run(main)
