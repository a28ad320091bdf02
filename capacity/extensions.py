"""What a person adds without editing the package: recipes, losses, sources and presets declared in files of their own.

A Python file declares them as dicts by name, `RECIPES`, `LOSSES`, `SOURCES`, `PRESETS`, a TOML file as tables,
`[recipes.NAME]` and `[presets."NAME"]`:

- a recipe is a dict of the fields of fitting.Recipe;
- a loss is a function (logits (..., vocab), targets (...), margin) -> (...), in float32;
- a source is a function without arguments that returns texts, the same ones whenever it is called;
- a preset is a dict as a TOML file in papers/PAPER/presets is.

The digest of the file is part of the key of every cell that uses its recipe, loss or source: rows of another version of
it are never taken for this one's. A Python file is run: use those you trust.
"""

import hashlib
import os
import runpy
import tomllib
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capacity.files import first_line

__all__ = ["KINDS", "VARIABLE", "Extension", "ExtensionError", "digest", "load", "own", "use"]
__dir__ = __all__.copy  # what completion shows

KINDS = ("recipes", "losses", "sources", "presets")
VARIABLE = "CAPACITY_WITH"  # files, apart by os.pathsep: what a process and the kernels that it starts use


class ExtensionError(ValueError):
    """A file that can't be used: says what is wrong in it, what is allowed, what to do."""


@dataclass(frozen=True)
class Extension:
    """What one file declares."""

    path: Path
    digest: str  # the first 16 hex digits of the SHA-256 of the file
    declared: dict[str, dict[str, Any]]  # kind -> name -> value


_used: dict[Path, Extension] = {}  # of this process, as they were when they were first used


def load(path: Path | str) -> Extension:
    """Return what a file declares; a Python file is run for it.

    Raises ExtensionError for a file that is not there, fails, or declares nothing or something that is not understood.
    """
    if not isinstance(path, str | Path):
        raise ExtensionError(f"{str(path)[:80]!r} is no path; give that of a file, my.py or my.toml")
    path = Path(path).resolve()
    if path.suffix not in (".py", ".toml") or not path.is_file():
        raise ExtensionError(f"no Python or TOML file {str(path)[:300]!r}; give the path of one, my.py or my.toml")
    try:
        content = path.read_bytes()
        if path.suffix == ".toml":
            declared = tomllib.loads(content.decode("utf-8"))
        else:
            names = runpy.run_path(str(path))
            declared = {kind: names[kind.upper()] for kind in KINDS if kind.upper() in names}
    except (Exception, SystemExit) as error:  # whatever the file raises
        raise ExtensionError(f"{path} fails: {type(error).__name__}: {first_line(error)}") from error
    kinds = KINDS if path.suffix == ".py" else ("recipes", "presets")
    wrong = sorted(kind for kind, entries in declared.items() if kind not in kinds or not isinstance(entries, dict))
    if wrong or not any(declared.values()):
        fault = f"{', '.join(wrong)} can't be declared" if wrong else "nothing is declared"
        allowed = (
            ", ".join(kind.upper() for kind in kinds) if path.suffix == ".py" else "[recipes.NAME], [presets.NAME]"
        )
        raise ExtensionError(f"{path}: {fault}; allowed are {allowed}, each by name")
    for kind in ("losses", "sources"):
        for name, value in declared.get(kind, {}).items():
            if not callable(value):
                raise ExtensionError(f"{path}: {kind[:-1]} {name!r} is {value!r}; give a function")
    for name in (name for entries in declared.values() for name in entries):
        if not isinstance(name, str) or not name or set(name) & set(":#"):
            raise ExtensionError(f"{path}: {name!r} is no name; give a text without colon or #")
    return Extension(path, hashlib.sha256(content).hexdigest()[:16], declared)


def use(*paths: Path | str) -> None:
    """Use what files declare from now on, in this process and those it starts; a file that changed is read anew.

    Raises ExtensionError as `load`, and for a name that two files declare.
    """
    loaded = {extension.path: extension for extension in map(load, [*_named(), *paths])}
    _check(list((_used | loaded).values()))
    _used.update(loaded)
    os.environ[VARIABLE] = os.pathsep.join(map(str, _used))


def _named() -> list[Path]:
    """Return the files that the environment names and that are not in use yet."""
    named = [Path(path).resolve() for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]
    return [path for path in named if path not in _used]


def _check(used: list[Extension]) -> None:
    for kind in KINDS:
        places: dict[str, Path] = {}
        for extension in used:
            for name in extension.declared.get(kind, {}):
                if name in places:
                    raise ExtensionError(f"{places[name]} and {extension.path} both declare {name!r}; rename one")
                places[name] = extension.path


def _in_use() -> list[Extension]:
    if _named():
        use()
    return list(_used.values())


def own(kind: str, known: Container[str]) -> dict[str, Any]:
    """Return what the files in use declare of a kind of KINDS, by name; ExtensionError for a name that is `known`."""
    declared = {
        name: (value, extension) for extension in _in_use() for name, value in extension.declared.get(kind, {}).items()
    }
    for name, (_, extension) in declared.items():
        if name in known:
            raise ExtensionError(f"{extension.path}: {name!r} is one of the package's {kind}; choose another name")
    return {name: value for name, (value, _) in declared.items()}


def digest(names: dict[str, Container[str]]) -> list[str]:
    """Return the digests, sorted, of the files that declare one of these names, by kind; none for the package's own."""
    return sorted(
        extension.digest
        for extension in _in_use()
        if any(name in wanted for kind, wanted in names.items() for name in extension.declared.get(kind, {}))
    )
