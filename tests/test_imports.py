"""The package is what BUILD_NOTES.md draws: imports point down, and no file grows out of hand."""

import ast
import fnmatch
import re
import subprocess
import sys

import pytest

from tests.shell import ENV, ROOT

PACKAGE = ROOT / "xkd_keras"
# A file may import its own room and rooms of lower floors; study measures all that is below it.
FLOORS = [
    {"errors", "console", "operations", "forward_pass"},
    {"files"},
    {"signals", "devices", "data", "peers"},
    {"flags", "distillation"},
    {"runs"},
    {"report"},
    {"ship"},
    {"compression"},
    {"train", "evaluate", "export", "compress"},
    {"study"},
    {"__main__", "configs", "photos.ipynb"},  # configs: a link to ../configs, without modules
]
FLOOR = {name: i for i, floor in enumerate(FLOORS) for name in floor}
COMMANDS = {"train", "evaluate", "export", "compress"}
LONGEST = 320  # lines of a file
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def place(path):
    return path.relative_to(PACKAGE).as_posix()


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


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


def below(name, module):
    """Whether an imported name is this module, or something in it."""
    return f"{name}.".startswith(f"{module}.")


IMPORTS = {path: imported(path) for path in FILES}


def users(module):
    """Return the files that import a module, or something in it."""
    return {place(path) for path, names in IMPORTS.items() if any(below(n, module) for n in names)}


def test_the_package_has_the_rooms_that_are_drawn():
    there = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()} - {
        "__init__",
        "__pycache__",
    }
    assert there == set(FLOOR)
    assert (PACKAGE / "__init__.py").exists()


@pytest.mark.parametrize("path", FILES, ids=place)
def test_imports_point_down(path):
    parts = [name.split(".") for name in IMPORTS[path]]
    rooms = {part[1] for part in parts if part[0] == "xkd_keras" and len(part) > 1} & set(FLOOR)
    assert not {name for name in rooms - {room(path)} if FLOOR[name] >= FLOOR[room(path)]}


def test_nothing_but_tests_knows_tests_and_nothing_but_serving_serving():
    assert not users("tests") | users("serving")


@pytest.mark.parametrize(
    ("library", "door"),
    [
        ("tensorflow_model_optimization", {"compression/passes.py", "compression/quantizing.py"}),
        ("tensorflow_serving", {"ship/savedmodel.py"}),
        ("ai_edge_litert", {"ship/lite.py", "ship/metadata.py", "ship/tables.py"}),
        ("onnx", {"ship/onnx_file.py"}),
        ("onnxruntime", {"ship/onnx_file.py"}),
    ],
)
def test_a_library_for_shipping_has_one_door(library, door):
    assert users(library) == door


def test_tf_keras_stays_in_the_room_of_compression():
    assert {place.partition("/")[0] for place in users("tf_keras")} == {"compression"}


def test_only_flags_and_commands_know_the_library_of_flags():
    allowed = {"flags", "study", *COMMANDS}
    assert {each.split("/")[0].removesuffix(".py") for each in users("absl")} <= allowed


def test_only_commands_start_and_end_as_commands_do():
    mains = {*(f"{name}.py" for name in COMMANDS), "study/__main__.py"}
    assert users("xkd_keras.flags.command_line") == mains


def test_the_method_writes_no_files():
    """A Keras user may take this room alone."""
    own = {name for path in FILES if room(path) == "distillation" for name in IMPORTS[path]}
    taken = {name.split(".")[1] for name in own if name.startswith("xkd_keras.")}
    assert taken == {"distillation", "devices", "errors", "operations", "forward_pass"}
    assert not any(below(name, "absl") for name in own)


def test_a_run_knows_nothing_of_what_is_made_of_it():
    assert not {each for each in users("xkd_keras.report") if each.startswith("runs/")}


def test_a_studys_report_has_one_door():
    inside = "xkd_keras.study.report"
    assert {each.split("/")[0] for each in users(inside)} == {"study"}
    for path, names in IMPORTS.items():
        if not place(path).startswith("study/report/"):
            assert {name for name in names if below(name, inside)} <= {inside}, place(path)


@pytest.mark.parametrize("name", ["data", "peers", "devices", "distillation", "files", "signals"])
def test_who_knows_no_flags_speaks_of_none(name):
    """An InputError carries its argument; the command line puts the dashes before it."""
    spoken = {
        f"{place(path)}:{node.lineno}"
        for path in FILES
        if room(path) == name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.search(r"(^|[\s'(`])--[a-z]", node.value)
    }
    assert not spoken


def modules(tree):
    """Return the names under which a file knows modules of this package."""
    found = set()
    for node in ast.walk(tree):
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            place = ROOT.joinpath(*node.module.split("."), alias.name)
            if place.is_dir() or place.with_suffix(".py").exists():
                found.add(alias.asname or alias.name)
    return found


@pytest.mark.parametrize("where", ["xkd_keras", "serving"])
def test_no_local_name_hides_a_module(where):
    """Where one does, a line of the same function that means the module fails when it is run."""
    hidden = set()
    for path in (ROOT / where).rglob("*.py"):
        tree = ast.parse(path.read_text())
        known = modules(tree)
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.Lambda)]
        for function in functions:
            used = {
                node.value.id
                for node in ast.walk(function)
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            }
            local = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
            local |= {
                node.id
                for node in ast.walk(function)
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            }
            hidden |= {(path.relative_to(ROOT).as_posix(), n) for n in local & used & known}
    assert not hidden


@pytest.mark.parametrize("where", ["xkd_keras", "serving"])
def test_no_file_is_longer_than_a_person_can_hold(where):
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines())
        for path in (ROOT / where).rglob("*.py")
    }
    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}


def test_the_top_level_holds_what_was_agreed():
    """What git ignores aside: a file that was tried there and then committed is found."""
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split()]
    found = {path.name for path in ROOT.iterdir() if path.name[0] != "."}
    agreed = {"pyproject.toml", "README.md", "BUILD_NOTES.md", "LICENSE"}
    agreed |= {"xkd_keras", "serving", "configs", "tests"}
    assert {n for n in found if not any(fnmatch.fnmatch(n, each) for each in ignored)} == agreed


def light(module, *args):
    """Run a command in a process of its own, and see that it imports nothing heavy."""
    line = [sys.executable, "-X", "importtime", "-m", f"xkd_keras.{module}", *args]
    done = subprocess.run(line, cwd=ROOT, env=ENV, capture_output=True, text=True)
    loaded = set(re.findall(r"\| +(\w+)$", done.stderr, re.MULTILINE))
    assert "absl" in loaded
    assert not loaded & {"matplotlib", "tensorflow", "keras", "scipy", "tf_keras"}, module
    return done


def test_help_waits_for_nothing_heavy():
    for module in [*sorted(COMMANDS), "study"]:
        done = light(module, "--help")
        assert done.returncode == 0, done.stderr
        assert "--run_dir" in done.stdout


@pytest.mark.parametrize(
    ("module", "more"),
    [("evaluate", ()), ("export", ()), ("compress", ("--peer=a", "--recipe=qat"))],
)
def test_a_directory_without_a_finished_run_is_refused_at_once(module, more, tmp_path):
    done = light(module, f"--run_dir={tmp_path}", *more)
    assert done.returncode == 1
    assert f"'{tmp_path}' contains no finished run" in done.stderr
