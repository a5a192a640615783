"""Serving stands alone, its parts import one way, and no file or name grows out of hand."""

import ast
import re
from pathlib import Path

import pytest

import serving
from serving import embedded

SERVING = Path(serving.__file__).parent
EMBEDDED = Path(embedded.__file__).parent
FILES = sorted(SERVING.rglob("*.py"))
LISTED = re.findall(r"^    (\w+) {2,}\S", embedded.__doc__, re.MULTILINE)


def name_of(path):
    return path.relative_to(SERVING).as_posix()


def imported(path):
    """Return the full names of all modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_of_this_project_but_serving_is_imported(path):
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"xkd_keras", "tests", "keras", "tf_keras"}


def test_the_list_of_the_servers_modules_is_complete():
    files = {path.stem for path in EMBEDDED.glob("*.py")} - {"__init__"}
    assert sorted(LISTED) == sorted(files)


@pytest.mark.parametrize("name", LISTED)
def test_a_module_of_the_server_imports_only_what_stands_above_it(name):
    parts = [full.split(".") for full in imported(EMBEDDED / f"{name}.py")]
    used = {part[2] for part in parts if part[:2] == ["serving", "embedded"]}
    assert used <= set(LISTED[: LISTED.index(name)])
    assert not {part[1] for part in parts if part[0] == "serving"} - {"embedded"}


def test_commands_reach_the_server_by_two_doors_alone():
    users = {}
    for path in set(FILES) - set(EMBEDDED.rglob("*.py")):
        names = {name for name in imported(path) if name.startswith("serving.embedded")}
        if names:
            users[name_of(path)] = names
    doors = {"errors.ServingError", "lifecycle.Server", "options"}
    assert users == {"server.py": {f"serving.embedded.{door}" for door in doors}}


def test_no_two_names_of_modules_differ_by_an_ending():
    names = {path.stem for path in FILES} - {"__init__", "__main__"}
    stems = {}
    for name in sorted(names):
        stems.setdefault(re.sub(r"(ing|ers?|ors?|ed|es?|s)$", "", name), []).append(name)
    assert [same for same in stems.values() if len(same) > 1] == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_small_enough_to_hold(path):
    assert len(path.read_text().splitlines()) <= 320
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 45, node.name
