"""What a fit is while it runs and once it has ended: a text with its vector, and one record a length."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from capacity.files import whole_number
from capacity.fitting.recipes import Recipe
from capacity.models import Frozen


@dataclass(frozen=True)
class Curve:
    """What every scoring of one fit found, the last one included: steps + 1 entries."""

    right: list[int]  # scored positions right
    bits: list[float]  # surprisal of the scored positions, summed


@dataclass(frozen=True)
class Probe:
    """One fit of one text at one length, as it ended."""

    length: int  # tokens
    status: str  # one of rows.STATUSES
    steps: int  # optimiser steps at this length
    token_steps: int  # length * steps
    n_correct: int  # scored positions right, of the vector kept
    n_scored: int
    bits_min: float | None  # least bits of positions 2..N over the steps; None where the loss has none
    seconds: float  # of the batch's time, this text's share
    curve: Curve | None  # step by step, where it was asked for
    mem: Float[Tensor, "n_mem dim"]  # the vector that was scored, float32, on the CPU


@dataclass(eq=False)
class Task:
    """A text under way: its tokens, its vector with the optimiser's moments, what was seen of it, what came out so far.

    All bookkeeping of a fit is here; a batch keeps the tensors while the task is in one of its slots.
    """

    ids: list[int]
    length: int  # tokens of the prefix being fitted
    mem: Float[Tensor, "n_mem dim"]
    scored_from: int = 0  # 1: the first token is given
    budget: int | None = None  # token-steps for all its lengths together
    tag: Any = None  # the caller's own
    trace: bool = False  # keep a curve of every probe
    patience: int | None = None  # of a fit that a search gives up before the recipe would, with status `budget`
    first_moment: Tensor = field(init=False)
    second_moment: Tensor = field(init=False)
    updates: int = 0  # optimiser steps since the moments were zero
    token_steps: int = 0  # of the probes
    probes: list[Probe] = field(default_factory=list)
    # Of the fit at this length:
    steps: int = field(init=False)
    stale: int = field(init=False)  # consecutive steps without a rise in the number of right tokens
    best: int = field(init=False)  # scored positions right, at most; -1: not scored yet
    best_mem: Float[Tensor, "n_mem dim"] = field(init=False)  # the vector that had them right
    bits_min: float = field(init=False)  # least bits of positions 2..N over the steps; inf: not followed
    seconds: float = field(init=False)
    curve: Curve | None = field(init=False)

    def __post_init__(self):
        """Start the moments at zero."""
        self.begin(self.mem)
        self.restart()

    def begin(self, mem: Float[Tensor, "n_mem dim"]) -> None:
        """Start from this vector, with moments of zero."""
        self.mem = mem.detach().float().cpu().clone()
        self.first_moment, self.second_moment = torch.zeros_like(self.mem), torch.zeros_like(self.mem)
        self.updates = 0

    def restart(self) -> None:
        """Forget the best state: a new length begins, vector and moments are kept."""
        self.steps, self.stale, self.best, self.best_mem = 0, 0, -1, self.mem
        self.bits_min, self.seconds = float("inf"), 0.0
        self.curve = Curve([], []) if self.trace else None

    @property
    def n_scored(self) -> int:
        """The scored positions of this length."""
        return max(0, self.length - self.scored_from)

    @property
    def under_way(self) -> bool:
        """Whether its length is not the one that its last probe ended at."""
        return not self.probes or self.length != self.probes[-1].length

    def exact(self) -> list[Probe]:
        """Return the probes that were solved, in the order in which they were."""
        return [probe for probe in self.probes if probe.status == "solved"]

    def score(self, n_right: int, finite: bool, bits: float | None, rest_bits: float | None, seconds: float) -> bool:
        """Take in what one step found of the vector; return whether it is the best so far.

        n_right: scored positions right; bits, rest_bits: surprisal of the scored positions, and of those but t1, where
        it was followed; seconds: this text's share of the step.
        """
        better = finite and n_right > self.best
        self.best, self.stale = (n_right, 0) if better else (self.best, self.stale + 1)
        self.seconds += seconds
        if rest_bits is not None and rest_bits < self.bits_min:  # not where it is NaN
            self.bits_min = rest_bits
        if self.curve is not None and bits is not None:
            self.curve.right.append(n_right)
            self.curve.bits.append(bits)
        return better

    def spent(self) -> bool:
        """Return whether the budget is used up, the steps of the fit under way counted."""
        return self.budget is not None and self.token_steps + self.length * self.steps >= self.budget

    def ending(self, recipe: Recipe, n_right: int, finite: bool) -> str | None:
        """Return the status that the fit under way ends with, None while it goes on."""
        if not finite:
            return "diverged"
        if n_right == self.n_scored:
            return "solved"
        if self.spent():
            return "budget"
        if self.patience is not None and self.stale >= self.patience:
            return "budget"
        return "stalled" if self.stale >= recipe.patience or self.steps >= recipe.steps else None

    def close(self, status: str, mem: Float[Tensor, "n_mem dim"], recipe: Recipe) -> None:
        """End the fit under way: a probe more, with the vector that was its best."""
        token_steps = self.length * self.steps
        self.token_steps += token_steps
        self.probes.append(
            Probe(
                length=self.length, status=status, steps=self.steps, token_steps=token_steps,
                n_correct=max(0, self.best), n_scored=self.n_scored,
                bits_min=self.bits_min if recipe.loss == "cross_entropy" and np.isfinite(self.bits_min) else None,
                seconds=self.seconds, mem=mem.detach().cpu().clone(), curve=self.curve,
            )
        )  # fmt: skip

    def lengthen(self, length: int, right: np.ndarray, bits: np.ndarray | None) -> None:
        """Ask for a longer prefix; what the last step found of its positions (tokens,) holds for it, too."""
        self.length = length
        self.steps = self.stale = 0
        self.best = int(right[self.scored_from : length].sum())
        self.bits_min = float("inf") if bits is None else float(bits[1:length].sum())
        self.seconds = 0.0
        if self.curve is not None and bits is not None:
            self.curve = Curve([self.best], [float(bits[self.scored_from : length].sum())])


# What to do when a fit at one length has ended, solved, stalled or given up (its last probe says so): the next length,
# or None to end. `right` is how many leading tokens the same vector has right already, maybe more than were asked for.
# A longer length goes on from vector and moments as they are, a shorter one from the last exact vector.
Advance = Callable[[Task, int], int | None]


def start(frozen: Frozen, ids: Sequence[int], *, n_mem: int, seed: int) -> Float[Tensor, "n_mem dim"]:
    """Return a text's first vector: normal, with the standard deviation of the model's input embeddings.

    It follows from seed and text alone, so that it does not depend on the company.
    """
    material = np.asarray([seed % 2**32, *ids], dtype="<u4").tobytes()
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(material).digest()[:7], "little"))
    return torch.randn(n_mem, frozen.dim, generator=generator) * frozen.embedding_std


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
    checked(frozen)
    if scored_from not in (0, 1):
        raise ValueError(f"scored_from is {scored_from!r}; 0 (all tokens) and 1 (t1 given) are allowed")
    frozen.check_length(len(ids), whole_number("n_mem", n_mem, least=1))
    if not 0 <= min(ids) <= max(ids) < frozen.vocab_size:
        raise ValueError(f"token ids reach from {min(ids)} to {max(ids)}; 0 to {frozen.vocab_size - 1} are allowed")
    whole_number("seed", seed, least=0)
    first = start(frozen, ids, n_mem=n_mem, seed=seed) if init is None else init
    return Task(ids=list(ids), length=length, mem=first, scored_from=scored_from, budget=budget, tag=tag, trace=trace)


def checked(frozen: Any) -> Frozen:
    """Return the model; raises ValueError for what is none."""
    if not isinstance(frozen, Frozen):
        raise ValueError(f"{str(frozen)[:80]!r} is no model; give what models.load returns")
    return frozen


def rows_of_ids(ids: Any) -> list[list[int]]:
    """Return token ids as lists of whole numbers, one a text; raises ValueError for words, or for one text alone."""
    try:
        if isinstance(ids, str | bytes) or any(
            isinstance(entry, str | bytes) for row in ids for entry in (row, *(row if _many(row) else ()))
        ):
            raise ValueError(
                "a text is in place of token ids; fitting.cram takes one (as str), texts.encode makes ids of it"
            )
        return [[index(token) for token in row] for row in ids]
    except TypeError as error:
        raise ValueError(
            "ids are not rows of whole token ids; give one row a text, [[1, 2, 3]] for a single text; of a sample "
            "[text.ids for text in sample]"
        ) from error


def _many(row: Any) -> bool:
    return isinstance(row, list | tuple)
