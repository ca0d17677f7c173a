"""Imports run one way, from the commands down to the attentions, and never in a circle."""

import ast
import graphlib
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
# From the bottom up; what stands in one line does not import each other.
_FLOORS = (
    ("errors", "statistics", "cache"),
    ("attention", "data"),
    ("model",),
    ("keras_weights", "training"),
    ("config",),
    ("run", "cli"),
    ("sweep", "compare"),
    ("train", "evaluate", "cost", "dashboard"),
    ("plan", "predict", "export"),
    ("inspect",),
)
_FLOOR = {room: floor for floor, rooms in enumerate(_FLOORS) for room in rooms}


def imports_of(path):
    """Return the modules of this package that a file imports anywhere in it, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            *parts, last = name.split(".")
            if parts[:1] == ["eanet"]:
                module = _ROOT.joinpath(*parts, last)
                found.add(name if module.is_dir() or module.with_suffix(".py").exists() else ".".join(parts))
    return found


def faults(package):
    """Return (module, imported module) of everything that imports sideways or upwards."""
    found = []
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        if room == "__init__" or path.name == "__main__.py":  # an entrance may import everything
            continue
        for name in imports_of(path):
            other = name.split(".")[1] if "." in name else ""
            if other != room and _FLOOR.get(other, len(_FLOORS)) >= _FLOOR[room]:
                found.append((str(path.relative_to(package)), name))
    return sorted(found)


def test_imports_run_downwards():
    assert faults(_ROOT / "eanet") == []


def test_every_module_has_its_floor():
    rooms = {path.name.removesuffix(".py") for path in (_ROOT / "eanet").iterdir() if path.name[:2] != "__"}
    assert rooms == _FLOOR.keys()


def test_no_module_imports_itself_by_way_of_others():
    graph = {}
    for path in (_ROOT / "eanet").rglob("*.py"):
        name = ".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = imports_of(path) - {"eanet"}
    graph.pop("eanet")  # which only passes on, when asked
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize(
    "line", ["from eanet.run import record", "import eanet.train", "from eanet.config.rules import RULES"]
)
def test_an_import_that_runs_up_is_found(tmp_path, line):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "step.py").write_text(f"def f():\n    {line}\n")
    assert [path for path, _ in faults(tmp_path)] == ["training/step.py"]
