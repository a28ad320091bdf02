"""Fits of [mem] vectors to texts: at their full length, or at the longest that fits."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from capacity.files import whole_number
from capacity.fitting.crammed import Crammed, cram, doubling
from capacity.fitting.engine import run
from capacity.fitting.lengths import Longest, exact_length, longest
from capacity.fitting.losses import LOSSES, WITHOUT_PRODUCT
from capacity.fitting.memory import Shape, peak_bytes, predicted_bytes, rows_of_chunk
from capacity.fitting.parallel import processors, threads, threads_for
from capacity.fitting.recipes import RECIPES, Recipe, base, recipe
from capacity.fitting.recipes import recipe as named
from capacity.fitting.search import BUDGET, SEARCHES, first_length, stop
from capacity.fitting.slots import shape_of
from capacity.fitting.tasks import Advance, Curve, Probe, Task, rows_of_ids, start, task
from capacity.models import Frozen, is_exhausted, total_bytes

__all__ = [
    "BUDGET", "LOSSES", "RECIPES", "SEARCHES", "WITHOUT_PRODUCT", "Advance", "Crammed", "Curve", "Fit", "Longest",
    "Probe", "Recipe", "Shape", "Task", "base", "cram", "doubling", "exact_length", "first_length", "fit",
    "is_exhausted", "longest", "peak_bytes", "predicted_bytes", "processors", "recipe", "rows_of_chunk", "run",
    "shape_of", "start", "stop", "task", "threads", "threads_for", "total_bytes",
]  # fmt: skip
__dir__ = __all__.copy  # what completion shows


@dataclass(frozen=True)
class Fit:
    """The result of `fit`: one entry a text, in the order given."""

    mem: Float[Tensor, "batch n_mem dim"]  # the best vectors, each as it was scored, float32, on the CPU
    status: list[str]  # solved, stalled, diverged, oom
    steps: list[int]  # optimiser steps
    n_correct: list[int]  # scored positions right
    n_scored: list[int]
    bits_min: list[float | None]  # least bits of positions 2..N over the steps; None where the loss has none
    seconds: list[float]
    curve: list[Curve | None]  # None without `trace`

    def __repr__(self) -> str:
        texts, n_mem, dim = self.mem.shape
        ended = ", ".join(f"{n} {status}" for status, n in Counter(self.status).items()) or "nothing"
        return f"Fit({texts} texts in {n_mem} vector{'s' * (n_mem > 1)} of {dim} numbers each: {ended})"


def fit(
    frozen: Frozen,
    ids: Int[Tensor, "batch tokens"] | Sequence[Sequence[int]],
    recipe: Recipe | str = "default",
    *,
    n_mem: int = 1,
    seed: int | Sequence[int] = 0,
    init: Float[Tensor, "batch n_mem dim"] | None = None,
    scored_from: int = 0,
    trace: bool = False,
    compile: bool | str = False,
) -> Fit:
    """Return the [mem] vectors of texts at their full length.

    Args:
        frozen: the model.
        ids: token ids, one row a text; rows of a list may differ in length.
        recipe: how to optimise: the name of one, one of RECIPES, or your own.
        n_mem: vectors a text.
        seed: of the start; one for all texts or one a text (restarts are the same text with several seeds).
        init: the start itself, instead of `seed`.
        scored_from: 0 to predict t1 too, 1 to have it given (the paper's).
        trace: keep the curve of every text (right tokens and bits at every step).
        compile: see engine.run.

    Raises ValueError for an empty or too long text, ids outside the vocabulary, or arguments of other shapes.
    """
    chosen = named(recipe)
    rows = rows_of_ids(ids)
    seeds = list(seed) if isinstance(seed, list | tuple) else [whole_number("seed", seed, least=0)] * len(rows)
    if len(seeds) != len(rows):
        raise ValueError(f"{len(seeds)} seeds for {len(rows)} texts; give one, or one a text")
    if init is not None and tuple(init.shape) != (len(rows), n_mem, frozen.dim):
        raise ValueError(f"init has shape {tuple(init.shape)}; ({len(rows)}, {n_mem}, {frozen.dim}) is needed")
    tasks = [
        task(frozen, row, n_mem=n_mem, seed=own_seed, init=None if init is None else init[i],
             length=len(row), scored_from=scored_from, tag=i, trace=trace)
        for i, (row, own_seed) in enumerate(zip(rows, seeds, strict=True))
    ]  # fmt: skip
    with threads(frozen):
        done = sorted(run(frozen, tasks, chosen, stop, compile=compile), key=lambda task: task.tag)
    last = [task.probes[-1] for task in done]
    return Fit(
        torch.stack([probe.mem for probe in last]) if last else torch.empty(0, n_mem, frozen.dim),
        *([getattr(probe, name) for probe in last]
          for name in ("status", "steps", "n_correct", "n_scored", "bits_min", "seconds", "curve")),
    )  # fmt: skip
