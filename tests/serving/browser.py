"""A headless Chromium for the tests of pages. Needs Chromium and its driver, as .ci/run sees to."""

from contextlib import contextmanager

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextmanager
def browser(profile, size=(1000, 800)):
    """Yield a driver of a browser that keeps its files in `profile`."""
    options = webdriver.ChromeOptions()
    for option in (*OPTIONS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"):
        options.add_argument(option)
    driver = webdriver.Chrome(options)
    try:
        yield driver
    finally:
        driver.quit()


def wait(driver, condition):
    """Wait until a condition holds."""
    return WebDriverWait(driver, 60).until(lambda _: condition())


def body(driver, name):
    """Return what the page tells programs: an attribute data-NAME of its body."""
    return driver.find_element(By.TAG_NAME, "body").get_attribute(f"data-{name}")


def said(driver, name):
    """Return the text of an element."""
    return driver.find_element(By.ID, name).text


def choose(driver, path):
    """Choose a file, as a person does."""
    driver.find_element(By.ID, "file").send_keys(str(path))
