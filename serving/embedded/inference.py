"""What a server answers: Predict, Classify, Regress, MultiInference, metadata and status.

Requests and responses are the messages of tensorflow-serving-api. Only `Inference.compute`, which
REST calls, takes and returns arrays. The wording and the order of the checks are upstream's, in
tensorflow_serving/servables/tensorflow and tensorflow/cc/saved_model/util.cc.
"""

from collections.abc import Mapping, Sequence

import grpc
import numpy as np
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from serving.embedded import examples, tensors
from serving.embedded.errors import StatusError, invalid
from serving.embedded.manager import Manager
from serving.embedded.options import Reloads
from serving.embedded.servable import DEFAULT_SIGNATURE, check_rank
from serving.embedded.tensors import FILLED

_SIGNATURES = "signature_def"  # the one field of the metadata


class Inference:
    """Answers requests with the models of a manager.

    Args:
        manager: The models.
        content: Whether responses hold `tensor_content` instead of typed values.
        filled: Bytes of a request's tensors that a shape may declare without values.
        reloads: What clients may change.
    """

    def __init__(
        self,
        manager: Manager,
        content: bool = False,
        filled: int = FILLED,
        reloads: Reloads = Reloads(),  # noqa: B008
    ):
        self.manager, self.reloads = manager, reloads
        self._content, self._filled = content, filled

    def predict(self, request, deadline: float | None = None):
        """Return the PredictResponse to a PredictRequest; raises StatusError."""
        with self.manager.lease(_spec(request)) as version:
            response = predict(version.servable, request, deadline, self._content, self._filled)
            _fill(response.model_spec, request.model_spec, version.number)
            return response

    def compute(self, spec, name: str, read, deadline: float | None = None):
        """Run a signature on arrays; raises StatusError.

        Args:
            spec: ModelSpec.
            name: Of the signature; empty: the default one.
            read: Makes the inputs, by alias, for the SignatureDef.
            deadline: As in `Servable.run`.

        Returns:
            Arrays by alias, in the order of their names.
        """
        with self.manager.lease(spec) as version:
            servable = version.servable
            try:
                signature = servable.signature(name)
            except KeyError:
                raise invalid(
                    f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in'
                    " signature def"
                ) from None
            inputs = read(signature)
            check_rank(signature, inputs)
            aliases = sorted(signature.outputs)
            outputs = servable.run(name or DEFAULT_SIGNATURE, inputs, aliases, deadline)
            return dict(zip(aliases, outputs, strict=True))

    def classify(self, request, deadline: float | None = None):
        """Return the ClassificationResponse to a ClassificationRequest; raises StatusError."""
        response = classification_pb2.ClassificationResponse()
        return self._examples(examples.CLASSIFY, request, response, deadline)

    def regress(self, request, deadline: float | None = None):
        """Return the RegressionResponse to a RegressionRequest; raises StatusError."""
        response = regression_pb2.RegressionResponse()
        return self._examples(examples.REGRESS, request, response, deadline)

    def _examples(self, kind: str, request, response, deadline: float | None):
        """Fill and return the response to a request that sends tf.Examples; raises StatusError."""
        with self.manager.lease(_spec(request)) as version:
            task = request.model_spec, kind, response.result
            examples.run(version.servable, request.input, [task], deadline)
            _fill(response.model_spec, request.model_spec, version.number)
        return response

    def multi(self, request, deadline: float | None = None):
        """Return the MultiInferenceResponse to a MultiInferenceRequest; raises StatusError."""
        spec = request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
        with self.manager.lease(spec) as version:
            response = examples.multi(version.servable, request, deadline)
            for task, result in zip(request.tasks, response.results, strict=True):
                _fill(result.model_spec, task.model_spec, version.number)
            return response

    def metadata(self, request):
        """Return the GetModelMetadataResponse to a GetModelMetadataRequest; raises StatusError."""
        spec = _spec(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != _SIGNATURES:
                raise invalid(f"Metadata field {name} is not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        with self.manager.lease(spec) as version:
            response.model_spec.name = spec.name
            response.model_spec.version.value = version.number
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in version.servable.all_signatures.items():
                signatures.signature_def[name].CopyFrom(signature)
            response.metadata[_SIGNATURES].Pack(signatures)
        return response

    def status(self, request):
        """Return the GetModelStatusResponse to a GetModelStatusRequest; raises StatusError."""
        spec = _spec(request)
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        number = spec.version.value if spec.WhichOneof("version_choice") == "version" else None
        model = self.manager.model(spec.name)
        versions = [] if model is None else model.versions()
        chosen = [version for version in versions if number in (None, version.number)]
        if not chosen:
            asked = "any versions" if number is None else f"version {number}"
            raise StatusError(
                grpc.StatusCode.NOT_FOUND, f"Could not find {asked} of model {spec.name}"
            )
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in chosen:
            added = response.model_version_status.add(version=version.number, state=version.state)
            added.status.SetInParent()  # else JSON drops it where all is well
            if version.error is not None:
                added.status.error_code = version.error.code.value[0]
                added.status.error_message = version.error.message
        return response


def predict(
    servable,
    request,
    deadline: float | None = None,
    content: bool = False,
    filled: int = FILLED,
):
    """Return a servable's answer to a PredictRequest, without the version; raises StatusError."""
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    try:
        signature = servable.signature(name)
    except KeyError:
        raise StatusError(
            grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.'
        ) from None
    inputs = _inputs(signature, request.inputs, filled)
    aliases = _outputs(signature, request.output_filter)
    check_rank(signature, inputs)
    response = predict_pb2.PredictResponse()
    for alias, array in zip(aliases, servable.run(name, inputs, aliases, deadline), strict=True):
        tensors.write(array, response.outputs[alias], content)
    return response


def _spec(request):
    """Return the ModelSpec of a request; raises StatusError."""
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return request.model_spec


def _fill(answer, asked, number: int) -> None:
    """Name the model that answered, with the version and signature that were chosen."""
    answer.name = asked.name
    answer.version.value = number
    answer.signature_name = asked.signature_name or DEFAULT_SIGNATURE


def _joined(names) -> str:
    return ",".join(sorted(names))


def _inputs(signature, sent: Mapping, filled: int) -> dict[str, np.ndarray]:
    """Return a request's inputs as arrays, with defaults for missing ones; raises StatusError."""
    known, defaults = set(signature.inputs), signature.defaults
    if len(sent) > len(known) or (len(sent) < len(known) and not defaults):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(known)}"
            f" len({{{_joined(sent)}}}) != len({{{_joined(known)}}})."
            f" Sent extra: {{{_joined(set(sent) - known)}}}."
            f" Missing but required: {{{_joined(known - set(sent))}}}."
        )
    inputs = {}
    if sum(map(tensors.filled, sent.values())) > filled:
        raise invalid(
            f"shapes without values declare more than {filled} bytes: {_joined(sent)};"
            " valid: send the values"
        )
    for alias in sorted(known):
        if alias not in sent and alias not in defaults:
            raise invalid(
                f"Signature input alias: {alias}(feed name: {signature.inputs[alias].name}) not"
                " found in request and no default value provided. Inputs expected to be in the"
                f" request {{{_joined(sent)}}}, or default input alias set: {_joined(defaults)}"
            )
        try:
            inputs[alias] = tensors.to_array(
                sent[alias] if alias in sent else defaults[alias], filled
            )
        except ValueError:
            raise invalid(f"tensor parsing error: {alias}") from None
    if not set(sent) <= known:
        raise invalid(
            "Inputs contains invalid name. Used request inputs:"
            f" {_joined(set(sent) & known)}, request input: {_joined(sent)}"
        )
    return inputs


def _outputs(signature, wanted: Sequence[str]) -> list[str]:
    """Return the aliases that a request asks for, all if it names none; raises StatusError."""
    seen = []
    for alias in wanted:
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the"
                f" set {{{_joined(signature.outputs)}}}."
            )
        if alias in seen:
            raise invalid(f"duplicate output tensor alias: {alias}")
        seen.append(alias)
    return seen or sorted(signature.outputs)
