"""TF Serving's HTTP API: which path asks for what, and what is answered.

To add a route, write a function of (Inference, Request) and name it in ROUTES.

Source: tensorflow_serving/model_servers/http_rest_api_{util,handler}.cc.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    regression_pb2,
)

from serving.embedded import json_examples, json_inputs, json_outputs, json_values
from serving.embedded.calls import Call
from serving.embedded.errors import invalid
from serving.embedded.inference import Inference
from serving.embedded.versions import MAX_VERSION


@dataclass(frozen=True)
class Request:
    """A request for a model.

    Args:
        spec: ModelSpec: the model, and the version or label that the path names.
        body: As it was sent, unzipped.
        deadline: `time.monotonic()` at which nobody waits any longer.
    """

    spec: model_pb2.ModelSpec
    body: bytes
    deadline: float


def predict(inference: Inference, request: Request) -> bytes:
    """Answer with outputs, by row or by column as the inputs came."""
    body = json_values.parse(request.body)
    outputs = inference.compute(
        request.spec,
        _signature_name(body),
        lambda signature: json_inputs.inputs_of(body, signature),
        request.deadline,
    )
    return json_outputs.write(outputs, "instances" in body)


def classify(inference: Inference, request: Request) -> bytes:
    """Answer with classes and their scores for each example."""
    message = _with_examples(classification_pb2.ClassificationRequest, request)
    return json_examples.classes(inference.classify(message, request.deadline).result)


def regress(inference: Inference, request: Request) -> bytes:
    """Answer with a number for each example."""
    message = _with_examples(regression_pb2.RegressionRequest, request)
    return json_examples.values(inference.regress(message, request.deadline).result)


def status(inference: Inference, request: Request) -> bytes:
    """Answer with the states of a model's versions. Labels are ignored, as upstream does."""
    message = get_model_status_pb2.GetModelStatusRequest(model_spec=request.spec)
    return _json(inference.status(message)).encode()


def metadata(inference: Inference, request: Request) -> bytes:
    """Answer with the signatures of a version."""
    message = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec=request.spec, metadata_field=["signature_def"]
    )
    response = inference.metadata(message)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    return (
        f'{{\n"model_spec":{_json(response.model_spec)},\n"metadata": '
        f'{{"signature_def": {_json(signatures)}}}\n}}\n'
    ).encode()


# What follows the model in the path; `answer` routes requests by this table alone.
ROUTES: Mapping[tuple[str, str], Callable[[Inference, Request], bytes]] = {
    ("POST", ":predict"): predict,
    ("POST", ":classify"): classify,
    ("POST", ":regress"): regress,
    ("GET", "/metadata"): metadata,
    ("GET", ""): status,
}


def _path(method: str) -> re.Pattern:
    """Return what the paths of a method look like. All but GET need the name of a model."""
    name = r"(?:/([^/:]+))?" if method == "GET" else r"/([^/:]+)"
    ends = "|".join(re.escape(end) for kind, end in ROUTES if kind == method)
    which = r"(?:/versions/(\d+)|/labels/([^/:]+))?"
    return re.compile(f"/v1/models{name}{which}({ends})", re.IGNORECASE | re.ASCII)


_PATHS = {method: _path(method) for method, _ in ROUTES}


def answer(
    inference: Inference, method: str, path: str, body: bytes, deadline: float, call: Call
) -> bytes:
    """Return the body of the answer to a request; raises StatusError.

    Args:
        inference: Answers.
        method: GET or POST; others are malformed.
        path: With the query, which counts as part of it.
        body: Unzipped.
        deadline: As in `Request`.
        call: Told which model is asked for what.
    """
    match = _PATHS[method].fullmatch(path) if method in _PATHS else None
    if match is None:
        raise invalid(f"Malformed request: {method} {path}")
    name, version, label, end = match.groups()
    route = ROUTES[method, end.lower()]
    spec = model_pb2.ModelSpec(name=unquote(name or ""))
    call.model, call.api = spec.name, route.__name__
    if version:
        digits = version.lstrip("0") or "0"  # of a number too long, Python itself converts nothing
        if len(digits) > len(str(MAX_VERSION)) or int(digits) > MAX_VERSION:
            raise invalid(f"Failed to convert version: {version} to numeric.")
        spec.version.value = int(digits)
    if label:
        spec.version_label = unquote(label)
    if not spec.name:
        raise invalid("Missing model name in request.")
    return route(inference, Request(spec, body, deadline))


def _signature_name(body: Mapping) -> str:
    name = body.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {json_values.quoted(body)} not formatted correctly. 'signature_name'"
            " key must be a string value."
        )
    return name


def _with_examples(kind: type, request: Request):
    """Return a ClassificationRequest or RegressionRequest of a body; raises StatusError."""
    body = json_values.parse(request.body)
    message = kind(model_spec=request.spec)
    message.model_spec.signature_name = _signature_name(body)
    json_examples.fill(body, message)
    return message


def _json(message) -> str:
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
