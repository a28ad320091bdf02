"""Fits of [mem] vectors to texts: at their full length, or at the longest that fits."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from capacity.decoding import decoded_back
from capacity.fitting.engine import run
from capacity.fitting.losses import LOSSES
from capacity.fitting.memory import Shape, peak_bytes, predicted_bytes, rows_of_chunk, total_bytes
from capacity.fitting.recipes import RECIPES, Recipe, recipe
from capacity.fitting.search import BUDGET, SEARCHES, censored, first_length, stop
from capacity.fitting.slots import shape_of
from capacity.fitting.tasks import Advance, Curve, Probe, Task, start, task
from capacity.models import Frozen, is_exhausted
from capacity.texts import encode

__all__ = [
    "BUDGET", "LOSSES", "RECIPES", "SEARCHES", "Advance", "Crammed", "Curve", "Fit", "Longest", "Probe", "Recipe",
    "Shape", "Task", "cram", "doubling", "exact_length", "first_length", "fit", "is_exhausted", "peak_bytes",
    "predicted_bytes", "recipe", "rows_of_chunk", "run", "shape_of", "start", "stop", "task", "total_bytes",
]  # fmt: skip


_SMALL = 10_000_000  # parameters


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
        run(frozen, tasks, recipe, stop, compile=compile),
        key=lambda task: task.tag,
    )
    last = [task.probes[-1] for task in done]
    return Fit(
        torch.stack([probe.mem for probe in last]) if last else torch.empty(0, n_mem, frozen.dim),
        *([getattr(probe, name) for probe in last]
          for name in ("status", "steps", "n_correct", "n_scored", "bits_min", "seconds", "curve")),
    )  # fmt: skip


@dataclass(frozen=True)
class Longest:
    """What a search found of one text."""

    length: int  # exact length: the longest prefix that is decoded, tokens; 0 if none
    mem: Float[Tensor, "n_mem dim"] | None  # its vector; None if no prefix was decoded
    probes: list[Probe]  # every fit, in the order in which it ended
    token_steps: int  # spent in all
    censored: bool  # the text's end or the budget came before a length that fails


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
) -> list[Longest]:
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
        run(frozen, begun, recipe, SEARCHES[search], compile=compile),
        key=lambda task: task.tag,
    )
    return [longest(frozen, task) for task in ended]


def doubling(
    frozen: Frozen,
    ids: Sequence[int],
    recipe: Recipe,
    *,
    seed: int = 0,
    budget: int = BUDGET,
    scored_from: int = 0,
) -> Iterator[tuple[int, Longest]]:
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
        room = frozen.room(n_mem)
        if one.length == len(ids) or n_mem >= len(ids) or (room is not None and len(ids) > room):
            return


@dataclass(frozen=True)
class Crammed:
    """One text in as many [mem] vectors as it took, or in those that were allowed."""

    ids: tuple[int, ...]  # the text's tokens
    n_mem: int  # vectors of the last try
    found: Longest  # of the last try
    given: tuple[int, ...]  # leading tokens that the decoder gets beside the vectors

    @property
    def mem(self) -> Float[Tensor, "n_mem dim"] | None:
        """The vectors, float32; None where no prefix was decoded."""
        return self.found.mem

    @property
    def complete(self) -> bool:
        """Whether the whole text is decoded."""
        return self.found.length == len(self.ids)

    @property
    def spent(self) -> bool:
        """Whether the budget ended the search, so that a larger one may find more; False where the fits failed."""
        return not self.complete and self.found.censored

    def __repr__(self) -> str:
        share = "all" if self.complete else f"{self.found.length} of"
        vectors = f"{self.n_mem} vector{'s' * (self.n_mem > 1)}"
        return f"Crammed({share} {len(self.ids)} tokens in {vectors}, {self.found.token_steps} token-steps)"


def cram(
    text: str | Sequence[int],
    frozen: Frozen,
    how: Recipe | str = "default",
    *,
    n_mem: int | None = None,
    seed: int = 0,
    budget: int = BUDGET,
    given: int = 0,
    watch: Callable[[Crammed], None] = lambda crammed: None,
) -> Crammed:
    """Return one text as [mem] vectors from which alone the model gives it back, if it fits.

    A small model on the CPU is run on one thread: as fast alone, and far faster where the processor is shared.

    Args:
        text: the text, or its token ids.
        frozen: the model.
        how: a recipe, or the name of one.
        n_mem: vectors; None: 1, 2, 4, ... until the text is decoded (see `doubling`).
        seed: of the start.
        budget: token-steps for each vector.
        given: leading tokens that the decoder gets: 0, or 1 as in the paper.
        watch: gets what each number of vectors came to, as soon as it is there.

    Raises ValueError for a text that is empty, past the context or not of this vocabulary, as `texts.encode`, and as
    `exact_length`.
    """
    if given not in (0, 1):
        raise ValueError(f"given is {given}; 0 or 1 tokens can be given")
    ids = encode(frozen.tokenizer, text, least=1 + given) if isinstance(text, str) else [int(token) for token in text]
    frozen.check_length(len(ids), 1 if n_mem is None else n_mem)
    chosen = recipe(how) if isinstance(how, str) else how
    crammed = None
    with _threads(frozen):
        if n_mem is None:
            tries = doubling(frozen, ids, chosen, seed=seed, budget=budget, scored_from=given)
        else:
            (one,) = exact_length(
                frozen, [ids], chosen, n_mem=n_mem, seed=seed, budget=budget * n_mem, scored_from=given
            )
            tries = iter([(n_mem, one)])
        for number, one in tries:
            crammed = Crammed(tuple(ids), number, one, tuple(ids[:given]))
            watch(crammed)
    assert crammed is not None  # there is a first try
    return crammed


@contextmanager
def _threads(frozen: Frozen) -> Iterator[None]:
    """Run a small model on the CPU on one thread, then as many as before."""
    before = torch.get_num_threads()
    small = frozen.device.type == "cpu" and frozen.model.num_parameters() < _SMALL
    torch.set_num_threads(1 if small else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def longest(frozen: Frozen, task: Task) -> Longest:
    """Return what an ended search found: its last exact probe that decodes whole, each decoded alone, free-running.

    Where none does, the one that gives most tokens back.
    """
    exact = [(probe.length, probe.mem) for probe in task.exact()]  # in every search the last is the longest
    decoded = decoded_back(frozen, exact, task.ids, scored_from=task.scored_from)
    given = [(tokens, mem) for tokens, (_, mem) in zip(decoded, exact, strict=True) if tokens is not None]
    length, mem = max(given, key=lambda one: one[0], default=(0, None))
    return Longest(length, mem, task.probes, task.token_steps, censored(task))


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
