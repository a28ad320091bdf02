"""Ways through the lengths of a text, each warm-started from the one before, by name.

`grow` asks for one token more until a length fails; `bracket` doubles the length until one fails, then bisects; `leap`
asks for as many more as the steps of the last length allow, and for fewer after a failure. What fits at one length need
not have been tried at all shorter ones.
"""

import polars as pl

from capacity import metrics
from capacity.fitting.tasks import Advance, Task

LEAP = 40  # optimiser steps that a leap should take
BUDGET = 8000  # token-steps a text and [mem] vector: where growth flattens on small models


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


def leap(task: Task, right: int) -> int | None:
    """Return a length further on the faster the last was reached, a quarter as far where it was not; None at a failure.

    A leap of more than one token has a budget of its own (Task.patience), so that it is no failure where it ends.
    It stays below what was not reached before, and is shortened to what the budget has left.
    """
    last, exact = task.probes[-1], [0, *(probe.length for probe in task.exact())]
    failed = min((probe.length for probe in task.probes if probe.length > exact[-1]), default=len(task.ids) + 1)
    if last.status == "solved":
        if last.length >= len(task.ids):
            return None
        size = exact[-1] - exact[-2]
        if last.steps <= LEAP:
            size = 2 * size if last.steps <= LEAP // 2 else size + 1
        elif last.steps > 2 * LEAP:
            size //= 2
        if task.budget is not None:
            size = min(size, (task.budget - task.token_steps) // (2 * LEAP * last.length))
    else:
        if last.status == "stalled" and last.length <= max(exact[-1] + 1, first_length(task.scored_from)):
            return None
        size = (last.length - exact[-1]) // 4
    size = max(1, min(size, exact[-1], failed - 1 - exact[-1]))
    task.patience = 3 * LEAP if size > 1 else None
    return min(len(task.ids), max(exact[-1] + size, right))


SEARCHES: dict[str, Advance] = {"grow": grow, "bracket": bracket, "leap": leap}


def first_length(scored_from: int) -> int:
    """Return the shortest length with a position to score."""
    return 1 + scored_from


def censored(task: Task) -> bool:
    """Return whether budget, memory, a divergence or the text's end came before a length that fails."""
    probes = pl.DataFrame([{"length": probe.length, "status": probe.status} for probe in task.probes])
    return probes.select(metrics.censored()).item()
