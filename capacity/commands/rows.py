"""`capacity sweep`, `merge`, `compact`: rows measured and kept."""

import time
import warnings
from pathlib import Path
from typing import Annotated

import typer

from capacity.commands.exits import Incomplete, coded, say
from capacity.commands.options import Store, With, use

_Settings = Annotated[list[str] | None, typer.Option("-p", "--parameter", help="name=value in place of the preset's.")]


@coded(resumes=lambda dry_run, **_: not dry_run)
def sweep_grid(
    grid: Annotated[Path | None, typer.Argument(help="A TOML file of settings, each a value or a list.")] = None,
    preset: Annotated[str, typer.Option(help="PAPER/NAME, for example kuratov2025/table1.")] = "",
    model: Annotated[list[str] | None, typer.Option(help="Instead of those named; may be given again.")] = None,
    parameter: _Settings = None,
    store: Store = None,
    shard: Annotated[str, typer.Option(help="I/N: the I-th of N parts, of about the same work each.")] = "1/1",
    engine: Annotated[str, typer.Option(help="local, or ray: this machine or the cluster at RAY_ADDRESS.")] = "local",
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes, one a GPU or a share of the cores.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take, by a short probe.")] = False,
    compile: Annotated[bool, typer.Option("--compile", help="One compiled graph a step: slower to start.")] = False,
    capture: Annotated[bool, typer.Option("--capture", help="On a GPU: each step recorded, and replayed.")] = False,
    own: With = None,
) -> None:
    """Run a grid or a published protocol; rows that the store has are not measured again."""
    import torch

    from capacity import fitting, sweep
    from capacity.report import parameters
    from capacity.store import default_path
    from capacity.sweep import estimate, expected, plan, presets

    use(own)
    if (grid is None) == (preset == ""):
        raise ValueError(f"give a grid file, or a preset with --preset; known are {', '.join(presets.names())}")
    sweep.shard([], shard)  # a wrong part is refused before models are looked for
    chosen = presets.load(preset) if grid is None else presets.read(grid)
    every = presets.experiments(chosen, models=model or (), given=parameters.read_pairs(parameter))
    wanted, left_out = presets.within_context(every)
    say(f"{chosen.name} · {chosen.title}")
    if left_out:
        say(f"{len(left_out):,} cells are left out: past the model's context, or fewer tokens than vectors")
    if shard != "1/1":
        wanted, n_all = sweep.shard(wanted, shard), len(wanted)
        say(f"part {shard}: {len(wanted):,} of {n_all:,} cells")
    place = store or default_path()
    if engine not in sweep.ENGINES:
        raise ValueError(f"engine is {engine!r}; known are {', '.join(sweep.ENGINES)}")
    if place.exists() and not place.is_dir():
        raise ValueError(f"{place} is no folder; give that of the rows (--store)")
    if dry_run:
        estimates = []
        for part in estimate.estimate(wanted, place):
            estimates.append(part)
            for line in plan.lines(part):
                say(line)
        say(plan.in_all(estimates))
        expected.keep(place, (cell.key for cell in sweep.cells(wanted)), estimates)
        return
    started = time.perf_counter()
    done = sweep.measure(
        wanted, place, travelling=False, compile=compile or (capture and "capture"), jobs=jobs, engine=engine
    )
    seconds = time.perf_counter() - started
    ended = done.ended or "nothing was asked for"
    say(f"{done.rows['key'].n_unique():,} cells are in {place}, {done.rows.height:,} rows: {ended}")
    said = expected.load(place, (cell.key for cell in done.cells))
    if said is not None and engine == "local" and jobs in (None, 1):
        peak = fitting.peak_bytes(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        if told := expected.beside(said, n_new=done.n_new, seconds=seconds, n_bytes=peak):
            say(told)


@coded()
def merge(
    into: Annotated[Path, typer.Argument(help="Folder of rows that gets those of the others.")],
    stores: Annotated[list[Path], typer.Argument(help="Folders of rows; they stay as they are.")],
    keep_first: Annotated[bool, typer.Option("--keep-first", help="Where rows differ, the first folder's.")] = False,
) -> None:
    """Put the rows of several stores into one; a cell that is there with other rows is named and refused."""
    from capacity import store

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", store.StoreWarning)
        counts = store.merge(into, stores, keep_first=keep_first)
    say("{:,} cells are new, {:,} were there".format(*counts))
    if damaged := list(dict.fromkeys(str(w.message) for w in heard if w.category is store.StoreWarning)):
        raise Incomplete(f"what is damaged was left out, measure its cells again: {'; '.join(damaged)}")


@coded()
def compact(path: Annotated[Path, typer.Argument(help="Folder of rows.")]) -> None:
    """Make few files of the many that a store's rows were written to; nothing that is read changes."""
    from capacity import store

    if not (n_before := len(list(path.glob("*.parquet")))):
        raise ValueError(f"{path} is no folder of rows: no .parquet file is in it; give that of a sweep's --store")
    store.Store(path.resolve()).compact()
    say(f"{path}: {n_before} files of rows became {len(list(path.glob('*.parquet')))}")
