"""The longest prefix of a text that fits into its [mem], warm-started from length to length; every probe is kept.

Two ways to it, by name: `grow` asks for one token more until a length fails; `bracket` doubles the length until one
fails, then bisects. What fits at one length need not have been tried at all shorter ones.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from capacity.decoding import decoded_tokens
from capacity.engine import run
from capacity.fitting import task
from capacity.models import Frozen
from capacity.recipes import Recipe
from capacity.tasks import Advance, Probe, Task

BUDGET = 8000  # token-steps a text and [mem] vector: where growth flattens on small models


@dataclass(frozen=True)
class Found:
    """What a search found of one text."""

    length: int  # exact length: the longest prefix that is decoded, tokens; 0 if none
    mem: Float[Tensor, "n_mem dim"] | None  # its vector; None if no prefix was decoded
    probes: list[Probe]  # every fit, in the order in which it ended
    token_steps: int  # spent in all
    censored: bool  # the text's end or the budget came before a length that fails


def stop(task: Task, right: int) -> None:
    """Return None: one length is all there is."""


def grow(task: Task, right: int) -> int | None:
    """Return the length after an exact one: the tokens right already, then one more; None at a failure or the end."""
    if task.probes[-1].status != "solved" or task.length >= len(task.ids):
        return None
    return max(task.length + 1, right)


def bracket(task: Task, right: int) -> int | None:
    """Return twice an exact length while none has failed, then the middle between the two; None where they meet."""
    last, end = task.probes[-1], len(task.ids)
    exact = max((probe.length for probe in task.exact()), default=task.probes[0].length - 1)
    if last.status == "solved" and right > exact:
        return right
    failed = min((probe.length for probe in task.probes if probe.length > exact), default=None)
    following = min(end, 2 * exact) if failed is None else (exact + failed) // 2
    return following if following > exact else None


SEARCHES: dict[str, Advance] = {"grow": grow, "bracket": bracket}


def first_length(scored_from: int) -> int:
    """Return the shortest length with a position to score."""
    return 1 + scored_from


def found(frozen: Frozen, task: Task, *, scored_from: int) -> Found:
    """Return what an ended search found: its last exact probe, decoded free-running from the stored vector, alone."""
    exact = task.exact()
    if not exact:
        return Found(0, None, task.probes, task.token_steps, censored(task))
    best = exact[-1]  # in every search the last is the longest
    length = decoded_tokens(frozen, best.mem, task.ids[: best.length], scored_from=scored_from)
    return Found(length, best.mem, task.probes, task.token_steps, censored(task))


def censored(task: Task) -> bool:
    """Return whether budget, memory or the text's end came before a length that fails, one past the last exact one."""
    limit = task.exact()[-1].length + 1 if task.exact() else task.probes[0].length
    return not any(probe.length == limit and probe.status in ("stalled", "diverged") for probe in task.probes)


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
    search: str = "grow",
    compile: bool = False,
) -> list[Found]:
    """Return what was found of each text, in the order given, each at its own length, all texts at once.

    Args:
        frozen: the model.
        ids: token ids, one row a text; no prefix longer than a row is tried.
        recipe: how to optimise; its `steps` and `patience` hold for one length.
        n_mem: vectors a text.
        seed: of the start.
        budget: token-steps (length x optimiser steps, summed over lengths) a text.
        scored_from: 0 to predict t1 too, 1 to have it given.
        search: a key of SEARCHES.
        compile: see engine.run.

    Raises ValueError for a search that does not exist, or as `fitting.task`.
    """
    if search not in SEARCHES:
        raise ValueError(f"unknown search {search!r}; known are {', '.join(SEARCHES)}")
    rows = [[int(token) for token in row] for row in ids]
    begun = tasks(frozen, rows, n_mem=n_mem, seed=seed, budget=budget, scored_from=scored_from)
    ended = sorted(
        run(frozen, begun, recipe, SEARCHES[search], scored_from=scored_from, compile=compile),
        key=lambda task: task.tag,
    )
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
        fits = frozen.context is None or frozen.n_before + n_mem + len(ids) <= frozen.context
        if one.length == len(ids) or n_mem >= len(ids) or not fits:
            return
