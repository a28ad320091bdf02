"""The longest prefix of a text that fits into its [mem]: grown token by token, warm-started; every probe is kept."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from capacity.decoding import decoded_tokens
from capacity.engine import Probe, Recipe, Task, run
from capacity.fitting import task
from capacity.models import Frozen

BUDGET = 8000  # token-steps a text and [mem] vector: where growth flattens on small models


@dataclass(frozen=True)
class Found:
    """What a search found of one text."""

    length: int  # exact length: the longest prefix that is decoded, tokens; 0 if none
    mem: Float[Tensor, "n_mem dim"] | None  # its vector; None if no prefix was decoded
    probes: list[Probe]  # every fit, in order of length
    token_steps: int  # spent in all
    censored: bool  # the text's end or the budget came before a length that fails


def grow(task: Task, right: int) -> int | None:
    """Return the next length of an exact prefix: one past the tokens right already; None at the text's end."""
    return None if task.length >= len(task.ids) else min(len(task.ids), max(task.length, right) + 1)


def first_length(scored_from: int) -> int:
    """Return the shortest length with a position to score."""
    return 1 + scored_from


def found(frozen: Frozen, task: Task, *, scored_from: int) -> Found:
    """Return what an ended search found: its last exact probe, decoded free-running from the stored vector, alone."""
    exact = [probe for probe in task.probes if probe.status == "solved"]
    last = task.probes[-1]
    censored = last.status in ("solved", "budget")
    if not exact:
        return Found(0, None, task.probes, task.token_steps, censored)
    best = exact[-1]
    length = decoded_tokens(frozen, best.mem, task.ids[: best.length], scored_from=scored_from)
    return Found(length, best.mem, task.probes, task.token_steps, censored)


def tasks(
    frozen: Frozen,
    ids: Iterable[Sequence[int]],
    *,
    n_mem: int,
    seed: int,
    budget: int,
    scored_from: int,
) -> Iterator[Task]:
    """Yield a task a text, tagged with its place, that begins at the shortest length.

    Raises ValueError for a budget below 1, or as `fitting.task`.
    """
    if budget < 1:
        raise ValueError(f"budget is {budget} token-steps; at least 1 is needed")
    for index, row in enumerate(ids):
        yield task(
            frozen, row, n_mem=n_mem, seed=seed, length=min(len(row), first_length(scored_from)),
            scored_from=scored_from, budget=budget, tag=index,
        )  # fmt: skip


def exact_length(
    frozen: Frozen,
    ids: Int[Tensor, "batch tokens"] | Sequence[Sequence[int]],
    recipe: Recipe,
    *,
    n_mem: int = 1,
    seed: int = 0,
    budget: int = BUDGET,
    scored_from: int = 0,
) -> list[Found]:
    """Return what was found of each text, in the order given: growth by warm start, all texts at once.

    Args:
        frozen: the model.
        ids: token ids, one row a text; no prefix longer than a row is tried.
        recipe: how to optimise; its `steps` and `patience` hold for one length.
        n_mem: vectors a text.
        seed: of the start.
        budget: token-steps (length x optimiser steps, summed over lengths) a text.
        scored_from: 0 to predict t1 too, 1 to have it given.
    """
    rows = [[int(token) for token in row] for row in ids]
    begun = tasks(frozen, rows, n_mem=n_mem, seed=seed, budget=budget, scored_from=scored_from)
    ended = sorted(run(frozen, begun, recipe, grow, scored_from=scored_from), key=lambda task: task.tag)
    return [found(frozen, task, scored_from=scored_from) for task in ended]


def doubling(
    frozen: Frozen,
    ids: Sequence[int],
    recipe: Recipe,
    *,
    seed: int = 0,
    budget: int = BUDGET,
    scored_from: int = 0,
) -> Iterator[tuple[int, Found]]:
    """Yield (n_mem, what was found) of one text for 1, 2, 4, ... vectors, until all of it is decoded.

    budget: token-steps for each vector. It ends without success where the next number of vectors would be no fewer
    than the tokens, or pass the context.
    """
    n_mem = 1
    while True:
        (one,) = exact_length(
            frozen, [ids], recipe, n_mem=n_mem, seed=seed, budget=budget * n_mem, scored_from=scored_from
        )
        yield n_mem, one
        n_mem *= 2
        fits = frozen.context is None or len(ids) + n_mem <= frozen.context
        if one.length == len(ids) or n_mem >= len(ids) or not fits:
            return
