"""Configuration messages of TF Serving that its Python package lacks, declared here.

Only their text form is read and written, so field numbers do not matter. Sources:
tensorflow_serving/config/{ssl,monitoring}_config.proto,
servables/tensorflow/session_bundle_config.proto.
"""

from pathlib import Path

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

from serving.embedded.errors import ConfigError

_KINDS = descriptor_pb2.FieldDescriptorProto
_WRAPPED = {"Int64Value", "StringValue", "BoolValue"}
_MESSAGES = {
    "SSLConfig": {
        "server_key": "string",
        "server_cert": "string",
        "custom_ca": "string",
        "client_verify": "bool",
    },
    "PrometheusConfig": {"enable": "bool", "path": "string"},
    "MonitoringConfig": {"prometheus_config": "PrometheusConfig"},
    "BatchingParameters": {
        "max_batch_size": "Int64Value",
        "batch_timeout_micros": "Int64Value",
        "max_enqueued_batches": "Int64Value",
        "num_batch_threads": "Int64Value",
        "thread_pool_name": "StringValue",
        "allowed_batch_sizes": "repeated int64",
        "pad_variable_length_inputs": "bool",
        "enable_large_batch_splitting": "BoolValue",
        "max_execution_batch_size": "Int64Value",
    },
}


def _declare() -> dict[str, type]:
    """Return a class for each of _MESSAGES, in a separate pool: a package may declare them, too."""
    file = descriptor_pb2.FileDescriptorProto(
        name="serving/embedded.proto", package="tensorflow.serving", syntax="proto3"
    )
    file.dependency.append("google/protobuf/wrappers.proto")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), start=1):
            added = message.field.add(name=field, number=number, label=_KINDS.LABEL_OPTIONAL)
            if kind.startswith("repeated "):
                added.label, kind = _KINDS.LABEL_REPEATED, kind.split()[1]
            if kind in _WRAPPED or kind in _MESSAGES:
                package = "google.protobuf" if kind in _WRAPPED else "tensorflow.serving"
                added.type, added.type_name = _KINDS.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                added.type = getattr(_KINDS, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"tensorflow.serving.{name}")
        )
        for name in _MESSAGES
    }


_CLASSES = _declare()
SSLConfig = _CLASSES["SSLConfig"]
MonitoringConfig = _CLASSES["MonitoringConfig"]
BatchingParameters = _CLASSES["BatchingParameters"]
ModelServerConfig = model_server_config_pb2.ModelServerConfig


def read(path: str | Path, message: type, argument: str = ""):
    """Return the message in a text file.

    Args:
        path: Of the file.
        message: Class of what it holds.
        argument: The flag that names the file, if one does.

    Raises:
        ConfigError: The file cannot be read, or does not hold such a message.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # editors of Windows begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{path}: cannot be read: {why}", argument) from None
    try:
        return text_format.Parse(text, message())
    except text_format.ParseError as error:
        name = message.DESCRIPTOR.full_name
        text = f"Error parsing text-format {name}: {path}: {error}"
        raise ConfigError(text, argument) from None
