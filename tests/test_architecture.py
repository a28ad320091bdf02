import ast
import importlib
import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import capacity
from capacity.resources import notebooks

PACKAGE = Path(capacity.__file__).parent
# Where a reader may stop: a name imports only names before it. Behind a name that is a folder lies its machinery.
FACES = (
    "resources", "files", "harmless", "extensions", "theory", "metrics", "verdicts", "gains", "published", "scaling",
    "provenance", "store", "charts", "texts", "report",
    "models", "decoding", "fitting", "geometry", "connections", "coding", "vector_files", "ledgers", "determinism",
    "precision", "sweep", "baselines", "pretraining", "ladder", "benchmark", "names", "commands", "__main__",
)  # fmt: skip
LIGHT = FACES[: FACES.index("models")]  # no torch up to here
# Who may open machinery of another name: what is timed or predicted is the machinery itself.
OPENED = {
    ("benchmark", "fitting.batch"), ("benchmark", "fitting.slots"),
    ("sweep.estimate", "fitting.batch"), ("sweep.estimate", "fitting.slots"),
    ("report.blocks", "charts.display"), ("commands.rows", "sweep.estimate"), ("commands.rows", "sweep.expected"),
    ("commands.rows", "sweep.plan"), ("commands.rows", "sweep.presets"), ("commands.rows", "report.parameters"),
    ("commands.pages", "report.parameters"),
    ("names", "sweep.presets"),
}  # fmt: skip
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "_shared" not in path.parts and path != PACKAGE / "__init__.py"
}
MODULES = sorted(FILES)


def imported(module):
    """Every dotted name that a module imports, inside its functions too; relative ones with their dots."""
    path = PACKAGE / "__init__.py" if module == "__init__" else FILES[module]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]
    return found


def own(module):
    """The modules of the package that a module imports: the deepest that a dotted name names."""
    found = set()
    for name in imported(module):
        parts = name.split(".")
        if parts[0] == "capacity" and parts[1] != "__version__":
            found.add(max((m for m in FILES if parts[1:][: m.count(".") + 1] == m.split(".")), key=len))
    return found


def python(code, folder):
    """What a fresh interpreter prints that runs `code` in `folder`; a warning is an error there."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_faces_are_the_names_at_the_top():
    assert sorted(FACES) == sorted({name.partition(".")[0] for name in FILES})
    assert len(set(FACES)) == len(FACES) == 33


@pytest.mark.parametrize("module", MODULES)
def test_imports_flow_one_way(module):
    face = module.partition(".")[0]
    before = {*FACES[: FACES.index(face)], face}
    below = {name for name in own(module) if name.partition(".")[0] not in before}
    assert not below, f"{module} imports {sorted(below)}, which stand below it"


@pytest.mark.parametrize("module", MODULES)
def test_machinery_is_imported_by_its_own_face_alone(module):
    face = module.partition(".")[0]
    opened = {name for name in own(module) if "." in name and name.partition(".")[0] != face}
    assert {(module, name) for name in opened} <= OPENED


def test_no_permission_outlives_its_use():
    assert {(module, name) for module, name in OPENED if name not in own(module)} == set()


@pytest.mark.parametrize("module", [module for module in MODULES if "." in module])
def test_machinery_never_imports_its_own_face_nor_itself_in_a_circle(module):
    face = module.partition(".")[0]
    assert face not in own(module)
    reached, waiting = set(), {module}
    while waiting:
        following = {name for name in own(waiting.pop()) if name.startswith(f"{face}.")} - reached
        reached |= following
        waiting |= following
    assert module not in reached


@pytest.mark.parametrize("module", MODULES)
def test_imports_are_by_full_name(module):
    assert [name for name in imported(module) if name.startswith(".") or name.endswith(".*")] == []


def test_the_package_itself_imports_nothing():
    assert imported("__init__") == []


@pytest.mark.parametrize("face", [name for name in FACES if name != "__main__"])
def test_every_face_says_what_is_for_its_readers(face):
    module = importlib.import_module(f"capacity.{face}")
    assert all(hasattr(module, name) for name in module.__all__)
    assert dir(module) == sorted(module.__all__)  # completion offers nothing else
    made = {name for name, one in vars(module).items() if getattr(one, "__module__", "") == module.__name__}
    assert {name for name in made if not name.startswith("_")} <= set(module.__all__)


@pytest.mark.slow
def test_the_reading_half_needs_no_torch(tmp_path):
    code = f"""
import importlib, sys
for name in {LIGHT}:
    importlib.import_module("capacity." + name)
    print(name, sorted({{"torch", "transformers", "tokenizers"}} & sys.modules.keys()))
"""
    assert python(code, tmp_path).splitlines() == [f"{name} []" for name in LIGHT]


@pytest.mark.slow
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
for name in {tuple(MODULES)}:
    importlib.import_module("capacity." + name)
for then, now in zip(before, state(), strict=True):
    assert then == now, (then, now)
"""
    assert python(code, tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", [*MODULES, "__init__"])
def test_files_are_short(module):
    path = PACKAGE / "__init__.py" if module == "__init__" else FILES[module]
    n_lines = path.read_text(encoding="utf-8").count("\n")
    assert n_lines <= 250


def named(tree):
    """Every name that a file gives: of variables, arguments, functions, classes and fields."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name


@pytest.mark.parametrize("path", [*FILES.values(), *notebooks().glob("*.py")], ids=lambda path: path.stem)
def test_names_are_nouns(path):
    assert {"found", "one", "what", "of", "there"}.isdisjoint(named(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.slow
def test_every_distribution_imported_is_required():
    top = {name.split(".")[0] for module in MODULES for name in imported(module)}
    known = importlib.metadata.packages_distributions()
    third = top - sys.stdlib_module_names - {"capacity"}
    assert third <= known.keys()
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    required = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    assert len(required) == len(project["dependencies"])  # each once
    extras = project["optional-dependencies"]
    required |= {canonicalize_name(Requirement(line).name) for name in extras if name != "dev" for line in extras[name]}
    missing = {name for name in third if required.isdisjoint(map(canonicalize_name, known[name]))}
    assert missing == set()
