"""A grid of experiments over a store: what is there is loaded, what is missing is measured."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from capacity import models, store
from capacity.files import whole_number
from capacity.store import kept, measured
from capacity.sweep import cluster, elsewhere, engines, processes, scale, workers
from capacity.sweep.beyond import one_length
from capacity.sweep.experiment import DRAWN, PRETRAINED, Cell, Experiment, cells, grid
from capacity.sweep.rows import with_source_bits
from capacity.sweep.shards import shard

__all__ = [
    "DRAWN", "ENGINES", "MISSING", "PRETRAINED", "Cell", "Experiment", "Measured", "MissingCells", "cells", "grid",
    "kept", "limits", "measure", "measured", "one_length", "pretrained", "run", "scale", "shard", "with_source_bits",
]  # fmt: skip
__dir__ = __all__.copy  # what completion shows

ENGINES = ("local", "ray")  # where missing cells are measured
MISSING = ("measure", "skip", "refuse")  # what to do with cells that are nowhere


class MissingCells(LookupError):
    """Cells that are in no store, and were not to be measured."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The rows of a sweep, and what was done for them."""

    rows: pl.DataFrame  # columns: store.SCHEMA, in order of key and probe
    n_new: int  # cells measured now
    n_there: int  # cells that were there, or that another process measured meanwhile
    n_missing: int  # cells that are nowhere
    cells: list[Cell]  # those of models on this machine

    @property
    def ended(self) -> str:
        """How many fits ended how."""
        return ", ".join(f"{n:,} {status}" for status, n in sorted(self.rows["status"].value_counts().iter_rows()))

    def __repr__(self) -> str:
        return f"Measured({self})"

    def __str__(self) -> str:
        """Say it in one line."""
        missing = f", {self.n_missing} are missing" if self.n_missing else ""
        total = self.n_new + self.n_there + self.n_missing
        return f"{self.n_new} of {total} cells measured now, {self.n_there} were there{missing}; {len(self.rows)} fits"


def measure(
    experiments: Sequence[Experiment],
    folder: Path | str | None = None,
    *,
    missing: str = "measure",
    travelling: bool = True,
    compile: bool | str = False,
    progress: bool = True,
    jobs: int | None = None,
    engine: str = "local",
    revisions: Mapping[str, str] | None = None,
) -> Measured:
    """Return the rows of all cells, and how many were measured now, were there, and are nowhere.

    Args:
        experiments: from `grid`.
        folder: of the store; None takes store.default_path().
        missing: what to do with cells that are not there: `measure` them, `skip` them, or `refuse` to go on.
        travelling: take the rows that travel with the project for there, too; the store's own come first.
        compile: see fitting.run; pays where a sweep runs for many minutes.
        progress: show cells done and an estimate of the time left, on standard error.
        jobs: processes, one a GPU or a share of the cores; see sweep.processes. None: one, or of `ray` one a GPU or
            processor; see workers.share.
        engine: `local`, or `ray`: this machine, or the cluster at $RAY_ADDRESS; see sweep.cluster.
        revisions: of models that may not be on this machine, by name: rows of others are not theirs.

    Processes that share a store share the work, too (see engines.local).

    Rows of a model that is not on this machine are found by their columns (see elsewhere.keys).

    Raises ValueError for an unknown `missing` or `engine`, Ray that is not installed or wrong settings, MissingCells
    if it is `refuse` and cells are missing,
    ModelError for a model that is not there and whose cells would have to be measured, or that no row knows.
    Whatever ends a run, finished cells are kept.
    """
    if missing not in MISSING:
        raise ValueError(f"missing is {missing!r}; known are {', '.join(MISSING)}")
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}; known are {', '.join(ENGINES)}")
    if engine == "ray":
        workers.check()
    if not isinstance(experiments, Sequence) or not all(
        isinstance(experiment, Experiment) for experiment in experiments
    ):
        raise ValueError(f"{str(experiments)[:80]!r} are no experiments; give what sweep.grid returns")
    jobs = None if jobs is None else whole_number("jobs", jobs, least=1)
    place = Path(folder) if folder is not None else store.default_path()
    places = [place, *([measured()] if travelling else [])]
    absent = elsewhere.absent(experiments)
    away = list(dict.fromkeys(experiment for experiment in experiments if experiment.model in absent))
    wanted = {
        cell.key: cell for cell in cells(experiment for experiment in experiments if experiment.model not in absent)
    }
    if missing == "measure":
        store.Store(place).read(["key"], keys=wanted)  # sets damaged shards aside: their cells are measured again
    keys = set(store.read(places, ["key"], keys=wanted, missing_ok=True)["key"])
    known = _known(away, places, absent, revisions, refuse=missing == "measure") if away else {}
    todo = [cell for key, cell in wanted.items() if key not in keys]
    lacking = [*(cell.experiment for cell in todo), *(experiment for experiment in away if experiment not in known)]
    if lacking and missing == "refuse":
        raise MissingCells(
            f"{len(lacking)} of {len(wanted) + len(away)} cells are not in {' or '.join(map(str, places))}, the first "
            f"is {lacking[0]}; measure them with missing='measure', or name another store"
        )
    n_new = 0
    if todo and missing == "measure":
        with _terminated(), store.Store(place) as kept:
            kept.check_writable()
            if engine == "ray":
                n_new = cluster.distributed(todo, kept, jobs=jobs, compile=compile, show=progress)
            elif jobs is not None and jobs > 1:
                n_new = processes.processes(todo, place, jobs=jobs, compile=compile, show=progress)
            else:
                n_new = engines.local(todo, kept, compile=compile, progress=progress)
        lacking = []
    rows = store.read(places, keys=[*wanted, *known.values()], missing_ok=True)
    n_there = len(wanted) + len(away) - len(lacking) - n_new
    return Measured(rows=rows, n_new=n_new, n_there=n_there, n_missing=len(lacking), cells=list(wanted.values()))


