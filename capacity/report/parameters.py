"""What a notebook may be told: the literals of its parameters cell, and a check of what is given."""

import ast
import difflib
import io
import keyword
import tokenize
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import jupytext
import yaml

from capacity import files

_SCALARS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "str": (str,), "bool": (bool,)}
_SHOWN = 200  # characters of a value in a message
_ANNOTATIONS = "int, float, str, bool, None, list[...] and unions of them with |"


class ParameterError(ValueError):
    """A parameter that the notebook does not have, or a value that its annotation does not allow."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One line of a parameters cell."""

    name: str
    annotation: str  # as written, for example list[str]
    default: Any  # a literal
    comment: str  # the trailing comment: the unit


def declared(source: Path) -> dict[str, Parameter]:
    """Return the parameters of a notebook by name, in the order of its cell tagged `parameters`.

    `source` is a py:percent file; without such a cell there are none. ParameterError where the cell holds
    anything but annotated literals.
    """
    cells = [
        cell.source
        for cell in jupytext.read(source).cells
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])
    ]
    if len(cells) > 1:
        raise ParameterError(f"{source.name} has {len(cells)} parameters cells; leave one")
    return _parse(cells[0], source.name) if cells else {}


def check(source: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Return the values a notebook would run with: its defaults, then those given, by name.

    Nothing is run. ParameterError for a name that is no identifier or not in the parameters cell, and for a
    value of another type than annotated: a bool is no int, an int is a float, lists are checked item by item.
    """
    known = declared(source)
    for name, value in given.items():
        _check_name(name, list(known), source.stem)
        annotation = known[name].annotation
        if not _fits(value, _expression(annotation)):
            raise ParameterError(
                f"{source.stem}: {name} = {_shown(value)} is a {type(value).__name__}; "
                f"allowed is {annotation}, for example {known[name].default!r}"
            )
    return {name: parameter.default for name, parameter in known.items()} | given


def read_pairs(pairs: Iterable[str] | None) -> dict[str, Any]:
    """Return values by name of texts `name=value`; a value that is no literal of Python is a text."""
    values: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ParameterError(f"-p {pair[:80]!r} is no name=value; give for example -p n_texts=8")
        try:
            values[name] = ast.literal_eval(value)
        except (TypeError, MemoryError, RecursionError) as error:  # a list as a key; expressions in one another
            shown = value if len(value) <= 80 else f"{value[:80]}…"
            raise ParameterError(f"-p {name}: {shown!r} is no value; give a literal, as 8 or [8, 16]") from error
        except (ValueError, SyntaxError):  # what is no literal is a text
            values[name] = value
    return values


def read_file(path: Path | None) -> dict[str, Any]:
    """Return values by name from a YAML file, as papermill's -f takes it; none of None. ParameterError as wrong use."""
    if path is None:
        return {}
    try:
        table = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ParameterError(f"{path} can't be read ({error.strerror}); give a YAML file, as n_texts: 8") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a 13th month, 6,000 digits, 5,000 brackets
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f", line {mark.line + 1}"
        raise ParameterError(f"{path}{place}: no YAML ({files.first_line(error)}); write as n_texts: 8") from error
    if not isinstance(table, dict):
        raise ParameterError(f"{path} is no table of names and values; write for example n_texts: 8")
    return table


def read_grid(path: Path) -> dict[str, Any]:
    """Return what a TOML file gives, by name: values, or lists of them. ParameterError as wrong use."""
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise ParameterError(f"{path} can't be read ({error.strerror}); give a TOML file, as n_mem = [1, 2]") from error
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, 6,000 digits, 5,000 brackets
        raise ParameterError(f"{path} is no TOML: {files.first_line(error)}") from error


def combinations(source: Path, path: Path) -> list[dict[str, Any]]:
    """Return what a TOML file makes of a notebook's parameters: each combination of values, in the file's order.

    A value that fits the parameter is one value; else it is a list of such. ParameterError for one that is neither.
    """
    given, known = read_grid(path), declared(source)
    if not given:
        raise ParameterError(f"{path} sets nothing; give parameters their values, as n_texts = [4, 8]")
    values = []
    for name, value in given.items():
        _check_name(name, list(known), source.stem)
        single = _fits(value, _expression(known[name].annotation))
        values.append([value] if single or not isinstance(value, list) else value)
        if not values[-1]:
            raise ParameterError(f"{source.stem}: {name} is an empty list; give at least one value")
    distinct = []
    for chosen in product(*values):
        if (combination := dict(zip(given, chosen, strict=True))) not in distinct:
            distinct.append(combination)
    for combination in distinct:
        check(source, combination)
    return distinct


def share(sources: list[Path], given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what each notebook gets of `given`, by stem: the parameters that it has.

    ParameterError as from `check`, and for a name that no notebook of `sources` has.
    """
    known = {source.stem: declared(source) for source in sources}
    every = list(dict.fromkeys(name for own in known.values() for name in own))
    for name in given:
        _check_name(name, every, "the notebooks")
    shares = {stem: {name: given[name] for name in given if name in own} for stem, own in known.items()}
    for source in sources:
        check(source, shares[source.stem])
    return shares


def _shown(value: Any) -> str:
    """Return a value as a message shows it: however long or deep it is, one short line."""
    try:
        shown = repr(value)
    except (RecursionError, ValueError):  # a list in a list ...; an integer of more digits than Python writes
        shown = f"a {type(value).__name__}"
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


def _check_name(name: str, allowed: list[str], where: str) -> None:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ParameterError(
            f"{where}: {_shown(name)} is no parameter name; allowed are {', '.join(allowed) or 'none'}"
        )
    if name not in allowed:
        close = difflib.get_close_matches(name, allowed, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ParameterError(
            f"{where}: unknown parameter {_shown(name)}; allowed are {', '.join(allowed) or 'none'}{hint}"
        )


def _parse(cell: str, where: str) -> dict[str, Parameter]:
    try:
        statements = ast.parse(cell).body
    except SyntaxError as error:
        raise ParameterError(f"{where}: the parameters cell is no Python: {error}") from error
    comments = {
        token.start[0]: token.string.lstrip("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(cell).readline)
        if token.type == tokenize.COMMENT
    }
    known: dict[str, Parameter] = {}
    for statement in statements:
        line = ast.unparse(statement)
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value):
                pass
            case _:
                raise ParameterError(f"{where}: {line!r} is no parameter; write `name: type = literal  # unit`")
        if not _is_known(annotation):
            raise ParameterError(f"{where}: the annotation of {line!r} is not understood; use {_ANNOTATIONS}")
        try:
            default = ast.literal_eval(value)
        except ValueError as error:
            raise ParameterError(f"{where}: the value of {line!r} is no literal; derive it in a later cell") from error
        if name in known or not _fits(default, annotation):
            fault = "is set twice" if name in known else "does not fit its annotation"
            raise ParameterError(f"{where}: {line!r} {fault}")
        comment = comments.get(statement.end_lineno or 0, "")
        known[name] = Parameter(name=name, annotation=ast.unparse(annotation), default=default, comment=comment)
    return known


def _expression(annotation: str) -> ast.expr:
    return ast.parse(annotation, mode="eval").body


def _is_known(annotation: ast.expr) -> bool:
    match annotation:
        case ast.Constant(value=None):
            return True
        case ast.Name(id=name):
            return name in _SCALARS
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return _is_known(item)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _is_known(left) and _is_known(right)
    return False


def _fits(value: Any, annotation: ast.expr) -> bool:
    match annotation:
        case ast.Name(id=name):
            return type(value) in _SCALARS[name]
        case ast.Subscript(slice=item):
            return type(value) is list and all(_fits(element, item) for element in value)
        case ast.BinOp(left=left, right=right):
            return _fits(value, left) or _fits(value, right)
    return value is None
