"""What tests and benchmarks name exists: those that run seldom would else be the last to know."""

import ast
import importlib
import types

import pytest

from tests.shell import ROOT

FILES = sorted((ROOT / "tests").rglob("*.py"))


def found(module, name):
    """Return what `from module import name` gives."""
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        return importlib.import_module(f"{module}.{name}")


def ours(tree):
    """Yield (name in the file, what it stands for) of all that is imported from the project."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith(("xkd_keras", "serving")):
            for alias in node.names:
                yield alias.asname or alias.name, found(node.module, alias.name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_all_that_a_file_takes_from_the_project_is_there(path):
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree))
    rebound = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    rebound |= {n.arg for n in nodes if isinstance(n, ast.arg)}
    modules = {
        name: value
        for name, value in ours(tree)
        if isinstance(value, types.ModuleType) and name not in rebound
    }
    missing = [
        f"line {node.lineno}: {node.value.id}.{node.attr}"
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in modules
        and not hasattr(modules[node.value.id], node.attr)
    ]
    assert not missing
