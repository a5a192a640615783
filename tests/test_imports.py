"""Imports point one way, and heavy libraries stay behind their doors."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "xkd_keras"
# A module may import only from rooms of a lower floor; commands are at the top.
FLOORS = [
    {"errors"},
    {"devices", "distill", "schedules", "files", "findings", "members", "page", "parsing", "plots"},
    {"deployment"},
    {"optimizers", "data", "peers", "teachers", "methods"},
    {"cohort", "config", "report"},
    {"checkpoint", "cli", "rundir"},
    {"callbacks", "evaluation"},
    {"recipe"},
    {"training"},
    {"ship"},
    {"compression"},
    {"train", "evaluate", "export", "compress"},
    {"study"},
]
FLOOR = {name: i for i, floor in enumerate(FLOORS) for name in floor}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path):
    """Yield the full names of all modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms(path):
    parts = [name.split(".") for name in imported(path)]
    names = {p[1] for p in parts if p[0] == "xkd_keras" and len(p) > 1}
    return {name for name in names if name in FLOOR} - {room(path)}


def test_every_module_has_a_floor():
    assert {room(path) for path in FILES} == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_from_lower_floors(path):
    above = {name for name in rooms(path) if FLOOR[name] >= FLOOR[room(path)]}
    assert not above


@pytest.mark.parametrize(
    ("library", "door"),
    [
        ("tensorflow_model_optimization", {"compression/passes.py"}),
        ("tf_keras", {f"compression/{name}.py" for name in ("passes", "tuning", "twin")}),
        ("tensorflow_serving", {"ship/savedmodel.py"}),
        ("ai_edge_litert", {"ship/lite.py", "ship/metadata.py"}),
    ],
)
def test_a_library_for_shipping_has_one_door(library, door):
    users = [path for path in FILES if any(n.split(".")[0] == library for n in imported(path))]
    assert {path.relative_to(PACKAGE).as_posix() for path in users} == door


def test_leaves_never_see_flags():
    leaves = [path for path in FILES if FLOOR[room(path)] <= FLOOR["cohort"]]
    seen = {path for path in leaves if any(name.startswith("absl") for name in imported(path))}
    assert seen <= {PACKAGE / "config.py"}
