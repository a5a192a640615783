"""A finished study, made once; reports without pictures."""

import json

import pytest

from tests import once, small_studies
from xkd_keras.study.report import figures


@pytest.fixture(scope="session")
def study(shared, data_dir):
    """A finished study: its plan and what it found. Tests that write into it take a copy."""

    def make(path):
        with pytest.MonkeyPatch.context() as patch:
            small_studies.run(small_studies.whole(path, data_dir), patch)

    plan = small_studies.whole(once.made(shared, "study", make), data_dir)
    return plan, json.loads((plan.directory / "study.json").read_text())


@pytest.fixture
def unpictured(monkeypatch):
    """Leave the pictures out of reports, for tests of words: drawing takes most of the time."""
    monkeypatch.setattr(figures, "draw", lambda *_: {})
