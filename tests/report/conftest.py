"""Reports without their pictures, for tests of words: drawing takes most of the time."""

import pytest

from xkd_keras.report import plots


@pytest.fixture
def unrendered(monkeypatch):
    """Leave figures undrawn; each is an empty file."""
    monkeypatch.setattr(plots, "render", lambda figure, kind: b"")
