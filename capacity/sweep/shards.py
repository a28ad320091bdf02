"""A sweep in parts of about the same work: the same parts wherever they are asked for, from the grid alone."""

import heapq
import re
from collections.abc import Sequence
from functools import cache
from typing import TypeVar

from capacity import fitting, models
from capacity.sweep.experiment import Experiment

_T = TypeVar("_T")


def shard(experiments: Sequence[Experiment], part: str) -> list[Experiment]:
    """Return one part of the experiments, in their order: of `I/N` the I-th of N, counted from 1.

    Raises ValueError for a part that is none, ModelError for a model that can't be had.

    >>> from capacity.sweep import grid
    >>> [[one.length for one in shard(grid(model="llama-64", length=[9, 4, 5], n_texts=1, search="fixed"), part)]
    ...  for part in ("1/2", "2/2")]
    [[9], [4, 5]]
    """
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", part)
    number, n_parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= number <= n_parts:
        raise ValueError(f"part {part[:40]!r} is no I/N with I from 1 to N; give for example 1/4")
    return parts(experiments, [work(experiment) for experiment in experiments], n_parts)[number - 1]


def parts(things: Sequence[_T], costs: Sequence[float], n: int) -> list[list[_T]]:
    """Return things in n lists, each in their order, whose costs are alike: the dearest first, to the cheapest list."""
    sums: list[tuple[float, int]] = [(0.0, number) for number in range(n)]
    taken: list[list[int]] = [[] for _ in range(n)]
    for place in sorted(range(len(things)), key=lambda place: (-costs[place], place)):
        total, number = heapq.heappop(sums)
        taken[number].append(place)
        heapq.heappush(sums, (total + costs[place], number))
    return [[things[place] for place in sorted(places)] for places in taken]


def work(experiment: Experiment) -> float:
    """Return what a cell costs at most, in bytes of weights times tokens times steps: from files, nothing is loaded."""
    return float(_weights(experiment.model) * token_steps(experiment))


def token_steps(experiment: Experiment) -> int:
    """Return the token-steps that a cell takes at most."""
    return (
        experiment.length * fitting.recipe(experiment.recipe).steps
        if experiment.search == "fixed"
        else experiment.budget
    )


@cache
def _weights(model: str) -> int:
    return sum(path.stat().st_size for path in models.locate(model).glob("*.safetensors"))
