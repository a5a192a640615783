"""Classify images with a server: TF Serving, or `python -m serving.server`.

python -m serving.client IMAGE_OR_FOLDER_OR_- ... [--model_name=NAME] [--rest]

The server decodes and scales images; a client only sends the files. Programs use `Client`.
"""

import base64
import itertools
import json
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from absl import flags

from serving import addresses, command, tensor_values

SIGNATURE = "serving_bytes"
# What the server's decoder knows is called so.
KINDS = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp"}
THRESHOLD = "threshold"
OUTPUTS = ("labels", "scores", THRESHOLD)
_OF_PROXIES = (502, 503, 504)  # of a proxy that does not reach its server


class Answer(list):
    """The most probable labels of an image with their probabilities, best first.

    Attributes:
        sure: Whether the first is as probable as the model's threshold asks; if not, the image may
            be of none of its classes.
    """

    def __init__(self, labels: Iterable[str], scores: Iterable[float], threshold: float = 0.0):
        super().__init__(zip(labels, map(float, scores), strict=True))
        self.sure = bool(self[0][1] >= threshold)


class RefusedError(Exception):
    """The server answered with an error, or did not answer; the message is one line."""


def _line(text: str | None, otherwise: str) -> str:
    """Return the first line of a text, or other words if there are none."""
    return next(iter((text or "").strip().splitlines()), otherwise)


