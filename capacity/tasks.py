"""What a fit is while it runs and once it has ended: a text with its vector, and one record a length."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


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
    """A text under way: its tokens, its vector with the optimiser's moments, and what came out so far."""

    ids: list[int]
    length: int  # tokens of the prefix being fitted
    mem: Float[Tensor, "n_mem dim"]
    budget: int | None = None  # token-steps for all its lengths together
    tag: Any = None  # the caller's own
    trace: bool = False  # keep a curve of every probe
    first_moment: Tensor = field(init=False)
    second_moment: Tensor = field(init=False)
    updates: int = 0  # optimiser steps since the moments were zero
    token_steps: int = 0
    probes: list[Probe] = field(default_factory=list)

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
    def under_way(self) -> bool:
        """Whether its length is not the one that its last probe ended at."""
        return not self.probes or self.length != self.probes[-1].length

    def exact(self) -> list[Probe]:
        """Return the probes that were solved, in the order in which they were."""
        return [probe for probe in self.probes if probe.status == "solved"]


# What to do when a fit at one length has ended, solved or stalled (its last probe says so): the next length, or None to
# end. `right` is how many leading tokens the same vector has right already, maybe more than were asked for. A longer
# length goes on from vector and moments as they are, a shorter one from the last exact vector.
Advance = Callable[[Task, int], int | None]
