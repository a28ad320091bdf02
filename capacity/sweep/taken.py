"""What fits took before, from rows: what a sweep may be expected to take."""

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import polars as pl

from capacity.sweep.experiment import Experiment

COLUMNS = (
    "key", "probe", "model", "source", "recipe", "search", "n_mem", "scored_from", "length", "steps", "status",
)  # fmt: skip
_ALIKE = (("model", "source"), ("model",), ())  # what rows share with a cell beside how it is fitted, the closest first


@dataclass
class Course:
    """How a cell went before, or may go."""

    steps: Counter[int] = field(default_factory=Counter)  # by padded length
    n_probes: int = 0


def courses(experiment: Experiment, rows: pl.DataFrame, bucket: Callable[[int], int]) -> list[Course]:
    """Return the courses of cells like an experiment, each as far as its length and budget go; of the closest rows.

    rows: COLUMNS; those of the same recipe, search, number of vectors and scored positions count, of the same model and
    source if there are any, else of the same model, else of any. At a fixed length, rows of the same padded length.
    bucket: gives the padded length. A search that a smaller budget ended is taken to go on, at its last length, for
    half of what is left: it may end at once, or at the end.
    """
    same = ("recipe", "search", "n_mem", "scored_from")
    rows = rows.filter(*(pl.col(name) == getattr(experiment, name) for name in same))
    rows = rows.filter(pl.col("length") <= experiment.length, pl.col("status") != "oom")
    if experiment.search == "fixed":
        lengths = [length for length in rows["length"].unique() if bucket(length) == bucket(experiment.length)]
        rows = rows.filter(pl.col("length").is_in(lengths))
    for names in _ALIKE:
        close = rows.filter(*(pl.col(name) == getattr(experiment, name) for name in names))
        if not close.is_empty():
            break
    else:
        return []
    by_key: dict[str, Course] = {}
    spent: Counter[str] = Counter()
    last: dict[str, tuple[int, str]] = {}
    wanted = close.sort("key", "probe").select("key", "length", "steps", "status")
    for key, length, steps, status in wanted.iter_rows():
        if experiment.search != "fixed" and spent[key] >= experiment.budget:
            continue
        course = by_key.setdefault(key, Course())
        course.steps[bucket(length)] += steps
        course.n_probes += 1
        spent[key] += length * steps
        last[key] = length, status
    for key, (length, status) in last.items():
        if experiment.search != "fixed" and status == "budget" and spent[key] < experiment.budget:
            by_key[key].steps[bucket(length)] += (experiment.budget - spent[key]) // 2 // length
    return list(by_key.values())


def batch_steps(steps: Sequence[int], slots: int) -> Counter[int]:
    """Return the steps of a batch by how many texts are under way; who waits enters as others leave.

    >>> sorted(batch_steps([5, 3, 4], 2).items())
    [(1, 2), (2, 5)]
    """
    free, ends = [0] * slots, []
    for n in steps:
        ends.append(heapq.heappop(free) + n)
        heapq.heappush(free, ends[-1])
    steps_at: Counter[int] = Counter()
    before = 0
    for place, end in enumerate(sorted(ends)):
        steps_at[min(slots, len(ends) - place)] += end - before
        before = end
    return +steps_at
