"""Fits of texts at their full length, by a recipe; the loop itself is `engine`."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from capacity.engine import run
from capacity.models import Frozen
from capacity.recipes import RECIPES, Recipe, recipe
from capacity.tasks import Curve, Task

__all__ = ["RECIPES", "Fit", "Recipe", "fit", "recipe", "start", "task"]


def start(frozen: Frozen, ids: Sequence[int], *, n_mem: int, seed: int) -> Float[Tensor, "n_mem dim"]:
    """Return a text's first vector: normal, with the standard deviation of the model's input embeddings.

    It follows from seed and text alone, so that it does not depend on the company.
    """
    material = np.asarray([seed % 2**32, *ids], dtype="<u4").tobytes()
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(material).digest()[:7], "little"))
    return torch.randn(n_mem, frozen.dim, generator=generator) * frozen.embedding_std


@dataclass(frozen=True)
class Fit:
    """The result of `fit`: one entry a text, in the order given."""

    mem: Float[Tensor, "batch n_mem dim"]  # the best vectors, each as it was scored, float32, on the CPU
    status: list[str]  # solved, stalled, budget, diverged
    steps: list[int]  # optimiser steps
    n_correct: list[int]  # scored positions right
    n_scored: list[int]
    bits_min: list[float | None]  # least bits of positions 2..N over the steps; None where the loss has none
    seconds: list[float]
    curve: list[Curve | None]  # None without `trace`


def fit(
    frozen: Frozen,
    ids: Int[Tensor, "batch tokens"] | Sequence[Sequence[int]],
    recipe: Recipe,
    *,
    n_mem: int = 1,
    seed: int | Sequence[int] = 0,
    init: Float[Tensor, "batch n_mem dim"] | None = None,
    scored_from: int = 0,
    trace: bool = False,
    compile: bool = False,
) -> Fit:
    """Return the [mem] vectors of texts at their full length.

    Args:
        frozen: the model.
        ids: token ids, one row a text; rows of a list may differ in length.
        recipe: how to optimise, one of RECIPES or your own.
        n_mem: vectors a text.
        seed: of the start; one for all texts or one a text (restarts are the same text with several seeds).
        init: the start itself, instead of `seed`.
        scored_from: 0 to predict t1 too, 1 to have it given (the paper's).
        trace: keep the curve of every text (right tokens and bits at every step).
        compile: see engine.run.

    Raises ValueError for an empty or too long text, ids outside the vocabulary, or arguments of other shapes.
    """
    rows = [[int(token) for token in row] for row in ids]
    seeds = [seed] * len(rows) if isinstance(seed, int) else list(seed)
    if len(seeds) != len(rows):
        raise ValueError(f"{len(seeds)} seeds for {len(rows)} texts; give one, or one a text")
    if init is not None and tuple(init.shape) != (len(rows), n_mem, frozen.dim):
        raise ValueError(f"init has shape {tuple(init.shape)}; ({len(rows)}, {n_mem}, {frozen.dim}) is needed")
    tasks = [
        task(frozen, row, n_mem=n_mem, seed=one, init=None if init is None else init[i],
             length=len(row), scored_from=scored_from, tag=i, trace=trace)
        for i, (row, one) in enumerate(zip(rows, seeds, strict=True))
    ]  # fmt: skip
    done = sorted(
        run(frozen, tasks, recipe, lambda *_: None, scored_from=scored_from, compile=compile),
        key=lambda task: task.tag,
    )
    last = [task.probes[-1] for task in done]
    return Fit(
        torch.stack([probe.mem for probe in last]) if last else torch.empty(0, n_mem, frozen.dim),
        *([getattr(probe, name) for probe in last]
          for name in ("status", "steps", "n_correct", "n_scored", "bits_min", "seconds", "curve")),
    )  # fmt: skip


def task(
    frozen: Frozen,
    ids: Sequence[int],
    *,
    n_mem: int,
    seed: int,
    length: int,
    scored_from: int,
    init: Float[Tensor, "n_mem dim"] | None = None,
    budget: int | None = None,
    tag: Any = None,
    trace: bool = False,
) -> Task:
    """Return a checked task: `ids` to be fitted, at first up to `length` tokens.

    Raises ValueError for an empty or too long text, a token outside the vocabulary, or `scored_from` not 0 or 1.
    """
    if scored_from not in (0, 1):
        raise ValueError(f"scored_from is {scored_from!r}; 0 (all tokens) and 1 (t1 given) are allowed")
    frozen.check_length(len(ids), n_mem)
    if not 0 <= min(ids) <= max(ids) < frozen.vocab_size:
        raise ValueError(f"token ids reach from {min(ids)} to {max(ids)}; 0 to {frozen.vocab_size - 1} are allowed")
    first = start(frozen, ids, n_mem=n_mem, seed=seed) if init is None else init
    return Task(ids=list(ids), length=length, mem=first, budget=budget, tag=tag, trace=trace)
