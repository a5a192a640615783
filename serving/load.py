"""Measure a server, TF Serving or ours, under load.

python -m serving.load --model_name=NAME --concurrency=1,8,32 [--rest] [--plot=load.svg]
python -m serving.load --model_name=NAME --rate=100,200,400          (open loop)

Closed loop: a number of clients, each of which sends its next request when it has an answer. Open
loop: requests come at random times at a given rate, whether or not the server keeps up; the time
that a request waits to be sent counts.
"""

import base64
import http.client
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from absl import flags

from serving import addresses, command, loops

FLAGS = {  # default, help, least
    "host": ("127.0.0.1", "Address of the server."),
    "port": (0, "Port of the server; 0: 8500, or 8501 with --rest."),
    "rest": (False, "Use REST instead of gRPC."),
    "ca_file": ("", "PEM file of the certificate authority (CA), for gRPC with TLS."),
    "model_name": ("default", "Name of the model on the server."),
    "signature": ("serving_default", "Signature to call."),
    "image": ("", "Image file to send if the signature takes encoded images; empty: noise."),
    "batch": (1, "Examples per request.", 1),
    "concurrency": (
        "1,8,32",
        "Closed loop: numbers of clients, comma-separated, each for --seconds.",
    ),
    "rate": ("", "Open loop instead: requests per second, comma-separated, each for --seconds."),
    "clients": (64, "Open loop: the largest number of requests at a time.", 1),
    "seconds": (10.0, "Seconds for which each step is measured.", 0.1),
    "warm_up": (2.0, "Seconds for which each step runs before it is measured.", 0.0),
    "timeout": (30.0, "Seconds to wait for an answer.", 0.001),
    "plot": ("", "Plot latencies and throughput to this .svg or .png file."),
    "json": ("", "Write the numbers to this file."),
}


_JSON = {"Content-Type": "application/json"}  # TF Serving does not need it; other servers do


def inputs_of(signature, batch: int, image: bytes | None) -> dict[str, np.ndarray]:
    """Return random inputs of a SignatureDef; unknown sizes are `batch`, then 1."""
    import tensorflow as tf

    random, inputs = np.random.default_rng(0), {}
    for name, info in signature.inputs.items():
        sizes = [dim.size for dim in info.tensor_shape.dim]
        shape = [n if n >= 0 else (1 if i else batch) for i, n in enumerate(sizes)] or [batch]
        dtype = tf.as_dtype(info.dtype)
        if dtype == tf.string:
            if image is None:
                noise = random.integers(0, 256, (64, 64, 3), np.uint8)
                image = tf.io.encode_png(noise).numpy()
            inputs[name] = np.full(shape, image, object)
        else:
            inputs[name] = random.integers(0, 256, shape).astype(dtype.as_numpy_dtype)
    return inputs


