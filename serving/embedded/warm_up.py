"""Requests that are run before a version is served, so that no user waits for the first one.

Source: tensorflow_serving/servables/tensorflow/saved_model_warmup_util.cc.
"""

from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.embedded import examples, inference
from serving.embedded.errors import StatusError, invalid

FILE = "assets.extra/tf_serving_warmup_requests"
MOST = 1000  # requests


def run(servable, path: Path, times: int = 1) -> int:
    """Run the requests of a version's warm-up file, if it has one.

    Args:
        servable: Answers; the models that the requests name are not looked up.
        path: The directory of the version.
        times: How often to run each request.

    Returns:
        The number of requests.

    Raises:
        StatusError: The file is damaged or too long, or a request fails.
    """
    file = path / FILE
    if not file.exists():
        return 0
    count = 0
    try:
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            count += 1
            if count > MOST:
                raise invalid(f"Number of warmup records exceeds the maximum ({MOST})")
            log = prediction_log_pb2.PredictionLog.FromString(record)
            for _ in range(times):
                _replay(servable, log)
    except StatusError as error:
        raise StatusError(error.code, f"warm-up request {count}: {error.message}") from None
    except Exception as error:  # TensorFlow or protobuf says that the file is damaged
        raise invalid(f"warm-up requests cannot be read: {type(error).__name__}") from None
    return count


def _replay(servable, log) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        inference.predict(servable, log.predict_log.request)
    elif kind == "multi_inference_log":
        examples.multi(servable, log.multi_inference_log.request)
    elif kind in ("classify_log", "regress_log"):
        request = getattr(log, kind).request
        name = examples.CLASSIFY if kind == "classify_log" else examples.REGRESS
        result = type(getattr(log, kind).response.result)()
        examples.run(servable, request.input, [(request.model_spec, name, result)])
    else:
        raise invalid(f"Unsupported log_type for warmup: {kind}")
