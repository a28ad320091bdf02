"""What a sweep would take: cells there and missing, and for those the time, expected and at most, and the memory.

Real steps are run at each shape, a text is scored and decoded; how many steps there will be is what such fits took
before, by the rows that are there, else all of the recipe's.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import polars as pl

from capacity import decoding, fitting, store
from capacity.fitting import Shape, shape_of
from capacity.fitting.batch import Batch
from capacity.fitting.slots import narrowed
from capacity.models import Frozen
from capacity.sweep import rows, taken
from capacity.sweep.experiment import Cell, Experiment, cells
from capacity.sweep.pulling import simulate

_ROW_BYTES = 100  # of a row's other columns, compressed among many
_TIMED = 3  # steps of a probe, after one that warms up


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


def estimate(experiments: Sequence[Experiment], folder: Path | str | None = None) -> Iterator[Estimate]:
    """Yield what each model of the experiments would take; a few steps are run for it, nothing is kept.

    folder: of the store; None takes store.default_path(). Raises ValueError as sweep.cells and models.load.
    """
    places = [folder or store.default_path(), store.measured()]
    stored = set(store.read(places[:1], ["key"], missing_ok=True)["key"])
    before = store.read(places, taken.COLUMNS, missing_ok=True)
    by_model: dict[tuple, dict[str, Cell]] = defaultdict(dict)
    started = time.perf_counter()
    for cell in cells(experiments):
        by_model[cell.experiment.loaded][cell.key] = cell
    for settings, wanted in by_model.items():
        missing = [cell for key, cell in wanted.items() if key not in stored]
        n_there = len(wanted) - len(missing)
        if not missing:
            yield Estimate(
                model=settings[0], n_cells=len(wanted), n_there=n_there, device=None, total_bytes=0, stages=()
            )
            continue
        frozen = missing[0].experiment.load()
        beside = time.perf_counter() - started  # the first model's: texts and tokenizers, too
        with fitting.threads(frozen):
            alike = {replace(cell.experiment, text_index=0): cell.experiment for cell in missing}
            by_kind = {kind: _courses(frozen, experiment, before) for kind, experiment in alike.items()}
            courses = {cell.key: by_kind[replace(cell.experiment, text_index=0)] for cell in missing}
            beside += scoring_seconds(frozen, missing, courses)
            its_stages = tuple(stages(frozen, missing, courses))
        yield Estimate(
            model=settings[0], n_cells=len(wanted), n_there=n_there, device=frozen.device.type,
            total_bytes=fitting.total_bytes(frozen.device), stages=its_stages, beside_seconds=beside,
            disk_bytes=_disk_bytes(frozen, missing, courses),
            n_courses=max(map(len, courses.values())),
        )  # fmt: skip
        started = time.perf_counter()


def _disk_bytes(frozen: Frozen, cells: Sequence[Cell], courses: dict[str, list[taken.Course]]) -> int:
    """Return the bytes of cells' rows: their vectors, as float32, and _ROW_BYTES beside."""
    total = 0.0
    for cell in cells:
        known = [course.n_probes for course in courses[cell.key]]
        n_rows = statistics.mean(known) if known else 1 if cell.experiment.search == "fixed" else len(cell.text.ids)
        total += n_rows * (4 * frozen.dim * cell.experiment.n_mem + _ROW_BYTES)
    return round(total)


def _courses(frozen: Frozen, experiment: Experiment, before: pl.DataFrame) -> list[taken.Course]:
    return taken.courses(experiment, before, lambda length: shape_of(frozen, length, n_mem=experiment.n_mem).bucket)


def scoring_seconds(frozen: Frozen, cells: Sequence[Cell], courses: dict[str, list[taken.Course]]) -> float:
    """Return how long cells' vectors take to be scored, each, and decoded, one a cell: by one that is tried.

    courses: of the cells, by key; without any, a cell counts as one probe at its full length.
    """
    cell = max(cells, key=lambda cell: len(cell.text.ids))
    experiment, known = cell.experiment, [course for own in courses.values() for course in own]
    reached = statistics.mean(max(course.steps) for course in known) if known else experiment.length
    n_probes = statistics.mean(course.n_probes for course in known) if known else 1
    length = max(1 + experiment.scored_from, min(experiment.length, round(reached)))
    begun = fitting.task(
        frozen, cell.text.ids, n_mem=experiment.n_mem, seed=experiment.seed, scored_from=experiment.scored_from,
        length=length,
    )  # fmt: skip
    (task,) = fitting.run(frozen, [begun], replace(fitting.recipe(experiment.recipe), steps=1), fitting.stop)
    probe = replace(task.probes[0], status="budget")
    alone = _seconds(lambda: rows.rows(frozen, cell, [probe]))
    more = max(0.0, _seconds(lambda: rows.rows(frozen, cell, [probe] * 3)) - alone) / 2
    decoded = _seconds(
        lambda: decoding.free_running(frozen, probe.mem, length, given=cell.text.ids[: experiment.scored_from])
    )
    return len(cells) * (alone + (n_probes - 1) * more + decoded)


