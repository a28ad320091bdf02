"""What a sweep would take, in numbers and as a person reads it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from capacity.fitting import Shape
from capacity.sweep.pulling import simulate


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The steps of the fits that run at one shape."""

    shape: Shape
    n_cells: int  # that may come by
    steps: int  # of one batch until all its fits have ended, at most
    step_seconds: float  # of one batch, measured
    n_bytes: int  # of this process at its peak until this shape was tried; on a GPU, of what torch has there
    expected_seconds: float  # of all its batches, by the steps of courses that were taken
    recipe: str = ""
    search: str = ""

    @property
    def seconds(self) -> float:
        """The time of all its batches, at most."""
        return ceil(self.n_cells / self.shape.slots) * self.steps * self.step_seconds


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the missing cells of one loaded model would take."""

    model: str
    n_cells: int
    n_there: int  # cells that the store has
    device: str | None  # that the model was probed on; None: nothing is missing
    total_bytes: int  # memory of that device
    stages: tuple[Stage, ...]
    beside_seconds: float = 0.0  # to begin and load the model, to score and decode: expected
    disk_bytes: int = 0  # of the rows, mostly their vectors
    n_courses: int = 0  # cells whose rows the expected time is from; 0: it is that of all steps

    @property
    def seconds(self) -> float:
        """An upper bound: every fit takes all steps of its recipe. Loading, scoring and decoding come on top."""
        return float(sum(stage.seconds for stage in self.stages))

    @property
    def expected_seconds(self) -> float:
        """The time by what such cells took before, loading, scoring and decoding included."""
        return self.beside_seconds + sum(stage.expected_seconds for stage in self.stages)

    @property
    def n_bytes(self) -> int:
        """The most memory at once."""
        return max((stage.n_bytes for stage in self.stages), default=0)


def lines(part: Estimate) -> list[str]:
    """Return what a person reads of an estimate: cells, a table of shapes, time and memory."""
    told = [f"{part.model}: {part.n_cells:,} cells, {part.n_there:,} already there"]
    if not part.stages:
        return told
    told.append("    [mem]  padded    cells  at once  steps, most  s a step       GB  by")
    told += [
        f"{stage.shape.n_mem:>9}{stage.shape.bucket:>8}{stage.n_cells:>9}{stage.shape.slots:>9}{stage.steps:>13}"
        f"{stage.step_seconds:>10.3g}{stage.n_bytes / 1e9:>9.3g}  {stage.recipe}, {stage.search}"
        for stage in part.stages
    ]
    told.append(
        "    a row for each length that texts are padded to; a search's steps stand where its budget lasts longest"
    )
    most = max(part.beside_seconds + part.seconds, part.expected_seconds)
    known = f"as {part.n_courses:,} cells before" if part.n_courses else "no such cells were measured before"
    told.append(
        f"    about {span(part.expected_seconds)} on this {part.device} ({known}), at most {span(most)}, "
        f"if every fit takes all its steps; {part.n_bytes / 1e9:.3g} of {part.total_bytes / 1e9:.3g} GB of memory, "
        f"{part.disk_bytes / 1e6:,.3g} MB on disk"
    )
    return told


def in_all(estimates: Sequence[Estimate], *, workers: Sequence[int] = (1, 8, 64)) -> str:
    """Return what a person reads of all models: the expected time with so many workers like this one, and the disk."""
    todo = [part for part in estimates if part.stages]
    if not todo:
        return "nothing is missing"
    times = ", ".join(f"{span(at_once(todo, n))} with {n:,}" for n in workers)
    n_cells, disk = sum(part.n_cells - part.n_there for part in todo), sum(part.disk_bytes for part in todo) / 1e6
    return f"in all {n_cells:,} cells, {disk:,.3g} MB on disk; about {times} such workers"


def at_once(estimates: Sequence[Estimate], n_workers: int) -> float:
    """Return the seconds that all models' missing cells are expected to take so many workers like this machine.

    By a virtual clock and the engine's own way to hand cells out (pulling.simulate); a worker is a process of `--jobs`
    or `--engine ray`, or a part of `--shard`, with a device of its own, and loads each model that it comes by.
    """
    each = [
        (part.expected_seconds / (part.n_cells - part.n_there), part.model)
        for part in estimates if part.stages for _ in range(part.n_cells - part.n_there)
    ]  # fmt: skip
    return simulate([cost for cost, _ in each], kinds=[kind for _, kind in each], n_workers=n_workers) if each else 0.0


def span(seconds: float) -> str:
    """Return a time as a person reads it, in the unit that suits it."""
    for name, unit in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds:.1f} seconds"
