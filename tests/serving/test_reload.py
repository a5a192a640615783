"""New versions under load: no request is lost."""

import threading
import time

import grpc
import pytest
import requests
from tensorflow_serving.apis import prediction_service_pb2_grpc

from tests import once
from tests.serving import grpc_calls, served_models


@pytest.fixture(scope="module")
def spare(shared):
    """Versions 1 to 21 of a model, to be copied: version N answers x / 2 + N."""

    def make(base):
        for number in range(1, 22):
            served_models.plus(base / str(number), number)

    return once.made(shared, "spare", make)


@pytest.mark.slow
@pytest.mark.usefixtures("settled")
def test_no_request_is_lost_while_old_versions_are_collected_as_garbage(spare, tmp_path):
    no_request_is_lost(spare, tmp_path, changes=4, batching=False)


@pytest.mark.slow
@pytest.mark.parametrize("batching", [False, True])
def test_no_request_is_lost_while_versions_change_twenty_times(spare, tmp_path, batching):
    no_request_is_lost(spare, tmp_path, changes=20, batching=batching)


def no_request_is_lost(spare, tmp_path, changes, batching):
    """Call a server all the time, over gRPC and REST, while new versions take the place of old."""
    base = tmp_path / "m"
    served_models.publish_copy(spare / "1", base, 1)
    wrong, answered, stop = [], set(), threading.Event()

    def over_grpc():
        with grpc.insecure_channel(server.address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not stop.is_set():
                try:
                    answer = stub.Predict(grpc_calls.request("default", x=grpc_calls.x(2)))
                except grpc.RpcError as error:
                    wrong.append(error)
                    return
                version = answer.model_spec.version.value
                if list(answer.outputs["y"].float_val) != [1 + version]:
                    wrong.append(answer)
                answered.add(version)

    def over_rest():
        with requests.Session() as session:
            while not stop.is_set():
                answer = session.post(f"{server.url}/v1/models/default:predict", '{"inputs": [2]}')
                if answer.status_code != 200:
                    wrong.append(answer.text)

    flags = {"enable_batching": batching, "file_system_poll_wait_seconds": 0.05}
    with served_models.server(model_base_path=str(base), **flags) as server:
        threads = [threading.Thread(target=t) for t in (over_grpc, over_rest) for _ in range(8)]
        for thread in threads:
            thread.start()
        for number in range(2, changes + 2):
            served_models.publish_copy(spare / str(number), base, number)
            end = time.monotonic() + 30
            while number not in answered and not wrong:
                assert time.monotonic() < end
                time.sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join(300)
        assert not wrong
        assert answered == set(range(1, changes + 2))
