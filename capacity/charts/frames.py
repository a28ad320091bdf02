"""What a figure is drawn of: a frame with the columns that it needs, or one sentence that says what is wrong."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, TypeVar

import polars as pl

P = ParamSpec("P")
R = TypeVar("R")


def takes(**columns: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that checks frames before a figure is drawn of them.

    Args:
        columns: for each parameter that is a frame the columns drawn, apart by spaces; `@name` is the column that the
            parameter `name` names. A mark before says what it holds: `#` finite numbers, `+` numbers above 0, `~` such
            where the parameter `log` is true, else finite ones, `?` any numbers; null is allowed in all of them.
            `-`: what is shown where the mouse points, and may be missing.

    What is decorated raises ValueError for what is no frame, for columns that are not there, saying which are, and for
    values that can't be drawn. Columns without a value in any row are drawn as empty ones of their kind.
    """

    def decorated(draw: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(draw)

        @functools.wraps(draw)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            for parameter, names in columns.items():
                needed: dict[str, str] = {}  # by column its mark
                shown = [name[1:] for name in names.split() if name[0] == "-"]
                for name in (name for name in names.split() if name[0] != "-"):
                    mark, name = (name[0], name[1:]) if name[0] in "#+~?" else ("", name)
                    mark = mark if mark != "~" else "+" if given.arguments["log"] else "#"
                    column = given.arguments[name[1:]] if name[0] == "@" else name
                    if not isinstance(column, str):
                        raise ValueError(f"charts.{draw.__name__}: {name[1:]} is {column!r}; give a column's name")
                    needed[column] = mark
                frame = given.arguments[parameter]
                _check(f"charts.{draw.__name__}", parameter, frame, needed)
                given.arguments[parameter] = _typed(frame, needed, shown)
            return draw(*given.args, **given.kwargs)

        return checked

    return decorated


def _check(figure: str, parameter: str, frame: object, needed: Mapping[str, str]) -> None:
    if not isinstance(frame, pl.DataFrame):
        raise ValueError(
            f"{figure}: {parameter} is {str(frame)[:80]!r}, no frame of polars; give one (polars.from_pandas makes it)"
        )
    if missing := [name for name in needed if name not in frame.columns]:
        raise ValueError(
            f"{figure}: {parameter} has no column {', '.join(missing)}; it has "
            f"{', '.join(frame.columns)[:400] or 'none'}, and {', '.join(needed)} are drawn"
        )
    for name, mark in needed.items():
        kind = frame.schema[name]
        if not mark or kind in (pl.Null, pl.Boolean):
            continue
        if not kind.is_numeric():
            raise ValueError(
                f"{figure}: {name} of {parameter} is of type {kind}, and drawn as numbers; cast it, as with "
                f"pl.col({name!r}).cast(pl.Float64)"
            )
        column = frame[name].cast(pl.Float64)
        fine = (column.is_finite() | (mark == "?")) & ((column > 0) | (mark != "+"))
        if len(wrong := column.filter(~fine)):
            allowed = "numbers above 0, since its axis is logarithmic," if mark == "+" else "finite numbers"
            raise ValueError(
                f"{figure}: {name} of {parameter} is {wrong[0]:g} in some rows; {allowed} are allowed, or null: leave "
                "these rows out"
            )


def _typed(frame: pl.DataFrame, needed: Mapping[str, str], shown: Sequence[str]) -> pl.DataFrame:
    """Return the frame with what is shown but not there as null, and columns of no type as numbers, names as text."""
    frame = frame.with_columns(pl.lit(None).alias(name) for name in shown if name not in frame.columns)
    untyped = [name for name, kind in frame.schema.items() if kind == pl.Null]
    return frame.cast({name: pl.Float64 if needed.get(name, "#") else pl.String for name in untyped})  # pyright: ignore
