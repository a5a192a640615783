"""`python -m serving.server` as a process: what it says, how it ends, and what it does not need."""

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.client import Client, RefusedError
from serving.embedded.errors import ConfigError, StatusError
from tests.serving import served_models
from tests.serving.served_models import Running, command


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    base = tmp_path_factory.mktemp("models") / "half"
    base.mkdir()
    served_models.half_plus(base / "1", 2)
    return base


def request(name, signature="", **inputs):
    found = predict_pb2.PredictRequest()
    found.model_spec.name, found.model_spec.signature_name = name, signature
    for key, values in inputs.items():
        found.inputs[key].CopyFrom(tf.make_tensor_proto(np.array(values, np.float32)))
    return found


def predict(channel, *values, **options):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    return list(stub.Predict(request("half", x=values), **options).outputs["y"].float_val)


@pytest.mark.parametrize(
    ("flags", "code", "line"),
    [
        (("--prt=1",), 2, "error: --prt: no such flag. Did you mean --port? See --help."),
        (("--port=x",), 2, "error: flag --port=x"),
        (("model",), 2, "error: received 'model'; valid: flags only"),
        (("--model_config_file=/no",), 1, "error: /no: cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_line(flags, code, line):
    process = command(*flags)
    _, errors = process.communicate(timeout=300)
    assert errors.splitlines()[-1].startswith(line)
    assert "Traceback" not in errors
    assert process.returncode == code


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "Both server_options.model_base_path and server_options.model_config_file are empty!"),
        ({"batching_parameters_file": "/b"}, "--batching_parameters_file: needs --enable_batching"),
        ({"port": 70000}, "--port: received 70000; valid: 0 to 65535"),
        ({"ssl_config_file": "/no"}, "/no: cannot be read: No such file or directory"),
        ({"monitoring_config_file": "/no"}, "/no: cannot be read: No such file or directory"),
        (
            {"host": "no.invalid"},
            "--host: received 'no.invalid'; valid: an address of this machine",
        ),
        ({"host": "192.0.2.1"}, "--host: received '192.0.2.1'; valid: an address of this machine"),
        ({"grpc_socket_path": "/no/s"}, "--grpc_socket_path: received '/no/s'; valid: a path in"),
        (
            {"grpc_channel_arguments": "a"},
            "--grpc_channel_arguments: received 'a'; valid: NAME",
        ),
    ],
)
def test_a_configuration_that_cannot_be_used_is_told(flags, message):
    base = {} if "Both" in message else {"model_base_path": "/m"}
    with (
        pytest.raises(ConfigError, match=re.escape(message)),
        served_models.server(**base, **flags),
    ):
        pass


def test_ports_that_are_taken_are_told(model):
    with served_models.server(model_base_path=str(model)) as server:
        rest = int(server.url.rpartition(":")[2])
        for flags in ({"port": server.port}, {"rest_api_port": rest}):
            name = next(iter(flags))
            with (
                pytest.raises(ConfigError, match=f"--{name}: 127.0.0.1:{flags[name]}"),
                served_models.server(model_base_path=str(model), **flags),
            ):
                pass


def test_files_that_hold_something_else_are_told(tmp_path):
    (tmp_path / "models.config").write_text("model_config_list { konfig {} }")
    with (
        pytest.raises(ConfigError, match=r"Error parsing text-format tensorflow\.serving\.Model"),
        served_models.server(model_config_file=str(tmp_path / "models.config")),
    ):
        pass
    (tmp_path / "m" / "1").mkdir(parents=True)
    with (
        pytest.raises(StatusError, match="Could not load version 1: ") as caught,
        served_models.server(model_base_path=str(tmp_path / "m")),
    ):
        pass
    assert str(tmp_path) not in caught.value.message


def test_a_server_says_what_it_serves_and_ends_when_told(model, tmp_path):
    socket = tmp_path / "s"
    socket.write_text("of a server that is gone")
    flags = f"--model_base_path={model}", "--model_name=half", f"--grpc_socket_path={socket}"
    with Running(*flags) as server:
        assert server.lines == [
            "serving half",
            f"gRPC  127.0.0.1:{server.grpc}",
            f"REST  http://127.0.0.1:{server.rest}/v1/models/...",
            f"page  http://127.0.0.1:{server.rest}/",
        ]
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            assert predict(channel, 1, 2) == [2.5, 3]
        server.process.send_signal(signal.SIGTERM)
        output, errors = server.process.communicate(timeout=300)
        assert server.process.returncode == 0
        assert output.strip() == "finishing what runs ..."
        assert "Traceback" not in errors


@pytest.mark.slow
def test_it_waits_for_a_model_that_is_not_there_yet(model, tmp_path):
    base = tmp_path / "late"
    process = command(
        f"--port={served_models.free_port()}",
        f"--model_base_path={base}",
        "--file_system_poll_wait_seconds=0.1",
    )
    time.sleep(1)
    assert process.poll() is None
    base.mkdir()
    shutil.copytree(model / "1", base / ".partial")
    (base / ".partial").rename(base / "1")
    assert process.stdout.readline() == "serving default\n"
    process.terminate()
    process.communicate(timeout=300)
    assert process.returncode == 0


