"""Small requests that ask for much: each function sends one, drawn from a random generator.

Each takes what is served (`url`, `rest` and `grpc` ports, `session`, `channel`, and `silent`, a
list of connections that wait) and returns the code of the answer, if there is one: see KINDS.
"""

import functools
import gzip
import socket
import struct
import zlib

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

PREDICT = "/tensorflow.serving.PredictionService/Predict"


@functools.cache
def png(width, height, lines=0):
    """Return a PNG file that declares its sides and holds that many grey lines, deflated."""

    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width + 1) * lines), 9)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@functools.cache
def bomb(text, size):
    """Return a gzip body that unpacks to a list, of a text repeated up to a size and then 1."""
    return gzip.compress(b"[" + text * (size // len(text)) + b"1]", 1)


def called(served, request):
    """Return gRPC's code for a Predict request."""
    call = served.channel.unary_unary(PREDICT)
    error = call.future(request.SerializeToString(), timeout=300).exception()
    return grpc.StatusCode.OK if error is None else error.code()


def of_sides(served, random):
    """Send a picture of few bytes and many pixels to a model that decodes images."""
    sides = [
        (100_000, 1),
        (1, 65_000),
        (65_000, 65_000),
        (2**31 - 1, 1),
        (9000, 9000),
        (5000, 5000),
    ]
    wide, high = random.choice(sides)
    lines = high if wide * high <= 25_000_000 else 0
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "pictures", "serving_bytes"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([png(wide, high, lines)]))
    return called(served, request)


def of_shapes(served, random):
    """Declare a float tensor by its shape, and send no values or one."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "default"
    tensor = request.inputs["x"]
    tensor.dtype = tf.float32.as_datatype_enum
    for size in random.choice([(2**20,), (2**10, 2**10), (2**22, 2**3), (2**31, 2**31), (2**40,)]):
        tensor.tensor_shape.dim.add(size=size)
    tensor.float_val.extend([1.0] * random.randrange(2))
    return called(served, request)


def of_names(served, random):
    """Ask for a model with an invented name of a megabyte."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = f"{random.random()}" * 60_000
    return called(served, request)


def of_zips(served, random):
    """Send a gzip body that unpacks to hundreds of times its size."""
    text = random.choice([b" ", b"[", b"[1,", b'"a",', b"1,", b"1"])
    body = bomb(text, random.choice([1, 20, 90, 120]) << 20)
    headers = {"Content-Encoding": "gzip"}
    path = "/v1/models/default:predict"
    return served.session.post(served.url + path, body, headers=headers).status_code


def of_headers(served, random):
    """Send headers without end; returns the code, None where the connection was dropped."""
    with _connected(served) as one:
        line = b"A%d: " % random.randrange(1000) + b"a" * random.choice([10, 1000, 100_000])
        try:
            one.sendall(b"GET /v1/models/default HTTP/1.1\r\n")
            for _ in range(2_000_000 // len(line)):
                one.sendall(line + b"\r\n")
            return int(one.recv(100).split()[1])
        except (ConnectionError, IndexError):
            return None


def of_silence(served, random):
    """Open connections of REST and of gRPC, say little, and let some of them wait."""
    for _ in range(random.randrange(20)):
        port = random.choice([served.rest, served.grpc])
        one = socket.create_connection(("127.0.0.1", port))
        one.sendall(random.choice([b"", b"P", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"]))
        served.silent.append(one)
    while len(served.silent) > 300:
        served.silent.pop(random.randrange(len(served.silent))).close()


def _connected(served):
    one = socket.create_connection(("127.0.0.1", served.rest))
    one.settimeout(300)
    return one


# By what is sent: the answers that are right.
_CODE = grpc.StatusCode
KINDS = {
    of_sides: {_CODE.OK, _CODE.INVALID_ARGUMENT},
    of_shapes: {_CODE.OK, _CODE.INVALID_ARGUMENT},
    of_names: {_CODE.NOT_FOUND},
    of_zips: {400, 413},
    of_headers: {None, 431},
    of_silence: {None},
}
