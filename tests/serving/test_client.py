"""The client: what it sends, prints and says, against a server in this process."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf

from serving import client, command, tensor_values
from tests.serving import served_models

RED, GREEN = served_models.picture(250, 9, 9), served_models.picture(9, 250, 9)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    base = tmp_path_factory.mktemp("colours")
    served_models.colours(base / "1")
    served_models.colours(base / "2", ("rot", "grün", "blau"))
    wary = tmp_path_factory.mktemp("wary")
    served_models.colours(wary / "1", threshold=0.9)
    file = base / "models.config"
    more = "model_version_policy { all {} } version_labels { key: 'stable' value: 1 }"
    file.write_text(served_models.listed(("colours", base, more), ("wary", wary, "")))
    with served_models.server(model_config_file=str(file)) as server:
        yield server


def client_of(served, rest, **options):
    address = served.url.removeprefix("http://") if rest else served.address
    return client.Client(options.pop("model", "colours"), address, rest, **options)


both = pytest.mark.parametrize("rest", [False, True], ids=["grpc", "rest"])


@both
def test_images_are_answered_best_label_first(served, rest):
    first, second = client_of(served, rest).classify([RED, GREEN])
    assert first[0][0] == "rot"
    assert second[0][0] == "grün"
    expected = np.exp(np.array([250, 9, 9]) / 20)
    assert first[0][1] == pytest.approx((expected / expected.sum())[0], rel=1e-5)
    assert sum(score for _, score in first) == pytest.approx(1, rel=1e-5)


@both
def test_whatever_holds_bytes_is_sent_and_nothing_else(served, rest):
    client = client_of(served, rest)
    wanted = client.classify([RED, GREEN])
    assert client.classify(
        kind(each) for each, kind in ((RED, bytearray), (GREEN, memoryview))
    ) == (wanted)
    assert client.classify([]) == []
    with pytest.raises(TypeError, match=r"^images: received a single one; valid: a list"):
        client.classify(RED)
    with pytest.raises(TypeError, match=r"^images: received 'photo.jpg'; valid: bytes"):
        client.classify(["photo.jpg"])


@both
def test_an_answer_below_the_models_threshold_is_not_sure(served, rest):
    grey = served_models.picture(80, 60, 60)  # e^4 against twice e^3: 58 %
    sure, unsure = client_of(served, rest, model="wary").classify([RED, grey])
    assert (sure.sure, unsure.sure) == (True, False)
    assert unsure[0] == ("red", pytest.approx(np.e / (np.e + 2), rel=1e-5))
    (older,) = client_of(served, rest).classify([grey])
    assert older.sure  # a model without a threshold


@both
def test_a_label_asks_for_its_version(served, rest):
    (answer,) = client_of(served, rest, label="stable").classify([RED])
    assert answer[0][0] == "red"


@both
@pytest.mark.parametrize(
    ("options", "image", "message"),
    [
        ({"model": "no"}, RED, "Servable not found for request: Latest(no)"),
        ({"label": "no"}, RED, "Unrecognized servable version label: no"),
        ({}, b"no image", "Unknown image file format"),
    ],
)
def test_what_the_server_refuses_is_told(served, rest, options, image, message):
    with pytest.raises(client.RefusedError) as caught:
        client_of(served, rest, **options).classify([image])
    assert message in str(caught.value)


@pytest.fixture
def run(served, monkeypatch, capsys):
    """Run the command's main; returns its exit code and what it printed."""

    def call(*names, stdin=b"", **given):
        values = {"host": "127.0.0.1", "port": served.port, "rest": False, "label": ""}
        values |= {"model_name": "colours", "top": 2, "json": False, "timeout": 30, "batch": 2}
        values["ca_file"] = ""
        flags = type("Flags", (), {**values, **given})
        monkeypatch.setattr(client.flags, "FLAGS", flags)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = client.main([str(name) for name in names])
        return (code, *capsys.readouterr())

    return call


def test_a_folder_gives_every_format_of_the_server_and_no_litter(tmp_path):
    names = ["a.jfif", "b.jpe", "c.webp", "d.gif", "e.bmp", "f.PNG"]
    (tmp_path / "__MACOSX").mkdir()
    for name in (*names, "._a.jpg", "__MACOSX/g.png", "h.tif", "notes.txt"):
        (tmp_path / name).write_bytes(b"\0")
    found = [name for name, _ in client.images_of([str(tmp_path)])]
    assert found == [str(tmp_path / name) for name in names]


