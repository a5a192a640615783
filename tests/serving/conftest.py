"""Models that tests of serving share: each is exported once in a test run, and never changed."""

import pytest

from tests.serving import served_models


@pytest.fixture(scope="session")
def half(tmp_path_factory):
    """The directory of a model with one version: x / 2 + 2."""
    base = tmp_path_factory.mktemp("half")
    served_models.half_plus(base / "1", 2)
    return base


@pytest.fixture(scope="session")
def halves(half, tmp_path_factory):
    """The directory of a model with two versions: x / 2 + 2, and x / 2 + 3."""
    base = tmp_path_factory.mktemp("halves")
    served_models.half_plus(base / "2", 3)
    served_models.publish_copy(half / "1", base, 1)
    return base


@pytest.fixture(scope="session")
def kinds(tmp_path_factory):
    """The directory of a model with signatures for whatever JSON and protos can hold."""
    base = tmp_path_factory.mktemp("kinds")
    served_models.all_kinds(base / "1")
    return base
