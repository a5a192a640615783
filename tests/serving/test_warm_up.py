"""Warm-up: which requests of a version's file are run, how often, and what a bad one does."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.embedded import factory
from serving.embedded.errors import StatusError
from tests.serving import served_models


@pytest.fixture(scope="module")
def saved(half, tmp_path_factory):
    """A version that tests may change."""
    base = tmp_path_factory.mktemp("changed")
    served_models.publish_copy(half / "1", base, 1)
    return base / "1"


@pytest.fixture
def write(saved):
    """Writes the warm-up file of the model; it is gone after the test."""
    file = saved / "assets.extra" / "tf_serving_warmup_requests"

    def records(*logs):
        file.parent.mkdir(exist_ok=True)
        with tf.io.TFRecordWriter(str(file)) as writer:
            for log in logs:
                writer.write(log if isinstance(log, bytes) else log.SerializeToString())
        return file

    yield records
    file.unlink(missing_ok=True)


@pytest.fixture
def runs(monkeypatch):
    """The names of the signatures that are run while a model is loaded."""
    names = []

    class Watched(factory.Servable):
        def run(self, name, *rest):
            names.append(name)
            return super().run(name, *rest)

    monkeypatch.setattr(factory, "Servable", Watched)
    return names


def load(path, **options):
    servable = factory.ServableFactory(1, **options)(path, "half")
    servable.close()


def predict(signature="", model="half", dtype=np.float32):
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name, request.model_spec.signature_name = model, signature
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.array([1, 2], dtype)))
    return log


def with_examples(kind):
    log = prediction_log_pb2.PredictionLog()
    request = getattr(log, f"{kind}_log").request
    request.model_spec.name, request.model_spec.signature_name = "half", f"{kind}_x_to_y"
    request.input.example_list.examples.append(served_models.example(x=2))
    return log


def multi():
    log = prediction_log_pb2.PredictionLog()
    request = log.multi_inference_log.request
    for kind in ("regress", "classify"):
        task = request.tasks.add(method_name=f"tensorflow/serving/{kind}")
        task.model_spec.name, task.model_spec.signature_name = "half", f"{kind}_x_to_y"
    request.input.example_list.examples.append(served_models.example(x=2))
    return log


def session_run():
    log = prediction_log_pb2.PredictionLog()
    log.session_run_log.request.model_spec.name = "half"
    return log


@pytest.mark.parametrize(
    ("log", "signatures"),
    [
        (predict(), ["serving_default"]),
        (with_examples("classify"), ["classify_x_to_y"]),
        (with_examples("regress"), ["regress_x_to_y"]),
        (multi(), ["regress_x_to_y", "classify_x_to_y"]),
    ],
    ids=["predict", "classify", "regress", "multi_inference"],
)
def test_every_kind_of_request_is_run_before_the_version_is_served(
    saved, write, runs, log, signatures
):
    write(log)
    load(saved)
    assert runs == signatures


def test_requests_run_in_order_each_as_often_as_asked(saved, write, runs):
    write(predict(), with_examples("regress"))
    load(saved, warm_times=3)
    assert runs == ["serving_default"] * 3 + ["regress_x_to_y"] * 3


def test_the_model_that_a_request_names_is_not_looked_up(saved, write, runs):
    log = predict(model="somebody else")
    log.predict_log.request.model_spec.version.value = 99
    write(log)
    load(saved)
    assert runs == ["serving_default"]


def test_a_version_without_a_file_runs_nothing(saved, runs):
    load(saved)
    assert runs == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (predict("no"), 'warm-up request 2: Serving signature key "no" not found.'),
        (predict(dtype=np.float64), "warm-up request 2: .*double"),
        (prediction_log_pb2.PredictionLog(), "warm-up request 2: Unsupported log_type"),
        (session_run(), "warm-up request 2: Unsupported log_type for warmup: session_run_log"),
        (b"\xff\xff\xff no message", "warm-up requests cannot be read: DecodeError"),
    ],
    ids=["signature", "dtype", "empty", "session_run", "no message"],
)
def test_a_request_that_fails_fails_the_load(saved, write, bad, message):
    write(predict(), bad)
    with pytest.raises(StatusError, match=message):
        load(saved)
    load(saved, warm=False)


def test_a_damaged_file_fails_the_load(saved, write):
    file = write(predict(), predict())
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(StatusError, match="warm-up requests cannot be read: DataLossError"):
        load(saved)


def test_a_thousand_requests_are_run_and_one_more_is_too_many(saved, write, runs):
    write(*[predict()] * 1000)
    load(saved)
    assert len(runs) == 1000
    write(*[predict()] * 1001)
    with pytest.raises(StatusError, match=r"Number of warmup records exceeds the maximum \(1000\)"):
        load(saved)


def test_the_flags_say_whether_and_how_often(saved, write, runs):
    base = str(saved.parent)
    write(predict())
    with served_models.server(model_base_path=base, num_request_iterations_for_warmup=2):
        assert runs == ["serving_default"] * 2
    write(predict("no"))
    with (
        pytest.raises(StatusError, match="warm-up request 1"),
        served_models.server(model_base_path=base),
    ):
        pass
    with served_models.server(model_base_path=base, enable_model_warmup=False) as server:
        assert server.manager.model("default").ready
