"""How a server ends: at a signal, with what was asked answered, and at once when told twice."""

import signal
import socket
import threading
import time

import grpc
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import prediction_service_pb2_grpc

from serving.embedded import servable
from tests.serving import served_models
from tests.serving.grpc_calls import predict, request, x
from tests.serving.served_models import Running


def test_a_server_says_what_it_serves_and_answers_what_runs_when_it_is_told_to_end(half, tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as earlier:
        earlier.bind(str(path))  # and left
    flags = f"--model_base_path={half}", "--model_name=half", f"--grpc_socket_path={path}"
    with Running(*flags) as server:
        assert server.lines == [
            "serving half",
            f"gRPC  127.0.0.1:{server.grpc}",
            f"REST  http://127.0.0.1:{server.rest}/v1/models/...",
            f"page  http://127.0.0.1:{server.rest}/",
        ]
        with grpc.insecure_channel(f"unix:{path}") as channel:
            assert predict(channel, 1, 2) == [2.5, 3]
        wrong, answered, stop = [], [], threading.Event()

        def over_grpc():
            with grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
                while not stop.is_set():
                    try:
                        answered.append(predict(channel, 2) == [3])
                    except grpc.RpcError as error:
                        if error.code() is not grpc.StatusCode.UNAVAILABLE:
                            wrong.append(error)  # it was taken, and not answered
                        return

        def over_rest():
            with requests.Session() as session:
                while not stop.is_set():
                    try:
                        answer = session.post(f"{server.url}/half:predict", '{"instances": [2]}')
                    except requests.ConnectionError as error:
                        # Refused, or the idle connection was closed: nothing was lost.
                        if "IncompleteRead" in str(error):
                            wrong.append(error)
                        return
                    if answer.status_code == 503:
                        return
                    answered.append(answer.json() == {"predictions": [3.0]})

        threads = [threading.Thread(target=t) for t in (over_grpc, over_rest) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(answered) < 200:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        output, errors = server.process.communicate(timeout=300)
        stop.set()
        for thread in threads:
            thread.join(300)
        assert all(answered)
        assert not wrong
        assert server.process.returncode == 0
        assert output.strip() == "finishing the running requests ..."
        assert "Traceback" not in errors


@pytest.mark.slow
def test_it_ends_in_its_time_although_a_request_without_a_deadline_computes(kinds):
    flags = f"--model_base_path={kinds}", "--model_name=kinds", "--drain_seconds=0.2"
    with (
        Running(*flags) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        endless = stub.Predict.future(request("kinds", "slow", seconds=x(6000)))
        stub.Predict(request("kinds", "echo_float32", x=x(1)))
        server.process.send_signal(signal.SIGTERM)
        output, errors = server.process.communicate(timeout=60)
        assert server.process.returncode == 0
        assert output == "finishing the running requests ...\n"
        assert "Traceback" not in errors
        assert endless.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_the_health_service_says_not_serving_while_requests_finish(kinds, monkeypatch):
    finish, run = threading.Event(), servable.Servable.run

    def slowly(*args):
        assert finish.wait(300)
        return run(*args)

    monkeypatch.setattr(servable.Servable, "run", slowly)
    with (
        served_models.server(model_name="kinds", model_base_path=str(kinds)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        states = health_pb2.HealthCheckResponse
        assert next(watched).status == states.SERVING
        slow = stub.Predict.future(request("kinds", "echo_float32", x=x(1)), timeout=300)
        served_models.wait_for(lambda: server.manager.model("kinds").busy)
        stopping = threading.Thread(target=server.stop, args=(60,))
        stopping.start()
        assert next(watched).status == states.NOT_SERVING
        assert not slow.done()
        watched.cancel()
        finish.set()
        assert slow.result().outputs["x"].float_val == [1]
        stopping.join(300)
        assert not stopping.is_alive()


@pytest.mark.slow
def test_a_second_signal_ends_it_although_a_request_runs(kinds):
    with (
        Running(f"--model_base_path={kinds}", "--model_name=kinds") as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        endless = stub.Predict.future(request("kinds", "slow", seconds=x(6000)), timeout=300)
        # On the same connection: when this is answered, the other runs.
        stub.Predict(request("kinds", "echo_float32", x=x(1)))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.stdout.readline() == "finishing the running requests ...\n"
        server.process.send_signal(signal.SIGINT)
        server.process.wait(300)
        assert server.process.returncode == -signal.SIGINT
        assert endless.code() is grpc.StatusCode.UNAVAILABLE
