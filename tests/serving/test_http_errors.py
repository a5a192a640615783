"""No request over HTTP is answered 500, or by text where JSON is due."""

import base64
import hashlib
import http.client
import json
import re
import socket

import pytest
import requests

from serving.embedded import json_values
from serving.embedded.errors import StatusError
from tests.serving import served_models
from tests.serving.rest_calls import predict

LONE = '"\\ud800"', '"a\\udc00"', '"\\\\\\ud83d"', '"\\udc00\\ud800"', '"\\ud800\\u0041"'
WHOLE = {'"\\ud83d\\ude00"': "😀", '"\\\\ud800"': "\\ud800", '"\\u0041\\n\\""': 'A\n"'}
PREDICT = "/v1/models/half_plus_three:predict"


@pytest.mark.parametrize("text", LONE)
@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("predict", '{{"signature_name": {}}}'),
        ("predict", '{{"instances": [{}]}}'),
        ("predict", '{{"instances": [{{{}: 1}}]}}'),
        ("predict", '{{"inputs": [NaN], {}: 1}}'),
        ("classify", '{{"signature_name": "classify_x_to_y", "examples": [{{{}: 1}}]}}'),
        ("regress", '{{"signature_name": "regress_x_to_y", "context": {{"x": {}}}}}'),
    ],
)
def test_half_of_a_surrogate_pair_is_a_parse_error(call, verb, body, text):
    status, answer = predict(call, body.format(text).encode(), verb=verb)
    assert status == 400
    assert answer["error"].startswith("JSON Parse error: ")


@pytest.mark.parametrize("text", WHOLE)
def test_whole_pairs_and_escapes_are_text(text):
    for spoilt in ("1", "NaN"):  # both parsers
        assert json_values.parse(f'{{"a": {text}, "b": {spoilt}}}'.encode())["a"] == WHOLE[text]


def test_the_place_of_half_a_pair_is_told():
    with pytest.raises(StatusError) as caught:
        json_values.parse(b'{"a": NaN, "b": "\\ud83d\\ude00 \\ud800"}')
    assert caught.value.message.endswith("at offset: 30")
    long = b'{"a": NaN, "b": "' + b"\\n" * 2_000_000 + b'"}'
    assert len(json_values.parse(long)["b"]) == 2_000_000


@pytest.mark.parametrize(
    ("digits", "status"),
    [("9" * 5000, 400), ("0" * 5000 + "123", 200), ("0" * 5000, 404), (str(2**63), 400)],
)
def test_versions_of_any_length_are_numbers_or_an_error(call, digits, status):
    answer = call("GET", f"/v1/models/half_plus_three/versions/{digits}")
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/json"


def raw(server, text):
    """Return the status and the content of the answer to bytes."""
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as one:
        one.settimeout(60)
        one.sendall(text)
        answer = http.client.HTTPResponse(one)
        answer.begin()
        return answer.status, answer.read()


BODY = b'{"instances": [1.0]}'
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\nHTTP2-Settings: AAMAAABk\r\n"


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c", b"h2c, websocket", b"\xff"])
def test_an_upgrade_is_answered_as_if_it_were_none(rest_served, protocol):
    upgrade = UPGRADE % protocol + b"Sec-WebSocket-Key: AAAA\r\nSec-WebSocket-Version: 13\r\n"
    post = b"POST %s HTTP/1.1\r\nHost: a\r\n%sContent-Length: %d\r\n\r\n"
    post = post % (PREDICT.encode(), upgrade, len(BODY)) + BODY
    assert raw(rest_served, post) == (200, b'{"predictions":[3.5]}')
    status, content = raw(rest_served, b"GET /v1/models/no HTTP/1.1\r\nHost: a\r\n%s\r\n" % upgrade)
    assert (status, "error" in json.loads(content)) == (404, True)
    with socket.create_connection(("127.0.0.1", int(rest_served.url.rpartition(":")[2]))) as one:
        one.settimeout(60)
        for text in (
            post[:100],
            post[100:-3],
            post[-3:],
            post.replace(upgrade, b"") * 2,
        ):  # in pieces, and again
            one.sendall(text)
        text = b""
        while text.count(b"predictions") < 3:
            part = one.recv(1 << 16)
            assert part, text
            text += part


@pytest.mark.parametrize(
    "start",
    [
        *(b"CONNECT a:1 HTTP/1.1", b"CONNECT /v1/models/x HTTP/1.1", b"OPTIONS * HTTP/1.1"),
        *(b"GET http://a/v1/models/x HTTP/1.1", b"GET /v1/models/%ff%00 HTTP/1.1"),
        *(b"GET //v1/models HTTP/1.1", b"GET /v1/models/x?%zz HTTP/1.0", b"GET http:// HTTP/1.1"),
        *(b"GET /v1/models/\xff HTTP/1.1", b"PRI * HTTP/2.0", b"GET ? HTTP/1.1", b"\x16\x03\x01"),
    ],
)
def test_no_start_of_a_request_is_answered_500(rest_served, start):
    assert raw(rest_served, start + b"\r\nHost: a\r\n\r\n")[0] in (400, 404)


def test_the_page_may_use_nothing_but_this_server_and_its_own_style(rest_served):
    answer = requests.get(f"{rest_served.url}/", timeout=300)
    policy = dict(
        rule.split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split("; ")
    )
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    style = re.search(r"<style>(.*?)</style>", answer.text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy["style-src"] == f"'self' 'sha256-{digest}'"
    assert "unsafe" not in str(policy)
    assert "onclick" not in answer.text  # no scripts in the page itself, which would be refused
    assert re.findall(r"<script[^>]*>(.*?)</script>", answer.text, re.DOTALL) == [""]
    assert " style=" not in answer.text
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_page_asks_below_the_path_where_a_proxy_put_it(half):
    with served_models.server(model_base_path=str(half)) as server:
        page, script = (
            requests.get(f"{server.url}/{name}", timeout=300).text for name in ("", "app.js")
        )
    assert re.findall(r"(?:src|href)=\"(?!data:)([^\"]*)", page) == ["app.js"]
    asked = re.findall(r"fetch\([`'](.*?)[`'$]", script)
    assert asked == ["v1/models/", "models.json"]


@pytest.mark.parametrize("path", ["/", "/models.json"])
def test_a_head_of_a_page_is_its_get_without_the_content(half, path):
    with served_models.server(model_base_path=str(half)) as server, requests.Session() as session:
        head, get = (
            session.request(method, f"{server.url}{path}", timeout=300)
            for method in ("HEAD", "GET")  # on one connection, which stray content would upset
        )
    assert (head.status_code, head.content) == (get.status_code, b"") == (200, b"")
    assert {**head.headers, "date": ""} == {**get.headers, "date": ""}


def test_what_nobody_expected_is_json(half, monkeypatch):
    with served_models.server(model_base_path=str(half)) as server:
        monkeypatch.setattr(server.manager, "names", lambda: 1 / 0)
        answer = requests.get(f"{server.url}/models.json", timeout=300)
    assert answer.status_code == 500
    assert json.loads(answer.text) == {"error": "internal error"}
