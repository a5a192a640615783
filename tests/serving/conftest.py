"""What tests of serving share: models, exported once in a test run and never changed; servers."""

import gc
import json

import grpc
import pytest
import requests
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.embedded import factory, servable
from tests.serving import served_models

SETTLE = servable.settle


@pytest.fixture(scope="module", autouse=True)
def _left_alone():
    """Loads do not collect garbage: over the heap of all tests, that takes half a second each.

    What is there already is excluded from collections, as a load would do.
    """
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        for module in (factory, servable):
            patch.setattr(module, "settle", lambda: None)
        yield


@pytest.fixture
def settled(monkeypatch):
    """Loads collect garbage, as they do outside of tests."""
    for module in (factory, servable):
        monkeypatch.setattr(module, "settle", SETTLE)


@pytest.fixture(scope="session")
def half(tmp_path_factory):
    """The directory of a model with one version: x / 2 + 2."""
    base = tmp_path_factory.mktemp("half")
    served_models.half_plus(base / "1", 2)
    return base


@pytest.fixture(scope="session")
def halves(half, tmp_path_factory):
    """The directory of a model with two versions: x / 2 + 2, and x / 2 + 3."""
    base = tmp_path_factory.mktemp("halves")
    served_models.half_plus(base / "2", 3)
    served_models.publish_copy(half / "1", base, 1)
    return base


@pytest.fixture(scope="session")
def kinds(tmp_path_factory):
    """The directory of a model with signatures for whatever JSON and protos can hold."""
    base = tmp_path_factory.mktemp("kinds")
    served_models.all_kinds(base / "1")
    return base


@pytest.fixture(scope="module")
def grpc_served(halves, kinds, tmp_path_factory):
    """A server of `halves` (both versions; label `stable` is 1) and `kinds`."""
    file = tmp_path_factory.mktemp("served") / "models.config"
    more = "model_version_policy { all {} } version_labels { key: 'stable' value: 1 }"
    file.write_text(served_models.listed(("half", halves, more), ("kinds", kinds)))
    with served_models.server(model_config_file=str(file)) as server:
        yield server


@pytest.fixture(scope="module")
def channel(grpc_served):
    """A channel to that server, without limits."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(grpc_served.address, options) as opened:
        yield opened


@pytest.fixture(scope="module")
def predictions(channel):
    """Its PredictionService."""
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def models(channel):
    """Its ModelService."""
    return model_service_pb2_grpc.ModelServiceStub(channel)


@pytest.fixture(scope="module")
def rest_served(halves, kinds, tmp_path_factory):
    """A server of half_plus_three (version 123, as in upstream's documentation) and of `kinds`."""
    base = tmp_path_factory.mktemp("served")
    served_models.publish_copy(halves / "2", base / "half", "00000123")
    models, monitoring = base / "models.config", base / "monitoring.config"
    models.write_text(
        served_models.listed(
            ("half_plus_three", base / "half", "version_labels { key: 'stable' value: 123 }"),
            ("kinds", kinds),
            ("a b/ä", base / "half"),
        )
    )
    monitoring.write_text("prometheus_config { enable: true }")
    with served_models.server(
        model_config_file=str(models),
        monitoring_config_file=str(monitoring),
        rest_api_timeout_in_ms=3000,
        rest_api_max_body_mib=8,
    ) as server:
        yield server


@pytest.fixture(scope="module")
def call(rest_served):
    """Sends requests to that server: a method, a path and a body each."""
    session = requests.Session()

    def send(method, path, body=None, **options):
        data = body if isinstance(body, bytes | None) else json.dumps(body)
        return session.request(method, rest_served.url + path, data=data, timeout=300, **options)

    return send
