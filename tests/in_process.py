"""A notebook run in the tests' own process, where starting a kernel would take most of the time."""

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import altair as alt
import jupytext
import polars as pl
from IPython.core.formatters import DisplayFormatter

from capacity import metrics, verdicts


def outputs(source: Path, given: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what its cells show, by mimetype; where rows are missing it ends as a report's page does."""
    space, shown, formatter = {"__name__": "__main__"}, [], DisplayFormatter()
    try:
        for cell in (cell for cell in jupytext.read(source).cells if cell.cell_type == "code"):
            body = ast.parse(cell.source).body
            last = [ast.Expression(body.pop().value)] if body and isinstance(body[-1], ast.Expr) else []
            exec(compile(ast.Module(body, []), source.stem, "exec"), space)
            space |= given if "parameters" in cell.metadata.get("tags", ()) else {}
            for expression in last:
                data, _ = formatter.format(eval(compile(expression, source.stem, "eval"), space))
                shown.append(data)
    except metrics.NothingFound as error:
        shown.append({"text/markdown": verdicts.nothing(str(error)).text})
    return shown


@contextmanager
def restored() -> Iterator[None]:
    """Undo what notebooks set for the whole process."""
    try:
        yield
    finally:
        pl.Config.restore_defaults()
        for registry in (alt.data_transformers, alt.theme, alt.renderers):
            registry.enable("default")
