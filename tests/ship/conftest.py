"""A run that was exported once, and copies of it that a test may spoil."""

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def exported(exported_run):
    """A small finished run with everything that can be exported: configuration and manifest."""
    manifest = Path(exported_run.run_dir) / "export" / "manifest.json"
    return exported_run, json.loads(manifest.read_text())


@pytest.fixture
def run_dir(exported, tmp_path):
    """A copy that a test may spoil."""
    shutil.copytree(exported[0].run_dir, tmp_path / "run")
    return tmp_path / "run"
