"""What the pages see of pictures as people have them, in headless Chromium.

The page on the device decodes by itself; LiteRT.js is not needed for that. The server's page sends
the file as it is, so the network sees what tests/ship/test_pictures.py tests; it is shown upright.
Needs Chromium and its driver, as .ci/run sees to.
"""

import base64
import threading

import numpy as np
import pytest
import tensorflow as tf

from serving.mobile.web import __main__ as web
from tests.pictures import HEIGHT, PICTURES, READABLE, REFUSED, WIDTH
from tests.serving.browser import browser
from xkd_keras.data import preparation

pytestmark = pytest.mark.browser
SEE = """
const [text, side, ratio, done] = arguments;
const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
import('/picture.js').then(async ({centre, draw}) => {
  const canvas = document.createElement('canvas');
  await draw(new Blob([bytes]), canvas);
  const pixels = centre(canvas, {width: side, height: side}, ratio);
  done([canvas.width, canvas.height, Array.from(pixels)]);
}).catch((error) => done(error.message));
"""
SHOWN = """
const [text, done] = arguments;
const image = new Image();
image.onload = () => done([image.naturalWidth, image.naturalHeight]);
image.src = `data:;base64,${text}`;
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page on the device, open, without a model."""
    directory = tmp_path_factory.mktemp("web")
    (directory / "m.tflite").write_bytes(b"")
    server = web.server(directory / "m.tflite", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with browser(directory / "profile") as driver:
        driver.get(f"http://127.0.0.1:{server.server_port}/")
        driver.set_script_timeout(60)
        yield driver
    server.shutdown()
    server.server_close()


def text(name):
    return base64.b64encode(PICTURES[name].content).decode()


@pytest.mark.parametrize(("side", "ratio"), [(32, 1), (28, 0.875)])
@pytest.mark.parametrize("name", READABLE)
def test_a_page_sees_what_a_person_sees(page, name, side, ratio):
    picture = PICTURES[name]
    found = page.execute_async_script(SEE, text(name), side, ratio)
    assert not isinstance(found, str), found
    assert tuple(found[:2]) == picture.seen.shape[1::-1]
    seen = preparation.evaluation(tf.constant(picture.seen), side, ratio).numpy()
    pixels = np.array(found[2]).reshape(side, side, 3)
    # Of 16 bits, and of what is nearly transparent, a browser keeps a little less.
    assert np.abs(pixels - seen).max() <= picture.rounding + 2


def wide_webp():
    """Return a WebP whose canvas says that it is too large; Pillow cannot open one."""
    content = bytearray(PICTURES["moving webp"].content)
    content[24:30] = (60_000 - 1).to_bytes(3, "little") * 2
    return base64.b64encode(content).decode()


@pytest.mark.parametrize("content", [*map(text, REFUSED), wide_webp()], ids=[*REFUSED, "huge webp"])
def test_a_page_says_why_it_does_not_read_a_picture(page, content):
    found = page.execute_async_script(SEE, content, 32, 1)
    assert found == (
        "The image has 60000 × 60000 pixels; valid: sides up to 65500, 100000000 in all."
    )


@pytest.mark.parametrize(
    "content", [b"", b"no image", b"BM", b"GIF89a", b"\x89PNG", b"\xff\xd8\xff"]
)
def test_a_page_says_what_is_no_picture(page, content):
    found = page.execute_async_script(SEE, base64.b64encode(content).decode(), 32, 1)
    assert found == "That is no image that this browser can read."


# Chromium turns no WebP that it shows in an <img>; the network sees it upright all the same.
@pytest.mark.parametrize("name", [n for n in READABLE if "turned" in n and n != "webp turned"])
def test_the_image_that_is_shown_beside_the_answers_is_upright(page, name):
    assert page.execute_async_script(SHOWN, text(name)) == [WIDTH, HEIGHT]
