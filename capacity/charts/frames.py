"""What a figure is drawn of: a frame with the columns that it needs, or one sentence that says which are not there."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import polars as pl

P = ParamSpec("P")
R = TypeVar("R")


def takes(**columns: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that checks frames before a figure is drawn of them.

    Args:
        columns: for each parameter that is a frame the columns drawn, apart by spaces; `@name` is the column that the
            parameter `name` names.

    What is decorated raises ValueError for what is no frame, and for columns that are not there, saying which are.
    """

    def decorated(draw: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(draw)

        @functools.wraps(draw)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            for parameter, names in columns.items():
                needed = [given.arguments[name[1:]] if name[0] == "@" else name for name in names.split()]
                _check(f"charts.{draw.__name__}", parameter, given.arguments[parameter], needed)
            return draw(*args, **kwargs)

        return checked

    return decorated


def _check(figure: str, parameter: str, frame: object, needed: list[str]) -> None:
    if not isinstance(frame, pl.DataFrame):
        raise ValueError(
            f"{figure}: {parameter} is {str(frame)[:80]!r}, no frame of polars; give one (polars.from_pandas makes it)"
        )
    if missing := [name for name in needed if name not in frame.columns]:
        raise ValueError(
            f"{figure}: {parameter} has no column {', '.join(missing)}; it has {', '.join(frame.columns)[:400]}, and "
            f"{', '.join(needed)} are drawn"
        )
