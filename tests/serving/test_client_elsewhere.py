"""The client before what is not this project's server: another one, a proxy, nothing."""

import http.server
import threading
from concurrent import futures

import grpc
import pytest
import requests
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving import client, command

IMAGE = b"an image"


@pytest.mark.parametrize("rest", [False, True], ids=["grpc", "rest"])
def test_a_server_that_is_not_there_is_told_after_retries(rest):
    one = client.Client("m", "127.0.0.1:9", rest, retries=2, wait=0.01)
    with pytest.raises(client.RefusedError, match=r"127\.0\.0\.1:9"):
        one.classify([IMAGE])


class Flaky(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Unavailable at first."""

    def __init__(self, times):
        self.left, self.asked = times, 0

    def Predict(self, request, context):  # noqa: N802
        self.asked += 1
        if self.asked <= self.left:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        answer = predict_pb2.PredictResponse()
        answer.outputs["labels"].string_val.append(b"yes")
        answer.outputs["scores"].float_val.append(1)
        for output in answer.outputs.values():
            output.tensor_shape.dim.add(size=1)
            output.tensor_shape.dim.add(size=1)
        return answer


def test_a_server_that_is_not_available_yet_is_asked_again():
    flaky = Flaky(2)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(flaky, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        one = client.Client("m", f"127.0.0.1:{port}", wait=0.01)
        assert one.classify([IMAGE]) == [[("yes", 1.0)]]
        assert flaky.asked == 3
    finally:
        server.stop(0)


def test_something_that_is_no_such_server_is_told():
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(client.RefusedError, match="does not speak TF Serving's REST"):
            client.Client("m", f"127.0.0.1:{server.server_port}", rest=True).classify([IMAGE])
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("details", ["", None, "\n"])
def test_an_error_without_words_is_told_by_its_code(monkeypatch, details):
    class Wordless(grpc.RpcError):
        def code(self):
            return grpc.StatusCode.INTERNAL

        def details(self):
            return details

    class Stub:
        def __init__(self, channel):
            pass

        def Predict(self, *_, **__):  # noqa: N802
            raise Wordless

    monkeypatch.setattr(prediction_service_pb2_grpc, "PredictionServiceStub", Stub)
    with pytest.raises(client.RefusedError, match="INTERNAL"):
        client.Client("m").classify([IMAGE])


@pytest.fixture
def answers(monkeypatch):
    """Let REST answer with these, one after the other; returns the addresses that are asked."""

    def given(*answers):
        left, asked = list(answers), []

        def post(session, url, **options):
            asked.append(url)
            answer = requests.Response()
            answer.status_code, answer._content = left.pop(0)
            return answer

        monkeypatch.setattr(requests.Session, "post", post)
        return asked

    return given


ROW = b'{"predictions": [{"labels": ["yes"], "scores": [1.0]}]}'


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxy_without_its_server_is_asked_again(answers, status):
    page = f"<html><h1>{status}</h1></html>".encode()
    asked = answers((status, page), (status, b""), (200, ROW))
    assert client.Client("m", rest=True, wait=0.01).classify([IMAGE]) == [[("yes", 1.0)]]
    assert len(asked) == 3
    answers((status, page))
    with pytest.raises(client.RefusedError, match=f"^127.0.0.1:8501: HTTP {status}$"):
        client.Client("m", rest=True, retries=0).classify([IMAGE])


@pytest.mark.parametrize(("status", "times"), [(502, 2), (503, 2), (504, 1), (500, 1)])
def test_a_server_that_is_not_available_is_asked_again_and_one_that_was_too_slow_is_not(
    answers, status, times
):
    asked = answers(*[(status, b'{"error": "why"}')] * 2)
    with pytest.raises(client.RefusedError, match="why"):
        client.Client("m", rest=True, wait=0.01, retries=1).classify([IMAGE])
    assert len(asked) == times


@pytest.mark.parametrize(
    ("address", "root"),
    [
        ("https://models.example.com", "https://models.example.com"),
        ("https://models.example.com:8443/pets/", "https://models.example.com:8443/pets"),
        ("http://models.example.com/", "http://models.example.com"),
        ("models.example.com:8501", "http://models.example.com:8501"),
    ],
)
def test_a_scheme_that_is_given_is_kept(answers, address, root):
    asked = answers((200, ROW))
    client.Client("m", address, rest=True).classify([IMAGE])
    assert asked == [f"{root}/v1/models/m:predict"]


def test_without_an_address_the_usual_port_of_this_machine_is_asked(answers, monkeypatch):
    asked = answers((200, ROW))
    client.Client("m", rest=True).classify([IMAGE])
    assert asked == ["http://127.0.0.1:8501/v1/models/m:predict"]
    told = []
    monkeypatch.setattr(grpc, "insecure_channel", lambda address, **_: told.append(address))
    monkeypatch.setattr(prediction_service_pb2_grpc, "PredictionServiceStub", lambda _: None)
    client.Client("m")
    assert told == ["127.0.0.1:8500"]


def test_a_scheme_that_grpc_does_not_have_is_told():
    with pytest.raises(
        command.MistakeError, match=r"^address: received 'https://a'; valid: HOST:P"
    ):
        client.Client("m", "https://a")


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("said", ["[]", "null", '{"message": "no"}', '{"predictions": [1]}', "1"])
def test_json_of_another_kind_of_server_is_told(monkeypatch, status, said):
    answer = requests.Response()
    answer.status_code, answer._content = status, said.encode()
    monkeypatch.setattr(requests.Session, "post", lambda *_, **__: answer)
    with pytest.raises(client.RefusedError, match="does not speak TF Serving's REST"):
        client.Client("m", rest=True, retries=0).classify([IMAGE])
