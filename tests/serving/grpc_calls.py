"""Requests over gRPC, and the errors that answer them."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.serving import served_models


def request(name="half", signature="", version=None, label=None, kind=None, **inputs):
    """Return a request for a model: a PredictRequest unless told otherwise."""
    made = (kind or predict_pb2.PredictRequest)()
    made.model_spec.name, made.model_spec.signature_name = name, signature
    if version is not None:
        made.model_spec.version.value = version
    if label is not None:
        made.model_spec.version_label = label
    for alias, value in inputs.items():
        made.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    return made


def x(*values):
    """Return a float32 vector."""
    return np.array(values, np.float32)


def error(call, made, **options):
    """Return the code and the details of the error that answers a request."""
    with pytest.raises(grpc.RpcError) as caught:
        call(made, **options)
    return caught.value.code(), caught.value.details()


def examples(kind, signature, *values):
    """Return a request of a kind that sends tf.Examples."""
    made = request(signature=signature, kind=kind)
    made.input.example_list.examples.extend(served_models.example(x=value) for value in values)
    return made


def predict(channel, *values, name="half", **options):
    """Return what a model answers to a vector."""
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    return list(stub.Predict(request(name, x=x(*values)), **options).outputs["y"].float_val)
