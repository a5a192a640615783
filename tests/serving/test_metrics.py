"""What Prometheus reads: names, labels and units, by Prometheus' own parser; where, and whether."""

import re

import grpc
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.embedded.metrics import Metrics
from tests.serving import served_models

OK, REFUSED = grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT
COUNT = ":tensorflow:serving:request_count"
LATENCY = ":tensorflow:serving:request_latency"


def samples(text):
    """Return (name, labels) -> value of all that is measured."""
    families = text_string_to_metric_families(text.replace(f"{COUNT} counter", f"{COUNT} gauge"))
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def labels(**values):
    return tuple(sorted(values.items()))


def measured(*requests):
    metrics = Metrics()
    for request in requests:
        metrics.request(*request)
    return samples(metrics.text().decode())


def test_requests_are_counted_by_model_and_status():
    ok, refused = ("m", "predict", "REST", OK, 0.1), ("m", "Predict", "GRPC", REFUSED, 0.1)
    values = measured(ok, ok, refused, ("n", "predict", "REST", OK, 0.1))
    assert {key: value for key, value in values.items() if key[0] == COUNT} == {
        (COUNT, labels(model_name="m", status="OK")): 2,
        (COUNT, labels(model_name="m", status="INVALID_ARGUMENT")): 1,
        (COUNT, labels(model_name="n", status="OK")): 1,
    }


def test_latencies_are_in_microseconds_in_upstreams_buckets():
    values = measured(("m", "Predict", "GRPC", OK, 0.02), ("m", "Predict", "GRPC", OK, 0.03))
    where = {"model_name": "m", "API": "Predict", "entrypoint": "GRPC"}
    assert values[LATENCY + "_sum", labels(**where)] == pytest.approx(50_000)
    assert values[LATENCY + "_count", labels(**where)] == 2
    buckets = {
        float(dict(key)["le"]): value for (name, key), value in values.items() if "bucket" in name
    }
    *finite, last = sorted(buckets)
    assert last == float("inf")
    assert finite == pytest.approx([10 * 1.8**i for i in range(33)])
    assert all(count == (edge > 20_000) + (edge > 30_000) for edge, count in buckets.items())


def monitored(half, file, text):
    file.write_text(text)
    return served_models.server(model_base_path=str(half), monitoring_config_file=str(file))


def test_both_entrypoints_are_measured_by_the_names_of_their_calls(half, tmp_path):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "default"
    request.inputs["x"].dtype = 1
    with monitored(half, tmp_path / "c", "prometheus_config { enable: true }") as server:
        with grpc.insecure_channel(server.address) as channel:
            prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request)
        model = f"{server.url}/v1/models/default"
        requests.post(f"{model}:PREDICT", '{"instances": [1]}', timeout=300)
        body = '{"signature_name": "regress_x_to_y", "examples": [{"x": 1.0}]}'
        requests.post(f"{model}:regress", body, timeout=300)
        page = requests.get(f"{server.url}/monitoring/prometheus/metrics", timeout=300)
    assert page.headers["Content-Type"].startswith("text/plain")
    values = samples(page.text)
    for api, entrypoint in (("Predict", "GRPC"), ("predict", "REST"), ("regress", "REST")):
        where = labels(model_name="default", API=api, entrypoint=entrypoint)
        assert values[f"{LATENCY}_count", where] == 1
    assert values[COUNT, labels(model_name="default", status="OK")] == 3
    assert f"# TYPE {COUNT} counter" in page.text
    assert f"# TYPE {LATENCY} histogram" in page.text


def test_the_page_has_the_path_it_is_given(half, tmp_path):
    text = "prometheus_config { enable: true path: '/where/else' }"
    with monitored(half, tmp_path / "c", text) as server:
        assert requests.get(f"{server.url}/where/else", timeout=300).status_code == 200
        usual = requests.get(f"{server.url}/monitoring/prometheus/metrics", timeout=300)
        assert usual.status_code == 404


@pytest.mark.parametrize("text", ["", "prometheus_config { path: '/monitoring' }"])
def test_there_is_no_page_unless_it_is_enabled(half, tmp_path, text):
    with monitored(half, tmp_path / "c", text) as server:
        for path in ("/monitoring", "/monitoring/prometheus/metrics"):
            assert requests.get(f"{server.url}{path}", timeout=300).status_code == 404


def test_only_models_that_are_served_are_labels_whatever_the_status():
    names = ["a", "b"]
    metrics = Metrics(lambda: names)
    for name in ("a", "b", "x" * 1_000_000, "other"):
        for code in grpc.StatusCode:
            metrics.request(name, "Predict", "GRPC", code, 0.1)
            metrics.batch(name, 3)
    text = metrics.text().decode()
    assert len(text) < 50_000
    assert set(re.findall(r'model_name="(.*?)"', text)) == {"", "a", "b"}
    names[:] = ["c"]  # another configuration
    metrics.request("c", "Predict", "GRPC", grpc.StatusCode.OK, 0.1)
    assert set(re.findall(r'model_name="(.*?)"', metrics.text().decode())) == {"", "c"}