def _seconds(act: Callable[[], object]) -> float:
    """Return how long something takes, after once that warms up."""
    act()
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def stages(frozen: Frozen, cells: Iterable[Cell], courses: dict[str, list[taken.Course]]) -> Iterator[Stage]:
    """Yield the stages that cells of one model go through, those of each recipe and search by themselves.

    courses: of the cells, by key.
    """
    groups: dict[tuple, list[Cell]] = defaultdict(list)
    for cell in cells:
        experiment = cell.experiment
        groups[experiment.recipe, experiment.search, experiment.scored_from, experiment.n_mem].append(cell)
    for (recipe, how, scored_from, n_mem), members in groups.items():
        settings = fitting.recipe(recipe).scaled_to(frozen)
        first = fitting.first_length(scored_from)
        passing: dict[int, dict[str, Cell]] = defaultdict(dict)  # by padded length
        tried: dict[int, set[int]] = defaultdict(set)
        for cell in members:
            end = cell.experiment.length
            for length in (end,) if how == "fixed" else range(min(first, end), end + 1):
                bucket = shape_of(frozen, length, n_mem=n_mem).bucket
                passing[bucket][cell.key] = cell
                tried[bucket].add(length)
        seconds, shapes, wholes = {}, {}, {}
        for bucket in sorted(tried):
            wholes[bucket] = shape_of(frozen, bucket, n_mem=n_mem)
            shapes[bucket] = narrowed(frozen, settings, len(passing[bucket]), wholes[bucket], compile=False)
            longest = max(passing[bucket].values(), key=lambda cell: len(cell.text.ids))
            seconds[bucket] = step_seconds(frozen, longest, shapes[bucket])
        steps = dict.fromkeys(tried, settings.steps)
        if how != "fixed":
            budget = max(cell.experiment.budget for cell in members)
            steps = most_steps(tried, seconds, per_length=settings.steps, budget=budget)
        for bucket in sorted(tried):
            stage = Stage(
                shape=shapes[bucket], n_cells=len(passing[bucket]), steps=steps[bucket], step_seconds=seconds[bucket],
                n_bytes=fitting.peak_bytes(frozen.device), expected_seconds=0.0, recipe=recipe, search=how,
            )  # fmt: skip
            drawn = _drawn(list(passing[bucket]), courses, bucket)
            if drawn is None:
                yield replace(stage, expected_seconds=stage.seconds)
                continue
            by_busy = taken.batch_steps(drawn, stage.shape.slots)
            width = {n: narrowed(frozen, settings, n, wholes[bucket], compile=False).slots for n in by_busy}
            least = min(width.values(), default=stage.shape.slots)
            narrow = step_seconds(frozen, next(iter(passing[bucket].values())), replace(stage.shape, slots=least))
            slope = (stage.step_seconds - narrow) / max(1, stage.shape.slots - least)
            expected = sum(n * (narrow + slope * (width[busy] - least)) for busy, n in by_busy.items())
            yield replace(stage, expected_seconds=expected, n_bytes=fitting.peak_bytes(frozen.device))


def _drawn(keys: Sequence[str], courses: dict[str, list[taken.Course]], bucket: int) -> list[int] | None:
    """Return the steps at a padded length of the cells that come by, each by one course in turn; None: not known."""
    if not all(courses[key] for key in keys):
        return None
    drawn = [courses[key][place % len(courses[key])].steps[bucket] for place, key in enumerate(keys)]
    return [steps for steps in drawn if steps]


def step_seconds(frozen: Frozen, cell: Cell, shape: Shape) -> float:
    """Return how long one step of a batch takes, not compiled: the median of a few, after one that warms up.

    The text of one cell is in all slots, as so many texts would be.
    """
    experiment = cell.experiment
    ids = cell.text.ids[: shape.bucket]
    how = fitting.recipe(experiment.recipe).scaled_to(frozen)
    batch = Batch(frozen, how, shape)
    for slot in range(shape.slots):
        task = fitting.task(
            frozen, ids, n_mem=experiment.n_mem, seed=experiment.seed, length=len(ids),
            scored_from=experiment.scored_from, trace=experiment.trace,
        )  # fmt: skip
        batch.put(slot, task)
    seconds = []
    for _ in range(1 + _TIMED):
        started = time.perf_counter()
        batch.step(fitting.stop)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


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
    steps = {}
    for bucket in sorted(tried, key=lambda bucket: seconds[bucket] / min(tried[bucket]), reverse=True):
        cost = min(tried[bucket])
        steps[bucket] = min(len(tried[bucket]) * per_length, ceil(max(0, budget) / cost))
        budget -= steps[bucket] * cost
    return steps


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