def _known(
    away: Sequence[Experiment],
    places: Sequence[Path],
    absent: dict[str, models.ModelError],
    revisions: Mapping[str, str] | None,
    *,
    refuse: bool,
) -> dict[Experiment, str]:
    """Return the keys of experiments on absent models; raises what says of a model that it is absent.

    It is raised where a cell is missing, if `refuse`, else where nobody knows the model's name.
    """
    rows = store.read(places, elsewhere.COLUMNS, missing_ok=True)
    known = elsewhere.keys(away, rows, revisions)
    names = {*models.PACKAGED, *rows["model"]}
    for experiment in away:
        if experiment not in known and (
            refuse or not (experiment.model in names or experiment.model.startswith(models.TRAINED))
        ):
            raise absent[experiment.model]
    return known


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


def pretrained(names: Sequence[str], folder: Path | str | None = None, *, n_texts: int) -> Measured:
    """Return the rows of 12_real_models' searches (PRETRAINED and DRAWN) that are there; nothing is measured.

    names: of models; n_texts: of each source, 12 at most are there.
    """
    protocols = [protocol | {"model": names, "n_texts": n_texts} for protocol in (PRETRAINED, DRAWN)]
    return measure([own for protocol in protocols for own in grid(**protocol)], folder, missing="skip")


def limits(
    experiments: Sequence[Experiment], folder: Path | str | None = None, *, seeds: Sequence[int], **options: Any
) -> Measured:
    """Return the rows of searches, and of fresh fits at one token more than the longest that each text's hold.

    Where a fresh fit is solved, fits at one token more follow, until none is; then the same seeds are fitted at the
    longest length itself, as a control: what metrics.limits takes. All are cells, so that nothing is measured twice.

    Args:
        experiments: searches from `grid`, of each text at least two; the fits have the recipe of a text's first.
        folder: see `measure`, which takes the options, too.
        seeds: of the fresh fits, others than the searches'.

    Raises ValueError for seeds that are the searches', or a source that draws other texts where they are shorter, and
    as `measure`.
    """
    if shared := sorted({*seeds} & {experiment.seed for experiment in experiments}):
        raise ValueError(f"seeds {shared} are the searches' own; fresh fits need others")
    sweeps = [measure(experiments, folder, **options)]
    asked: set[Experiment] = set()
    for more in (1, 0):
        while fits := [
            experiment
            for experiment in one_length(experiments, _rows(sweeps), more=more, seeds=seeds)
            if experiment not in asked
        ]:
            sweeps.append(measure(fits, folder, **options))
            asked.update(fits)
    n_new, n_there, n_missing = (
        sum(counts) for counts in zip(*((f.n_new, f.n_there, f.n_missing) for f in sweeps), strict=True)
    )
    made = [cell for sweep in sweeps for cell in sweep.cells]
    return Measured(rows=_rows(sweeps), n_new=n_new, n_there=n_there, n_missing=n_missing, cells=made)


def _rows(sweeps: Sequence[Measured]) -> pl.DataFrame:
    return pl.concat(sweep.rows for sweep in sweeps).unique(["key", "probe"]).sort("key", "probe")
