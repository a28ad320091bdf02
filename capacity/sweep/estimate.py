"""What a sweep would take: cells there and missing, and for those the time, expected and at most, and the memory.

Real steps are run at each shape, a text is scored and decoded; how many steps there will be is what such fits took
before, by the rows that are there, else all of the recipe's.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
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
from capacity.sweep.plan import Estimate, Stage

_ROW_BYTES = 100  # of a row's other columns, compressed among many
_TIMED = 3  # steps of a probe, after one that warms up


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
