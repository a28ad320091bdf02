import ast
import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import capacity

PACKAGE = Path(capacity.__file__).parent
# A module imports only modules above it.
ORDER = (
    "resources", "theory", "metrics", "plateaus", "published", "provenance", "rows", "store", "parameters", "display",
    "charts", "comparisons", "geometry_charts", "documents", "hub", "chunks", "sources", "texts", "checkpoints",
    "heads", "models", "losses", "recipes", "decoding", "memory", "tasks", "stepping", "batch", "engine", "fitting",
    "search", "geometry", "paths", "coding", "vectors", "experiment", "sweep", "estimate", "presets", "baselines",
    "ledgers", "pretraining", "benchmark", "page", "report", "__main__",
)  # fmt: skip
LIGHT = ORDER[: ORDER.index("texts")]
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imported(module):
    """Every dotted name that a module imports, inside its functions too; relative ones with their dots."""
    found = []
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]
    return found


def own(module):
    """The modules of the package that a module imports."""
    return {name.split(".")[1] for name in imported(module) if name.split(".")[0] == "capacity"}


def python(code, folder):
    """What a fresh interpreter prints that runs `code` in `folder`; a warning is an error there."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_order_is_that_of_the_folder():
    assert sorted(ORDER) == MODULES
    assert len(set(ORDER)) == len(ORDER)
    assert not [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE and "_shared" not in path.parts]


@pytest.mark.parametrize("module", MODULES)
def test_imports_flow_one_way(module):
    above = ORDER[: ORDER.index(module)]
    assert own(module) <= set(above), f"{module} imports {sorted(own(module) - set(above))}, which stand below it"


@pytest.mark.parametrize("module", MODULES)
def test_imports_are_by_full_name(module):
    assert [name for name in imported(module) if name.startswith(".") or name.endswith(".*")] == []


def test_the_package_itself_imports_nothing():
    assert imported("__init__") == []


def test_the_reading_half_needs_no_torch(tmp_path):
    code = f"""
import importlib, sys
for name in {LIGHT}:
    importlib.import_module("capacity." + name)
    print(name, sorted({{"torch", "transformers", "tokenizers"}} & sys.modules.keys()))
"""
    assert python(code, tmp_path).splitlines() == [f"{name} []" for name in LIGHT]


def test_importing_has_no_effect(tmp_path):
    code = f"""
import importlib, logging, os, pkgutil, signal, sys, warnings
# What other distributions do when they are imported is done before.
third = {sorted({name for module in MODULES for name in imported(module) if name.split(".")[0] != "capacity"})}
for name in third:
    pkgutil.resolve_name(name)
def state():
    return (
        logging.root.handlers[:], logging.root.level, warnings.filters[:], warnings.showwarning, sys.excepthook,
        dict(os.environ), os.getcwd(), sorted(os.listdir()), signal.getsignal(signal.SIGTERM),
        signal.getsignal(signal.SIGINT), sys.stdout, sys.path[:],
    )
before = state()
for name in {ORDER}:
    importlib.import_module("capacity." + name)
for then, now in zip(before, state(), strict=True):
    assert then == now, (then, now)
"""
    assert python(code, tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", [*MODULES, "__init__"])
def test_files_are_short(module):
    n_lines = (PACKAGE / f"{module}.py").read_text(encoding="utf-8").count("\n")
    assert n_lines <= 330


def test_every_distribution_imported_is_required():
    top = {name.split(".")[0] for module in MODULES for name in imported(module)}
    known = importlib.metadata.packages_distributions()
    third = top - sys.stdlib_module_names - {"capacity"}
    assert third <= known.keys()
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    required = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    assert len(required) == len(project["dependencies"])  # each once
    missing = {name for name in third if required.isdisjoint(map(canonicalize_name, known[name]))}
    assert missing == set()