def over_grpc(given, port: int) -> Callable[[], Callable]:
    """Return `connect` for gRPC. The request is built once, so that building it is not measured."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import get_model_metadata_pb2 as metadata_pb2
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    address = addresses.joined(_without_scheme(given.host), port)
    channel = addresses.channel_to(address, given.ca_file)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    ask = metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    ask.model_spec.name = given.model_name
    try:
        answer = stub.GetModelMetadata(ask, timeout=given.timeout)
    except grpc.RpcError as error:
        raise command.MistakeError(f"{address}: {error.details()}") from None
    signatures = metadata_pb2.SignatureDefMap()
    answer.metadata["signature_def"].Unpack(signatures)
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = given.model_name, given.signature
    for name, array in _inputs(given, signatures.signature_def).items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    content = request.SerializeToString()
    # Bytes in, bytes out: the client's own work is not what is measured.
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    return lambda: lambda: call(content, timeout=given.timeout)


def _without_scheme(host: str) -> str:
    if host.startswith("https://"):
        raise command.MistakeError(
            f"--host: received '{host}'; valid: HOST; REST with TLS cannot be measured."
        )
    return host.removeprefix("http://").rstrip("/")


def over_rest(given, port: int) -> Callable[[], Callable]:
    """Return `connect` for REST: one connection per client, which stays open."""
    from google.protobuf import json_format
    from tensorflow_serving.apis import get_model_metadata_pb2 as metadata_pb2

    host = _without_scheme(given.host)
    address, path = addresses.joined(host, port), f"/v1/models/{given.model_name}"
    try:
        connection = http.client.HTTPConnection(host, port, timeout=given.timeout)
        connection.request("GET", f"{path}/metadata")
        answer = json.loads(connection.getresponse().read())
        connection.close()
    except (OSError, ValueError) as error:
        raise command.MistakeError(f"{address}: {error}") from None
    if "error" in answer:
        raise command.MistakeError(f"{address}: {answer['error']}")
    signatures = metadata_pb2.SignatureDefMap()
    json_format.ParseDict(answer["metadata"]["signature_def"], signatures)
    plain = _plain(_inputs(given, signatures.signature_def))
    body = json.dumps({"signature_name": given.signature, "inputs": plain}).encode()

    def connect():
        connection = http.client.HTTPConnection(host, port, timeout=given.timeout)

        def send():
            try:
                connection.request("POST", f"{path}:predict", body, _JSON)
                answer = connection.getresponse()
                content = answer.read()
            except Exception:
                connection.close()
                raise
            if answer.status != 200:
                raise RuntimeError(f"{answer.status} {content[:200].decode(errors='replace')}")

        return send

    return connect


def _plain(arrays: Mapping[str, np.ndarray]) -> dict[str, list]:
    """Return inputs as REST takes them: bytes as {"b64": ...}."""
    return {
        name: [{"b64": base64.b64encode(content).decode()} for content in array.reshape(-1)]
        if array.dtype == object
        else array.tolist()
        for name, array in arrays.items()
    }


def _inputs(given, signatures) -> dict[str, np.ndarray]:
    if given.signature not in signatures:
        raise command.MistakeError(
            f"--signature: received '{given.signature}'; valid: {', '.join(sorted(signatures))}."
        )
    image = None
    if given.image:
        try:
            image = Path(given.image).read_bytes()
        except OSError as error:
            raise command.MistakeError(f"--image: {given.image}: {error.strerror}.") from None
    return inputs_of(signatures[given.signature], given.batch, image)


def numbers(name: str, text: str) -> list[float]:
    """Return the comma-separated numbers of a flag; raises MistakeError."""
    try:
        loads = [float(number) for number in text.split(",")]
    except ValueError:
        loads = [0.0]
    whole = name == "rate" or all(load == int(load) for load in loads if math.isfinite(load))
    kind = "numbers above 0" if name == "rate" else "whole numbers from 1"
    if not whole or not all(0 < load < 1e6 for load in loads):
        raise command.MistakeError(f"--{name}: received '{text}'; valid: {kind}, such as 1,8,32.")
    return loads


def _check_files(given) -> None:
    """Raise MistakeError for files that cannot be written, before anything is measured."""
    if given.plot and Path(given.plot).suffix not in (".svg", ".png"):
        raise command.MistakeError(
            f"--plot: received '{given.plot}'; valid: a name ending in .svg or .png."
        )
    for name in ("plot", "json"):
        path = Path(getattr(given, name))
        if getattr(given, name) and (path.is_dir() or not os.access(path.parent, os.W_OK)):
            raise command.MistakeError(f"--{name}: cannot write to '{path}'.")


def main() -> int:
    """Print a line for each load; return 1 if requests failed."""
    given = flags.FLAGS
    name = "rate" if given.rate else "concurrency"
    loads = numbers(name, getattr(given, name))
    _check_files(given)
    usual = addresses.usual_port(given.rest, given.port)
    port = given.port or usual
    with command.quiet():
        connect = (over_rest if given.rest else over_grpc)(given, port)
    unit = "requests a second" if given.rate else "clients"
    heads = "".join(f"{f'p{p} ms':>10}" for p in loops.PERCENTILES)
    print(f"{'rate' if given.rate else 'clients':>8}{'answers/s':>12}{heads}{'max ms':>10}  errors")
    steps = []
    for load in loads:
        if given.rate:
            step = loops.open_loop(connect, load, given.clients, given.warm_up, given.seconds)
        else:
            step = loops.closed_loop(connect, int(load), given.warm_up, given.seconds)
        steps.append(step)
        print(loops.row(step) + (f"  {step.first_error}" if step.errors else ""))
    if given.json:
        Path(given.json).write_text(json.dumps([asdict(step) for step in steps], indent=1) + "\n")
    if given.plot:
        loops.draw(steps, given.plot, unit)
    return int(any(step.errors for step in steps))


if __name__ == "__main__":
    command.define(FLAGS)
    command.run(main)