def test_a_folder_is_printed_in_order(run, tmp_path):
    for name, image in (("b.png", GREEN), ("a.PNG", RED), ("notes.txt", b"")):
        (tmp_path / name).write_bytes(image)
    code, printed, _ = run(tmp_path)
    lines = printed.splitlines()
    assert code == 0
    assert lines[0].startswith(f"{tmp_path / 'a.PNG'}  rot 100.0 %  ")
    assert lines[1].startswith(f"{tmp_path / 'b.png'}  grün 100.0 %  ")


def test_what_may_be_none_of_the_labels_is_printed_as_that(run, tmp_path):
    (tmp_path / "grey.png").write_bytes(served_models.picture(80, 60, 60))
    _, printed, _ = run(tmp_path, model_name="wary")
    assert printed.startswith(f"{tmp_path / 'grey.png'}  none of these?  red 57.6 %  ")
    _, printed, _ = run(tmp_path, model_name="wary", json=True)
    assert json.loads(printed)["sure"] is False


def test_stdin_and_json_serve_programs(run):
    code, printed, _ = run("-", stdin=RED, json=True)
    answer = json.loads(printed)
    assert code == 0
    assert answer["image"] == "-"
    assert next(iter(answer["labels"])) == "rot"


def test_one_bad_image_does_not_cost_the_others(run, tmp_path):
    for name, image in (("a.png", RED), ("b.png", b"bad"), ("c.png", GREEN)):
        (tmp_path / name).write_bytes(image)
    code, printed, errors = run(tmp_path)
    assert code == 1
    assert len(printed.splitlines()) == 2
    assert errors.startswith(f"error: {tmp_path / 'b.png'}: Unknown image file format")


def test_where_no_server_is_the_first_wait_is_the_last(run, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(client.time, "sleep", waits.append)
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(RED)
    code, printed, errors = run(tmp_path, port=9)
    assert (code, printed) == (1, "")
    told = f"error: {tmp_path / '0.png'} and all images after it: 127.0.0.1:9: no server answers"
    assert errors.startswith(told)
    assert len(errors.splitlines()) == 1
    assert len(waits) == 4


def test_a_port_that_cannot_be_is_told(run):
    with pytest.raises(command.MistakeError, match=r"^--port: received 70000; valid: 0 to 65535"):
        run("-", port=70_000)  # gRPC would take it for 4464


def test_what_is_not_there_is_told(run, tmp_path):
    with pytest.raises(command.MistakeError, match="No such file"):
        run(tmp_path / "no.png")
    with pytest.raises(command.MistakeError, match=r"contains no images; valid: \.bmp"):
        run(tmp_path)


def test_answers_may_come_as_bytes_of_whole_tensors(tmp_path):
    base = tmp_path / "colours"
    base.mkdir()
    served_models.colours(base / "1", ("rot", "grün", "b" * 200))
    flags = {"model_name": "colours", "enable_serialization_as_tensor_content": True}
    with served_models.server(model_base_path=str(base), **flags) as server:
        plain, whole = (client_of(server, rest).classify([RED, GREEN]) for rest in (True, False))
    assert [[name for name, _ in row] for row in whole] == [[n for n, _ in row] for row in plain]
    for one, other in zip(whole, plain, strict=True):
        assert [score for _, score in one] == pytest.approx([score for _, score in other])


def test_texts_of_a_whole_tensor_are_read_as_the_runtime_writes_them():
    texts = [b"rot", b"", "grün".encode(), b"b" * 200, b"c" * 20_000]
    tensor = tf.make_tensor_proto(texts)
    assert tensor_values.texts(tensor) == texts
    tensor.tensor_content = b"".join([*map(varint, map(len, texts)), *texts])
    del tensor.string_val[:]
    assert tensor_values.texts(tensor) == texts
    read = tf.io.parse_tensor(tensor.SerializeToString(), tf.string)  # C++, which reads both forms
    assert read.numpy().tolist() == texts


def varint(number):
    more = [number >> 7 * i & 127 for i in range(max(1, -(-number.bit_length() // 7)))]
    return bytes([*(byte | 128 for byte in more[:-1]), more[-1]])


@both
def test_no_proxy_leads_to_this_machine(served, rest, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nothing is
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    (answer,) = client_of(served, rest, retries=0).classify([RED])
    assert answer[0][0] == "rot"


def test_a_server_without_tls_is_not_taken_for_one_that_is_not_there(served):
    one = client.Client("m", served.url.replace("http:", "https:"), rest=True, wait=60)
    with pytest.raises(client.RefusedError, match=r"TLS failed \(.*; valid: http:// if"):
        one.classify([RED])
