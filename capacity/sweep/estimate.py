"""What a sweep would take: cells that are there and missing, and for those at most how long and how much memory."""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from capacity import fitting, store
from capacity.fitting import Shape, shape_of
from capacity.fitting.batch import Batch
from capacity.fitting.slots import narrowed
from capacity.models import Frozen
from capacity.sweep.experiment import Cell, Experiment, cells

_TIMED = 3  # steps of a probe, after one that warms up


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The steps of the fits that run at one shape."""

    shape: Shape
    n_cells: int  # that may come by
    steps: int  # of one batch until all its fits have ended, at most
    step_seconds: float  # of one batch, measured
    n_bytes: int  # at the peak, weights included, predicted

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

    @property
    def seconds(self) -> float:
        """An upper bound: every fit takes all steps of its recipe. Loading, scoring and decoding come on top."""
        return float(sum(stage.seconds for stage in self.stages))

    @property
    def n_bytes(self) -> int:
        """The most memory at once."""
        return max((stage.n_bytes for stage in self.stages), default=0)


def estimate(experiments: Sequence[Experiment], folder: Path | str | None = None) -> Iterator[Estimate]:
    """Yield what each model of the experiments would take; a few steps are run for it, nothing is kept.

    folder: of the store; None takes store.default_path(). Raises ValueError as sweep.cells and models.load.
    """
    there = set(store.read([folder or store.default_path()], ["key"])["key"])
    by_model: dict[tuple, dict[str, Cell]] = defaultdict(dict)
    for cell in cells(experiments):
        by_model[cell.experiment.loaded][cell.key] = cell
    for settings, wanted in by_model.items():
        missing = [cell for key, cell in wanted.items() if key not in there]
        frozen = None
        if missing:
            frozen = missing[0].experiment.load()
        yield Estimate(
            model=settings[0], n_cells=len(wanted), n_there=len(wanted) - len(missing),
            device=None if frozen is None else frozen.device.type,
            total_bytes=0 if frozen is None else fitting.total_bytes(frozen.device),
            stages=() if frozen is None else tuple(stages(frozen, missing)),
        )  # fmt: skip


def stages(frozen: Frozen, cells: Iterable[Cell]) -> Iterator[Stage]:
    """Yield the stages that cells of one model go through, those of each recipe and search by themselves."""
    groups: dict[tuple, list[Cell]] = defaultdict(list)
    for cell in cells:
        what = cell.experiment
        groups[what.recipe, what.search, what.scored_from, what.n_mem].append(cell)
    for (recipe, how, scored_from, n_mem), members in groups.items():
        settings = fitting.recipe(recipe).of(frozen)
        first = fitting.first_length(scored_from)
        passing: dict[int, dict[str, Cell]] = defaultdict(dict)  # by padded length
        tried: dict[int, set[int]] = defaultdict(set)
        for cell in members:
            end = cell.experiment.length
            for length in (end,) if how == "fixed" else range(min(first, end), end + 1):
                bucket = shape_of(frozen, length, n_mem=n_mem).bucket
                passing[bucket][cell.key] = cell
                tried[bucket].add(length)
        seconds, shapes = {}, {}
        for bucket in sorted(tried):
            whole = shape_of(frozen, bucket, n_mem=n_mem)
            shapes[bucket] = narrowed(frozen, settings, len(passing[bucket]), whole, compile=False)
            longest = max(passing[bucket].values(), key=lambda cell: len(cell.text.ids))
            seconds[bucket] = step_seconds(frozen, longest, shapes[bucket])
        steps = dict.fromkeys(tried, settings.steps)
        if how != "fixed":
            budget = max(cell.experiment.budget for cell in members)
            steps = most_steps(tried, seconds, per_length=settings.steps, budget=budget)
        for bucket in sorted(tried):
            yield Stage(
                shape=shapes[bucket], n_cells=len(passing[bucket]), steps=steps[bucket], step_seconds=seconds[bucket],
                n_bytes=fitting.predicted_bytes(frozen, shapes[bucket]),
            )  # fmt: skip


def step_seconds(frozen: Frozen, cell: Cell, shape: Shape) -> float:
    """Return how long one step of a batch takes, not compiled: the median of a few, after one that warms up.

    All slots are computed, idle ones too, so the text of one cell will do.
    """
    what = cell.experiment
    ids = cell.text.ids[: shape.bucket]
    task = fitting.task(
        frozen, ids, n_mem=what.n_mem, seed=what.seed, length=len(ids), scored_from=what.scored_from, trace=what.trace
    )
    how = fitting.recipe(what.recipe).of(frozen)
    batch = Batch(frozen, how, shape)
    batch.put(0, task)
    found = []
    for _ in range(1 + _TIMED):
        started = time.perf_counter()
        batch.step(fitting.stop)
        found.append(time.perf_counter() - started)
    return statistics.median(found[1:])


def most_steps(
    tried: dict[int, set[int]], seconds: dict[int, float], *, per_length: int, budget: int
) -> dict[int, int]:
    """Return the steps of one text at each padded length that make its search the longest that its budget allows.

    Each length is tried once, for `per_length` steps at most, and a step costs as many token-steps as there are
    tokens; the budget goes first to where a token-step takes longest.

    Args:
        tried: the lengths that run at a padded one, tokens, by that one.
        seconds: of one step, by padded length.
        per_length: steps.
        budget: token-steps.

    >>> most_steps({8: {6, 7, 8}, 12: {9, 10, 11, 12}}, {8: 0.1, 12: 0.3}, per_length=10, budget=500)
    {12: 40, 8: 24}
    """
    found = {}
    for bucket in sorted(tried, key=lambda bucket: seconds[bucket] / min(tried[bucket]), reverse=True):
        cost = min(tried[bucket])
        found[bucket] = min(len(tried[bucket]) * per_length, ceil(max(0, budget) / cost))
        budget -= found[bucket] * cost
    return found


def lines(found: Estimate) -> list[str]:
    """Return what a person reads of an estimate: cells, a table of shapes, time and memory."""
    told = [f"{found.model}: {found.n_cells:,} cells, {found.n_there:,} already there"]
    if not found.stages:
        return told
    told.append("    [mem]   tokens    cells  at once    steps  s a step       GB")
    told += [
        f"{stage.shape.n_mem:>9}{stage.shape.bucket:>9}{stage.n_cells:>9}{stage.shape.slots:>9}{stage.steps:>9}"
        f"{stage.step_seconds:>10.3g}{stage.n_bytes / 1e9:>9.3g}"
        for stage in found.stages
    ]
    told.append(
        f"    at most {_span(found.seconds)} on this {found.device}, if every fit takes all its steps, and about "
        f"{found.n_bytes / 1e9:.3g} of {found.total_bytes / 1e9:.3g} GB of memory"
    )
    return told


def _span(seconds: float) -> str:
    for name, unit in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds:.1f} seconds"
