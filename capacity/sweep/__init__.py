"""A grid of experiments over a store: what is there is loaded, what is missing is measured."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from capacity import resources, store
from capacity.sweep import engines
from capacity.sweep.experiment import Cell, Experiment, cells, grid
from capacity.sweep.rows import with_source_bits

__all__ = [
    "MISSING",
    "Cell",
    "Experiment",
    "Measured",
    "MissingCells",
    "cells",
    "grid",
    "measure",
    "measured",
    "run",
    "with_source_bits",
]

MISSING = ("measure", "skip", "refuse")  # what to do with cells that are nowhere


class MissingCells(LookupError):
    """Cells that are in no store, and were not to be measured."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The rows of a sweep, and what was done for them."""

    rows: pl.DataFrame  # columns: store.SCHEMA, in order of key and probe
    n_new: int  # cells measured now
    n_there: int  # cells that were there
    n_missing: int  # cells that are nowhere

    def __str__(self) -> str:
        """Say it in one line."""
        missing = f", {self.n_missing} are missing" if self.n_missing else ""
        total = self.n_new + self.n_there + self.n_missing
        return f"{self.n_new} of {total} cells measured now, {self.n_there} were there{missing}; {len(self.rows)} fits"


def measured() -> Path:
    """Return the folder of rows that travel with the project, with their provenance, or `$CAPACITY_MEASURED`."""
    return Path(os.environ.get("CAPACITY_MEASURED") or resources.data() / "measured" / "rows")


def measure(
    experiments: Sequence[Experiment],
    folder: Path | str | None = None,
    *,
    missing: str = "measure",
    travelling: bool = True,
    compile: bool = False,
    progress: bool = True,
) -> Measured:
    """Return the rows of all cells, and how many were measured now, were there, and are nowhere.

    Args:
        experiments: from `grid`.
        folder: of the store; None takes store.default_path().
        missing: what to do with cells that are not there: `measure` them, `skip` them, or `refuse` to go on.
        travelling: take the rows that travel with the project for there, too; the store's own come first.
        compile: see fitting.run; pays where a sweep runs for many minutes.
        progress: show cells done and an estimate of the time left, on standard error.

    Raises ValueError for an unknown `missing` or wrong settings, MissingCells if it is `refuse` and cells are missing.
    Whatever ends a run, finished cells are kept.
    """
    if missing not in MISSING:
        raise ValueError(f"missing is {missing!r}; known are {', '.join(MISSING)}")
    place = Path(folder) if folder is not None else store.default_path()
    places = [place, *([measured()] if travelling else [])]
    wanted = {cell.key: cell for cell in cells(experiments)}
    if missing == "measure":
        store.Store(place).keys()  # sets damaged shards aside: their cells are measured again
    there = set(store.read(places, ["key"], keys=wanted)["key"])
    todo = [cell for key, cell in wanted.items() if key not in there]
    if todo and missing == "refuse":
        raise MissingCells(
            f"{len(todo)} of {len(wanted)} cells are not in {' or '.join(map(str, places))}, the first is "
            f"{todo[0].experiment}; measure them with missing='measure', or name another store"
        )
    if todo and missing == "measure":
        with _terminated(), store.Store(place) as kept:
            kept.check_writable()
            engines.local(todo, kept.append, compile=compile, progress=progress)
    rows = store.read(places, keys=wanted)
    n_missing = len(wanted) - rows["key"].n_unique()
    return Measured(rows=rows, n_new=len(todo) - n_missing, n_there=len(there), n_missing=n_missing)


@contextlib.contextmanager
def _terminated() -> Iterator[None]:
    """Turn SIGTERM into SystemExit(143), so that what was measured is written, where nobody else handles it."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def run(experiments: Sequence[Experiment], folder: Path | str | None = None, **options: Any) -> pl.DataFrame:
    """Return the rows of all cells (columns: store.SCHEMA), in order of key and probe; see `measure`."""
    return measure(experiments, folder, **options).rows
