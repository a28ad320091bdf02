"""`capacity run`, `report`, `list`: notebooks to pages, and the names that can be given."""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from capacity.commands.exits import OUTSIDE, Incomplete, coded, say
from capacity.commands.options import Store, With, use

_Pairs = Annotated[list[str] | None, typer.Option("-p", "--parameter", help="name=value of a notebook's parameter.")]
_File = Annotated[Path | None, typer.Option("-f", "--parameters", help="YAML file of parameters; -p goes over it.")]
_Out = Annotated[Path, typer.Option(help="Folder of the pages.")]


@coded()
def list_names(
    kind: Annotated[str, typer.Argument(help="models, recipes, losses, sources, presets or notebooks.")] = "models",
    own: With = None,
) -> None:
    """List the names that can be given: of models, recipes, losses, sources of texts, presets, notebooks."""
    from capacity import names

    use(own)
    for name, meaning in (meanings := names.known(kind)).items():
        say(f"{name:<{2 + max(map(len, meanings))}}{meaning}")


def _check_names(given: dict[str, Any]) -> None:
    """Raise ValueError for a recipe or source that is not there: a kernel need not start to find it out."""
    from capacity import texts

    for name, value in given.items():
        kind = str(name).rpartition("_")[2].removesuffix("s")
        values = [name for name in _leaves(value) if isinstance(name, str)] if kind in ("recipe", "source") else []
        if kind == "recipe" and values:
            from capacity import fitting  # torch, which takes seconds

            for name in values:
                fitting.recipe(name)
        elif kind == "source":
            for name in values:
                texts.check_name(name)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield what lists in one another hold, two deep: a list of what is a list already."""
    for item in value if isinstance(value, list) else [value]:
        yield from item if isinstance(item, list) else [item]


def _build(
    names: list[str] | None, parameter: list[str] | None, file: Path | None, out: Path, store: Path | None,
    grid: Path | None = None,
) -> None:  # fmt: skip
    from capacity import report
    from capacity.report import parameters

    own = {} if store is None else {"store": str(store)}
    given = parameters.read_file(file) | parameters.read_pairs(parameter) | own
    for values in (given, {} if grid is None or len(names or ()) != 1 else parameters.read_grid(grid)):
        _check_names(values)
    try:
        if grid is None:
            summary = report.build(names, out=out, given=given)
        else:
            summary = report.build_grid(names or [], grid, out=out, given=given)
    except OSError as error:
        if error.errno not in {*OUTSIDE, errno.ENOTDIR, errno.EEXIST}:
            raise
        raise Incomplete(f"the pages can't be written to {out} ({error.strerror}); choose another --out") from error
    say(f"the report is in {summary.index}")
    if summary.failed:
        pages = ", ".join(str(summary.index.with_name(f"{result.name}.html")) for result in summary.failed)
        raise Incomplete(f"see why on {pages}")


@coded(resumes=lambda names, **_: not any(name.startswith("9") for name in names))  # the 90s keep no rows
def run(
    names: Annotated[list[str], typer.Argument(help="Notebooks, for example 01_decoding_capacity.")],
    parameter: _Pairs = None,
    file: _File = None,
    grid: Annotated[Path | None, typer.Option(help="TOML file: a page for each combination of its values.")] = None,
    out: _Out = Path("build/report"),
    store: Store = None,
    own: With = None,
) -> None:
    """Run notebooks with parameters and write a page for each."""
    use(own)
    _build(names, parameter, file, out, store, grid)


@coded(resumes=lambda **_: True)
def report(
    parameter: _Pairs = None,
    file: _File = None,
    out: _Out = Path("build/report"),
    store: Store = None,
    own: With = None,
) -> None:
    """Run all notebooks (but the 90s) and write the report."""
    use(own)
    _build(None, parameter, file, out, store)
