"""The server's own page in headless Chromium: an image, and what every model says to it.

Needs Chromium and its driver, as .ci/run sees to.
"""

import pytest
from selenium.webdriver.common.by import By

from tests.serving import served_models
from tests.serving.browser import body, browser, choose, said, wait

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The open page of a server with two classifiers and a model that takes no images."""
    base = tmp_path_factory.mktemp("served")
    for name in ("small", "größer", "half"):
        (base / name).mkdir()
    served_models.colours(base / "small" / "1", threshold=0.9)
    served_models.colours(base / "größer" / "1", ("rot", "grün", "<b>blau</b>"))
    served_models.half_plus(base / "half" / "1", 2)
    models = served_models.listed(*((name, base / name) for name in ("small", "größer", "half")))
    (base / "models.config").write_text(models, encoding="utf-8")
    colours = {"red.png": (250, 9, 9), "blue.png": (9, 9, 250), "grey.png": (80, 60, 60)}
    for name, colour in colours.items():
        (base / name).write_bytes(served_models.picture(*colour))
    (base / "text.png").write_text("no image")
    with (
        served_models.server(model_config_file=str(base / "models.config")) as server,
        browser(base / "profile") as driver,
    ):
        driver.get(f"{server.url}/")
        wait(driver, lambda: body(driver, "ready") or said(driver, "error"))
        driver.base = base
        yield driver


def cards(page):
    return {card.text.splitlines()[0]: card for card in page.find_elements(By.TAG_NAME, "article")}


def ask(page, name):
    """Choose an image and wait until every model was asked; returns the cards by model."""
    before = int(body(page, "done") or 0)
    choose(page, page.base / name)
    wait(page, lambda: int(body(page, "done") or 0) > before)
    return cards(page)


def test_every_model_has_a_place_before_it_is_asked(page):
    assert list(cards(page)) == ["small", "größer", "half"]


def test_an_answer_below_a_models_threshold_may_be_none_of_its_labels(page):
    answers = ask(page, "grey.png")
    told = {name: "None of these?" in answers[name].text for name in ("small", "größer")}
    assert told == {"small": True, "größer": False}


def test_models_answer_side_by_side_with_labels_and_latencies(page):
    answers = ask(page, "red.png")
    assert "None of these?" not in answers["small"].text
    assert answers["small"].get_attribute("data-answer") == "red"
    assert answers["größer"].get_attribute("data-answer") == "rot"
    lines = answers["small"].text.splitlines()
    assert lines[1:3] == ["red", "100.0 %"]
    assert "ms per request (median of 5; minimum" in lines[-1]


def test_labels_are_text_and_no_markup(page):
    answers = ask(page, "blue.png")
    assert answers["größer"].get_attribute("data-answer") == "<b>blau</b>"
    assert answers["größer"].find_elements(By.TAG_NAME, "b") == []


def test_a_model_that_takes_no_images_says_so_and_the_others_answer(page):
    answers = ask(page, "red.png")
    assert "not found in signature def" in answers["half"].text
    assert answers["small"].get_attribute("data-answer") == "red"


def test_what_is_no_image_is_told_by_every_model(page):
    answers = ask(page, "text.png")
    assert "Unknown image file format" in answers["small"].text
    assert "{{" not in answers["small"].text  # names of the graph's nodes
    assert ask(page, "red.png")["small"].get_attribute("data-answer") == "red"