def test_requests_that_run_when_it_is_told_to_end_are_answered(model):
    with Running(f"--model_base_path={model}", "--model_name=half") as server:
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
                        found = session.post(f"{server.url}/half:predict", '{"instances": [2]}')
                    except requests.ConnectionError as error:
                        # Refused, or the idle connection was closed: nothing was lost.
                        if "IncompleteRead" in str(error):
                            wrong.append(error)
                        return
                    if found.status_code == 503:
                        return
                    answered.append(found.json() == {"predictions": [3.0]})

        threads = [threading.Thread(target=t) for t in (over_grpc, over_rest) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(answered) < 200:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(300)
        stop.set()
        for thread in threads:
            thread.join(300)
        assert all(answered)
        assert not wrong
        assert server.process.returncode == 0


def test_a_second_signal_ends_it_although_a_request_runs(tmp_path):
    served_models.all_kinds(tmp_path / "1")
    with (
        Running(f"--model_base_path={tmp_path}", "--model_name=kinds") as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc}") as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        endless = stub.Predict.future(request("kinds", "slow", seconds=[6000]), timeout=300)
        # On the same connection: when this is answered, the other runs.
        stub.Predict(request("kinds", "echo_float32", x=[1]))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.stdout.readline() == "finishing what runs ...\n"
        server.process.send_signal(signal.SIGINT)
        server.process.wait(300)
        assert server.process.returncode == -signal.SIGINT
        assert endless.code() is grpc.StatusCode.UNAVAILABLE


def test_nothing_of_this_project_but_serving_is_imported_and_no_keras():
    code = (
        "import sys, tensorflow; from serving.embedded import serve; import serving.client;"
        " print([n for n in sys.modules if n.split('.')[0] in ('xkd_keras', 'tf_keras')])"
    )
    # tfmot, in another test, sets this: then TensorFlow itself imports tf_keras.
    clean = {key: value for key, value in os.environ.items() if key != "TF_USE_LEGACY_KERAS"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["server", "client", "load", "configure"])
def test_help_lists_the_flags(module):
    process = command("--help", module=f"serving.{module}")
    shown, errors = process.communicate(timeout=300)
    found = importlib.import_module(f"serving.{module}").FLAGS
    for name, (default, *_) in found.items():
        assert f"--[no]{name}: " in shown if isinstance(default, bool) else f"--{name}: " in shown
    assert (process.returncode, errors) == (0, "")


def test_a_server_that_waits_for_a_model_says_why_and_does_not_say_that_it_serves(tmp_path):
    served_models.half_plus(tmp_path / "half" / "1", 2)
    process = command("--port=0", f"--model_base_path={tmp_path}", "--model_name=half")
    for line in process.stderr:
        if "waiting" in line:
            break
    assert line.endswith(f"that is asked for; did you mean {tmp_path / 'half'}?\n")
    process.terminate()
    shown, _ = process.communicate(timeout=300)
    assert shown == "finishing what runs ...\n"


def certificates(path):
    """Make an authority, and a server's and a client's certificate by it."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=path, check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl(*new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority")
    (path / "extensions").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("server", "client"):
        request = ("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}")
        openssl(*request, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        sign = ("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key")
        openssl(*sign, "-CAcreateserial", "-out", f"{name}.pem", "-extfile", "extensions")


@pytest.mark.parametrize("mutual", [False, True])
def test_grpc_speaks_tls_and_knows_its_clients_where_that_is_asked_for(model, tmp_path, mutual):
    certificates(tmp_path)

    def read(name):
        return (tmp_path / name).read_bytes()

    lines = [f"server_key: {read('server.key')!r}", f"server_cert: {read('server.pem')!r}"]
    lines += [f"custom_ca: {read('ca.pem')!r}", "client_verify: true"] if mutual else []
    file = tmp_path / "ssl.config"
    file.write_text("\n".join(line.replace(": b'", ": '") for line in lines))
    with served_models.server(
        model_name="half", model_base_path=str(model), ssl_config_file=str(file)
    ) as server:
        address = server.address.replace("127.0.0.1", "localhost")
        known = grpc.ssl_channel_credentials(read("ca.pem"), read("client.key"), read("client.pem"))
        unknown = grpc.ssl_channel_credentials(read("ca.pem"))
        with grpc.secure_channel(address, known) as channel:
            assert predict(channel, 2, timeout=300) == [3]
        with grpc.secure_channel(address, unknown) as channel:
            if not mutual:
                assert predict(channel, 2, timeout=300) == [3]
            else:
                with pytest.raises(grpc.RpcError):
                    predict(channel, 2, timeout=5)
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
            predict(channel, 2, timeout=5)
        client = Client("half", address, ca_file=str(tmp_path / "ca.pem"), retries=0)
        why = "failed to connect" if mutual else "signature key .serving_bytes. not found"
        with pytest.raises(RefusedError, match=why):
            client.classify([b""])
        assert requests.get(f"{server.url}/v1/models/half", timeout=300).ok  # REST stays plain