class Client:
    """Sends encoded images to one model of a server.

    Args:
        model: Its name on the server.
        address: HOST:PORT, of gRPC or REST; of REST also http://... or https://... Empty: the usual
            port of this machine, 8501 of REST or 8500 of gRPC.
        rest: Use REST instead of gRPC.
        label: Ask for the version with this label; empty: the newest version.
        timeout: Seconds that an answer may take.
        retries: How often to try again while the server is not available.
        wait: Seconds before the first retry; doubled before each further retry.
        ca_file: PEM file of the authority, for a server with TLS. Empty: gRPC without TLS, and for
            https://... the authorities that this machine knows.
    """

    def __init__(
        self,
        model: str,
        address: str = "",
        rest: bool = False,
        label: str = "",
        timeout: float = 30.0,
        retries: int = 4,
        wait: float = 0.25,
        ca_file: str = "",
    ):
        if rest and ca_file and not address.startswith("https://"):
            raise command.MistakeError(
                "--ca_file: works with gRPC and https:// only; plain REST has no TLS."
            )
        self._address = address or addresses.joined("127.0.0.1", addresses.usual_port(rest))
        self._model, self._label = model, label
        self._timeout, self._retries, self._wait = timeout, retries, wait
        self._ca_file = ca_file
        self._send = self._over_rest() if rest else self._over_grpc()

    def classify(self, images: Sequence[bytes]) -> list[Answer]:
        """Return the most probable labels of encoded images, best first, with their probabilities.

        Args:
            images: Contents of JPEG, PNG, BMP, GIF or WebP files, of any size; of none, no answers.

        Raises:
            RefusedError: The server has no such model, cannot read an image, or does not answer.
            TypeError: Something else than a list of bytes.
        """
        if isinstance(images, bytes | bytearray | memoryview | str):
            raise TypeError("images: received a single one; valid: a list of file contents.")
        images = list(images)
        for image in images:
            if not isinstance(image, bytes | bytearray | memoryview):
                raise TypeError(f"images: received {image!r:.60}; valid: bytes, a file's content.")
        if not images:
            return []
        images, wait = [bytes(image) for image in images], self._wait
        for left in reversed(range(self._retries + 1)):
            try:
                return self._send(images)
            except UnavailableError as error:
                if not left:
                    raise UnavailableError(f"{self._address}: {error}") from None
            # Clients should not all come back at the same moment after a server was away.
            time.sleep(wait * random.uniform(0.5, 1.5))
            wait *= 2
        raise AssertionError

    def _over_grpc(self) -> Callable:
        with command.quiet():
            import grpc
            import numpy as np
            from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        stub = prediction_service_pb2_grpc.PredictionServiceStub(
            addresses.channel_to(self._address, self._ca_file)
        )

        known = list(OUTPUTS)

        def send(images: Sequence[bytes]) -> list[Answer]:
            request = predict_pb2.PredictRequest(output_filter=known)
            request.model_spec.name = self._model
            request.model_spec.signature_name = SIGNATURE
            if self._label:
                request.model_spec.version_label = self._label
            tensor = request.inputs["image_bytes"]
            tensor.dtype = 7  # DT_STRING
            tensor.tensor_shape.dim.add(size=len(images))
            tensor.string_val.extend(images)
            try:
                outputs = stub.Predict(request, timeout=self._timeout).outputs
            except grpc.RpcError as error:
                if THRESHOLD in known and THRESHOLD in (error.details() or ""):
                    known.remove(THRESHOLD)  # a model that was exported by an earlier version
                    return send(images)
                why = _line(error.details(), error.code().name)
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise RefusedError(why) from None
                why = "no server answers there" if "Connection refused" in why else why
                raise UnavailableError(why) from None
            shape = [dim.size for dim in outputs["scores"].tensor_shape.dim]
            labels = np.array(tensor_values.texts(outputs["labels"]), object).reshape(shape)
            scores = tensor_values.floats(outputs["scores"]).reshape(shape)
            least = tensor_values.floats(outputs[THRESHOLD])[:1] if THRESHOLD in known else [0]
            named = [[label.decode() for label in row] for row in labels]
            return [Answer(*row, *least) for row in zip(named, scores, strict=True)]

        return send

    def _over_rest(self) -> Callable:
        import requests

        session = requests.Session()
        if addresses.is_loopback(self._address):
            session.trust_env = False  # which may name proxies
        if self._ca_file:
            addresses.authority(self._ca_file)  # read once, so that a mistake is told now
        known = map(os.environ.get, ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"))
        authority = self._ca_file or next(filter(None, known), None)
        label = f"/labels/{self._label}" if self._label else ""
        url = f"{addresses.url_of(self._address)}/v1/models/{self._model}{label}:predict"

        def send(images: Sequence[bytes]) -> list[Answer]:
            encoded = [{"b64": base64.b64encode(image).decode()} for image in images]
            body = {"signature_name": SIGNATURE, "instances": encoded}
            try:
                answer = session.post(url, json=body, timeout=self._timeout, verify=authority)
            except requests.exceptions.SSLError as error:
                raise RefusedError(
                    f"{self._address}: TLS failed ({_tls_reason(error)}); valid: http:// if the"
                    " server has no TLS, or a ca_file with the CA of its certificate"
                ) from None
            except requests.ConnectionError:
                raise UnavailableError("no server answers there") from None
            except requests.RequestException as error:
                raise RefusedError(f"{self._address}: {type(error).__name__}") from None
            try:
                return _rest_answers(answer.status_code, answer.json())
            except (ValueError, KeyError, TypeError, AttributeError):
                if answer.status_code in _OF_PROXIES:
                    raise UnavailableError(f"HTTP {answer.status_code}") from None
                raise RefusedError(f"{self._address}: does not speak TF Serving's REST") from None

        return send


class UnavailableError(RefusedError):
    """The server may be available in a moment."""


def _tls_reason(error: Exception) -> str:
    """Return OpenSSL's words of what `requests` says of them, as "certificate verify failed"."""
    found = re.search(r"\] ([\w ]+)", str(error))
    return found[1].strip() if found else type(error).__name__


def _rest_answers(status: int, content) -> list[Answer]:
    """Return the answers that REST gives; raises RefusedError, or others for other JSON."""
    if status != 200:
        kind = UnavailableError if status in (502, 503) else RefusedError  # 504: its own deadline
        raise kind(_line(content["error"], f"HTTP {status}"))
    rows = content["predictions"]
    return [Answer(row["labels"], row["scores"], row.get("threshold", 0.0)) for row in rows]


def images_of(names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of files, of the images in folders, and of stdin for "-".

    Raises:
        MistakeError: One of them does not exist, or cannot be read.
    """
    for name in names:
        if name == "-":
            yield "-", sys.stdin.buffer.read()
            continue
        path = Path(name)
        files = [path]
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if _is_image(path, file))
            if not files:
                kinds = ", ".join(sorted(KINDS))
                raise command.MistakeError(f"{path}: contains no images; valid: {kinds}.")
        for file in files:
            try:
                yield str(file), file.read_bytes()
            except OSError as error:
                raise command.MistakeError(f"{file}: {error.strerror}.") from None


def _is_image(folder: Path, file: Path) -> bool:
    """Whether a file is an image by its name, and not what other programs leave in folders."""
    parts = file.relative_to(folder).parts
    litter = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return file.suffix.lower() in KINDS and not litter


FLAGS = {  # default, help, least
    "host": ("127.0.0.1", "Address of the server; with --rest also https://HOST."),
    "port": (0, "Port of the server; 0: 8500, or 8501 with --rest."),
    "rest": (False, "Use REST instead of gRPC."),
    "model_name": ("default", "Name of the model on the server."),
    "ca_file": ("", "PEM file of the certificate authority (CA), for gRPC with TLS or https://."),
    "label": ("", "Ask for the version with this label, such as stable or canary."),
    "top": (3, "How many labels to print.", 1),
    "json": (False, "Print one line of JSON per image, for programs."),
    "timeout": (30.0, "Seconds to wait for an answer.", 0.001),
    "batch": (16, "How many images to send at a time.", 1),
}


def main(names: Sequence[str]) -> int:
    """Print the labels of images; return 1 if one could not be classified."""
    given = flags.FLAGS
    usual = addresses.usual_port(given.rest, given.port)
    address = addresses.joined(given.host, given.port, usual)
    client = Client(
        given.model_name, address, given.rest, given.label, given.timeout, ca_file=given.ca_file
    )
    images, failed = images_of(names), False
    while batch := list(itertools.islice(images, given.batch)):
        try:
            failed |= _print(client, batch)
        except UnavailableError as error:  # each image would wait as long
            others = "" if len(batch) == 1 < given.batch else " and all images after it"
            print(f"error: {batch[0][0]}{others}: {error}", file=sys.stderr)
            return 1
    return int(failed)


def _print(client: Client, images: Sequence[tuple[str, bytes]]) -> bool:
    """Print the answers to some images; return whether one failed.

    Raises:
        RefusedError: The server is not available, after all retries.
    """
    try:
        answers = client.classify([content for _, content in images])
    except UnavailableError:
        raise
    except RefusedError as error:
        if len(images) == 1:
            name = images[0][0]
            print(f"error: {name}: {error}", file=sys.stderr)
            return True
        return sum(_print(client, [image]) for image in images) > 0  # find out which one it is
    for (name, _), answer in zip(images, answers, strict=True):
        best = answer[: flags.FLAGS.top]
        if flags.FLAGS.json:
            told = {"image": name, "labels": dict(best), "sure": answer.sure}
            print(json.dumps(told, ensure_ascii=False))
        else:
            unsure = () if answer.sure else ("none of these?",)
            print(
                *(name, *unsure, *(f"{label} {100 * score:.1f} %" for label, score in best)),
                sep="  ",
            )
    return False


if __name__ == "__main__":
    command.define(FLAGS)
    command.run(main, "IMAGE, FOLDER or -")
