"""The page in a real browser: headless Chromium, LiteRT.js from this directory, no network.

Needs Chromium, its driver and `npm install` in serving/mobile/web, as .ci/run sees to.
"""

import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from serving.mobile.web import __main__ as web
from tests.serving.browser import body, browser, choose, said, wait
from xkd_keras.ship import lite, metadata

pytestmark = pytest.mark.browser
COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue größer": (10, 10, 250)}


def tells_colours():
    """A network whose logits are the mean red, green and blue of an image, divided by 20."""
    inputs = keras.Input((24, 16, 3))
    dense = keras.layers.Dense(3)
    outputs = dense(keras.layers.GlobalAveragePooling2D()(inputs))
    dense.set_weights([np.eye(3) / 20, np.zeros(3)])
    return keras.Model(inputs, outputs)


@pytest.fixture(scope="module", params=["float32", "int8"])
def page(request, tmp_path_factory):
    """The open page, with a model in it."""
    directory = tmp_path_factory.mktemp("web")
    plain = np.random.default_rng(7).integers(0, 256, (40, 1, 1, 3)) * np.ones((1, 24, 16, 1))
    with lite.converters(tells_colours()) as convert:
        content = convert(request.param, plain.astype(np.uint8))
    about = "colours", "A test.", list(COLOURS)
    packed = metadata.pack(content, *about, threshold=0.9, crop_ratio=0.5)
    (directory / "m.tflite").write_bytes(packed)
    server = web.server(directory / "m.tflite", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with browser(directory / "profile") as driver:
        driver.get(f"http://127.0.0.1:{server.server_port}/")
        wait(driver, lambda: body(driver, "ready") or said(driver, "error"))
        yield driver
    server.shutdown()
    server.server_close()


def test_the_model_is_read_with_its_labels(page):
    assert said(page, "error") == ""
    assert "3 classes, 16 × 24 pixels" in said(page, "facts")
    assert said(page, "model") == "m.tflite"


@pytest.mark.parametrize("label", COLOURS)
def test_a_chosen_image_is_classified(page, tmp_path, label):
    # Only the centre counts, as in evaluation: the sides of a wide image are of another colour.
    pixels = np.zeros((48, 200, 3), np.uint8)
    pixels[:] = COLOURS["red"] if label != "red" else COLOURS["green"]
    pixels[:, 80:120] = COLOURS[label]
    Image.fromarray(pixels).save(tmp_path / "image.png")
    choose(page, tmp_path / "image.png")
    wait(page, lambda: body(page, "answer") == label)
    rows = page.find_elements(By.CSS_SELECTOR, "#answers li")
    assert len(rows) == 3
    logits = np.array([COLOURS[label][i] / 20 for i in range(3)])
    expected = 100 * np.exp(logits).max() / np.exp(logits).sum()
    assert rows[0].text.split()[0] == label.split()[0]
    assert float(rows[0].text.split()[-2]) == pytest.approx(expected, abs=0.6)
    assert "ms an image" in said(page, "facts")


def test_an_image_is_cropped_as_the_file_says(page, tmp_path):
    image = Image.new("RGB", (64, 96), COLOURS["red"])
    image.paste(COLOURS["green"], (14, 22, 50, 74))  # half of each side, and a little more
    image.save(tmp_path / "framed.png")
    choose(page, tmp_path / "framed.png")
    wait(page, lambda: body(page, "answer") == "green")
    best = page.find_element(By.CSS_SELECTOR, "#answers li").text
    assert float(best.split()[-2]) > 99


def test_an_image_below_the_threshold_may_be_of_none_of_the_labels(page, tmp_path):
    shown = []
    for name, colour in (("green", COLOURS["green"]), ("red", (80, 60, 60))):  # 100 %; 58 %
        Image.new("RGB", (48, 72), colour).save(tmp_path / f"{name}.png")
        choose(page, tmp_path / f"{name}.png")
        wait(page, lambda name=name: body(page, "answer") == name)
        shown.append(page.find_element(By.ID, "unsure").is_displayed())
    assert shown == [False, True]


def test_a_drawing_is_classified_when_the_pen_is_lifted(page):
    page.find_element(By.ID, "clear").click()
    assert page.find_elements(By.CSS_SELECTOR, "#answers li") == []
    canvas = page.find_element(By.ID, "drawing")
    pen = ActionChains(page).move_to_element(canvas).click_and_hold()
    pen.move_by_offset(0, 60).move_by_offset(0, 20).release().perform()
    wait(page, lambda: page.find_elements(By.CSS_SELECTOR, "#answers li"))


def test_a_stroke_falls_where_the_pen_is_and_may_end_outside(page, tmp_path):
    """Of a wide image, whose proportions the page keeps: its middle is the canvas' middle."""
    Image.new("RGB", (200, 40), COLOURS["red"]).save(tmp_path / "wide.png")
    choose(page, tmp_path / "wide.png")
    wait(page, lambda: body(page, "answer") == "red")
    canvas = page.find_element(By.ID, "drawing")
    pen = ActionChains(page).move_to_element(canvas).click_and_hold().move_by_offset(400, 0)
    page.execute_script("document.getElementById('answers').replaceChildren()")
    pen.release().perform()
    wait(page, lambda: page.find_elements(By.CSS_SELECTOR, "#answers li"))
    brush = "document.getElementById('drawing').getContext('2d')"
    pixel = f"return [...{brush}.getImageData(%s, 1, 1).data]"
    assert page.execute_script(pixel % "105, 20") == [255, 255, 255, 255]
    assert page.execute_script(pixel % "5, 20")[:3] == list(COLOURS["red"])
    seen = page.find_element(By.ID, "seen").size
    assert seen["width"] / seen["height"] == pytest.approx(16 / 24, abs=0.03)


def test_what_is_no_image_is_told_and_the_page_goes_on(page, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    choose(page, tmp_path / "broken.png")
    wait(page, lambda: "no image that this browser can read" in said(page, "error"))
    Image.new("RGB", (30, 30), COLOURS["green"]).save(tmp_path / "fine.png")
    choose(page, tmp_path / "fine.png")
    wait(page, lambda: body(page, "answer") == "green")
    assert said(page, "error") == ""


def test_nothing_comes_from_elsewhere(page):
    loaded = page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    origin = page.execute_script("return location.origin")
    assert [url for url in loaded if not url.startswith(("data:", "blob:", origin))] == []
    assert any(url.endswith(".wasm") for url in loaded)


def test_what_is_missing_is_told(tmp_path, capsys, monkeypatch):
    assert web.main([str(tmp_path / "none.tflite")]) == 1
    assert "none.tflite: there is no such file" in capsys.readouterr().err
    (tmp_path / "m.tflite").write_bytes(b"")
    monkeypatch.setattr(web, "HERE", Path(tmp_path))
    assert web.main([str(tmp_path / "m.tflite")]) == 1
    assert "LiteRT.js is not there; run 'npm install' in" in capsys.readouterr().err
