"""The longest prefix of a text that its [mem] vectors give back: searched for, and decoded."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from capacity.decoding import Ended, all_decoded_back
from capacity.files import whole_number
from capacity.fitting.engine import run
from capacity.fitting.parallel import threads
from capacity.fitting.recipes import Recipe
from capacity.fitting.recipes import recipe as named
from capacity.fitting.search import BUDGET, SEARCHES, censored, first_length
from capacity.fitting.tasks import Probe, Task, checked, rows_of_ids, task
from capacity.models import Frozen


@dataclass(frozen=True)
class Longest:
    """What a search found of one text."""

    length: int  # exact length: the longest prefix that is decoded, tokens; 0 if none
    mem: Float[Tensor, "n_mem dim"] | None  # its vector; None if no prefix was decoded
    probes: list[Probe]  # every fit, in the order in which it ended
    token_steps: int  # spent in all
    censored: bool  # the text's end or the budget came before a length that fails

    def __repr__(self) -> str:
        size = "no vector" if self.mem is None else f"{self.mem.shape[0]} vector{'s' * (self.mem.shape[0] > 1)}"
        bound, fits = ", or more" if self.censored else "", f"{len(self.probes)} fit{'s' * (len(self.probes) != 1)}"
        return f"Longest({self.length} tokens{bound}; {size}, {fits}, {self.token_steps} token-steps)"


def exact_length(
    frozen: Frozen,
    ids: Int[Tensor, "batch tokens"] | Sequence[Sequence[int]],
    recipe: Recipe | str,
    *,
    n_mem: int = 1,
    seed: int = 0,
    budget: int = BUDGET,
    scored_from: int = 0,
    search: str = "grow",
    compile: bool | str = False,
    stepped: Callable[[int, int], object] = lambda token_steps, held: None,
) -> list[Longest]:
    """Return what was found of each text, in the order given, each at its own length, all texts at once.

    Args:
        frozen: the model.
        ids: token ids, one row a text; no prefix longer than a row is tried.
        recipe: how to optimise, or the name of one of RECIPES; its `steps` and `patience` hold for one length.
        n_mem: vectors a text.
        seed: of the start.
        budget: token-steps (length x optimiser steps, summed over lengths) a text.
        scored_from: 0 to predict t1 too, 1 to have it given.
        search: a key of SEARCHES.
        compile: see engine.run.
        stepped: gets the token-steps of each step, all texts' together, and the longest prefix that was right by then.

    Raises ValueError for a search that does not exist, or as `fitting.task`.
    """
    if search not in SEARCHES:
        raise ValueError(f"unknown search {search!r}; known are {', '.join(SEARCHES)}")
    checked(frozen)
    chosen = named(recipe)
    rows = rows_of_ids(ids)
    held, advance = 0, SEARCHES[search]

    def advanced(task: Task, right: int) -> int | None:
        nonlocal held
        held = max([held, *(probe.length for probe in task.exact()[-1:])])
        return advance(task, right)

    def told(token_steps: int) -> None:
        stepped(token_steps, held)

    begun = tasks(frozen, rows, n_mem=n_mem, seed=seed, budget=budget, scored_from=scored_from)
    with threads(frozen):
        ended = sorted(run(frozen, begun, chosen, advanced, compile=compile, stepped=told), key=lambda task: task.tag)
        return longest(frozen, ended)


def longest(frozen: Frozen, ended: Sequence[Task]) -> list[Longest]:
    """Return what ended searches found: the last exact probe of each that decodes whole, free-running.

    Where none does, the one that gives most tokens back.
    """
    # In every search the last is the longest.
    exact = [[(probe.length, probe.mem) for probe in search.exact()] for search in ended]
    tried = [Ended(search.ids, own, search.scored_from) for search, own in zip(ended, exact, strict=True)]
    results = []
    for search, own, decoded in zip(ended, exact, all_decoded_back(frozen, tried), strict=True):
        given = [(tokens, mem) for tokens, (_, mem) in zip(decoded, own, strict=True) if tokens is not None]
        length, mem = max(given, key=lambda got: got[0], default=(0, None))
        results.append(Longest(length, mem, search.probes, search.token_steps, censored(search)))
    return results


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
    whole_number("budget", budget, least=1)
    for index, row in enumerate(ids):
        yield task(
            frozen, row, n_mem=n_mem, seed=seed, length=min(len(row), first_length(scored_from)),
            scored_from=scored_from, budget=budget, tag=index,
        )  # fmt: skip
