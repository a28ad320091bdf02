"""The hot loop: many texts under way at once, each with its own vector, optimiser state, length and end.

Texts wait in a queue for each bucket of lengths; a bucket has a fixed number of slots, of which idle ones hold
dummies, so the shapes of every call are fixed and a text's result is the same bits alone and in any company.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from capacity.losses import GRADIENTS, LOSSES, cross_entropy
from capacity.models import Frozen
from capacity.recipes import Recipe


@dataclass(frozen=True)
class Curve:
    """What every scoring of one fit found, the last one included: steps + 1 entries."""

    right: list[int]  # scored positions right
    bits: list[float]  # surprisal of the scored positions, summed


@dataclass(frozen=True)
class Probe:
    """One fit of one text at one length, as it ended."""

    length: int  # tokens
    status: str  # solved, stalled, budget, diverged
    steps: int  # optimiser steps at this length
    token_steps: int  # length * steps
    n_correct: int  # scored positions right, of the vector kept
    n_scored: int
    bits_min: float | None  # least bits of positions 2..N over the steps; None where the loss has none
    seconds: float  # of the batch's time, this text's share
    curve: "Curve | None"  # step by step, where it was asked for
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
    updates: int = 0  # optimiser steps over all lengths
    token_steps: int = 0
    probes: list[Probe] = field(default_factory=list)

    def __post_init__(self):
        """Start the moments at zero."""
        self.mem = self.mem.detach().float().cpu().clone()
        self.first_moment, self.second_moment = torch.zeros_like(self.mem), torch.zeros_like(self.mem)
        self.restart()

    def restart(self) -> None:
        """Forget the best state: a new length begins, vector and moments are kept."""
        self.steps, self.stale, self.best, self.best_mem = 0, 0, -1, self.mem
        self.bits_min, self.seconds = float("inf"), 0.0
        self.curve = Curve([], []) if self.trace else None


# What to do when a text's prefix is exact: its new length, or None to end. `right` is how many leading tokens the same
# vector has right already, maybe more than were asked for.
Advance = Callable[[Task, int], int | None]


def bucket_of(length: int) -> int:
    """Return the padded length that `length` tokens run at: the next multiple of 4, above 16 of 8, above 64 of 32."""
    unit = 4 if length <= 16 else 8 if length <= 64 else 32
    return -(-length // unit) * unit


def slots_of(bucket: int, device: torch.device) -> int:
    """Return how many texts run at once at a padded length: a fixed number, between 8 and 32 on a processor."""
    positions, most = (256, 32) if device.type == "cpu" else (16384, 256)
    return min(most, max(8, positions // bucket))


class Batch:
    """The slots of one bucket: tasks enter and leave, every step is one call of the model for all of them."""

    def __init__(self, frozen: Frozen, recipe: Recipe, *, n_mem: int, bucket: int, scored_from: int):
        self.frozen, self.recipe, self.n_mem, self.bucket = frozen, recipe, n_mem, bucket
        device, n = frozen.device, slots_of(bucket, frozen.device)
        self.scored_from = scored_from
        self.tasks: list[Task | None] = [None] * n
        self.mem, self.first, self.second = (torch.zeros(n, n_mem, frozen.dim, device=device) for _ in range(3))
        self.best_mem = torch.zeros_like(self.mem)
        self.targets = torch.zeros(n, bucket, dtype=torch.long, device=device)
        self.context = frozen.embed(self.targets[:, :-1]).clone()
        self.positions = np.arange(bucket)
        # Bookkeeping of a slot, on the host; `size` is what exists of the text in this bucket, `length` what is asked.
        self.length, self.size, self.updates, self.steps, self.stale, self.best = (np.zeros(n, int) for _ in range(6))
        self.best -= 1
        self.bits_min = np.full(n, np.inf)
        self.seconds = np.zeros(n)
        self.dirty = True  # the weights of the positions are to be made again

    @property
    def free(self) -> list[int]:
        """The idle slots."""
        return [slot for slot, task in enumerate(self.tasks) if task is None]

    def put(self, slot: int, task: Task) -> None:
        """Let a task into an idle slot, with its state as it left the last one."""
        size = min(len(task.ids), self.bucket)
        self.tasks[slot] = task
        ids = torch.tensor(task.ids[:size])
        self.targets[slot] = 0
        self.targets[slot, :size] = ids
        self.context[slot] = self.frozen.embed(self.targets[slot : slot + 1, :-1])[0]
        for whole, own in self._state(task):
            whole[slot] = own
        self.length[slot], self.size[slot], self.updates[slot] = task.length, size, task.updates
        self.steps[slot], self.stale[slot], self.best[slot] = task.steps, task.stale, task.best
        self.bits_min[slot], self.seconds[slot], self.dirty = task.bits_min, task.seconds, True

    def _state(self, task: Task) -> list[tuple[Tensor, Tensor]]:
        return [
            (self.mem, task.mem), (self.first, task.first_moment),
            (self.second, task.second_moment), (self.best_mem, task.best_mem),
        ]  # fmt: skip

    def take(self, slot: int) -> Task:
        """Take a task out, with its state; the slot goes on as a dummy."""
        task = self.tasks[slot]
        assert task is not None
        task.mem, task.first_moment, task.second_moment, task.best_mem = (
            whole[slot].detach().cpu().clone() for whole, _ in self._state(task)
        )
        task.updates, task.steps = int(self.updates[slot]), int(self.steps[slot])
        task.stale, task.best = int(self.stale[slot]), int(self.best[slot])
        task.bits_min, task.seconds = float(self.bits_min[slot]), float(self.seconds[slot])
        self.tasks[slot], self.length[slot], self.dirty = None, 0, True
        return task

    def _weights(self) -> None:
        scored = (self.positions >= self.scored_from) & (self.positions < self.length[:, None])
        self.scored, self.n_scored, self.dirty = scored, scored.sum(1), False
        weights = scored / np.maximum(self.n_scored, 1)[:, None]
        self.weights = torch.from_numpy(weights.astype(np.float32)).to(self.frozen.device)

    def step(self, advance: Advance) -> list[Task]:
        """Score all slots, end or lengthen those that are done, move the others; return the tasks that left.

        A task that left unfinished (its new length lies in another bucket) has no end in its last probe's length.
        """
        started = time.perf_counter()
        frozen, recipe = self.frozen, self.recipe
        mem = self.mem.detach().requires_grad_()
        with torch.enable_grad():
            hidden = frozen.hidden(torch.cat([mem.to(self.context.dtype), self.context], dim=1))[:, self.n_mem - 1 :]
        with torch.no_grad():
            logits = frozen.head(hidden).float()
            right = (logits.argmax(-1) == self.targets).cpu().numpy() & (self.positions < self.size[:, None])
            finite = torch.isfinite(mem).all((1, 2)) & torch.isfinite(hidden).all((1, 2))
            finite = finite.cpu().numpy()
            bits = None
            if recipe.loss == "cross_entropy" or any(task is not None and task.trace for task in self.tasks):
                bits = cross_entropy(logits, self.targets).double().cpu().numpy() / np.log(2)
        left = self._settle(right, finite, bits, advance)
        if any(task is not None for task in self.tasks):
            if self.dirty:
                self._weights()
            self._update(mem, hidden, logits)
        self.seconds += (time.perf_counter() - started) / max(1, len(self.tasks) - len(self.free))
        return left

    def _settle(self, right, finite, bits, advance: Advance) -> list[Task]:
        """Keep the best vectors, and let go of every task whose fit at its length has ended."""
        if self.dirty:
            self._weights()
        count = (right & self.scored).sum(1)
        rise = (count > self.best) & finite
        if rise.any():
            chosen = torch.from_numpy(rise).to(self.mem.device)[:, None, None]
            self.best_mem = torch.where(chosen, self.mem.detach(), self.best_mem)
        self.best = np.where(rise, count, self.best)
        self.stale = np.where(rise, 0, self.stale + 1)
        if bits is not None:
            counted = self.scored & (self.positions >= 1)
            self.bits_min = np.fmin(self.bits_min, np.where(counted, bits, 0.0).sum(1))
        recipe = self.recipe
        solved = finite & (count == self.n_scored)
        ended = solved | ~finite | (self.stale >= recipe.patience) | (self.steps >= recipe.steps)
        left = []
        for slot, task in enumerate(self.tasks):
            if task is None:
                continue
            if task.curve is not None and bits is not None:
                task.curve.right.append(int(count[slot]))
                task.curve.bits.append(float(bits[slot, self.scored[slot]].sum()))
            spent = task.token_steps + int(self.length[slot] * self.steps[slot])
            broke = task.budget is not None and spent >= task.budget
            if not (ended[slot] or broke):
                continue
            status = "solved" if solved[slot] else "diverged" if not finite[slot] else "stalled"
            if status == "stalled" and (broke or self.steps[slot] >= recipe.steps):
                status = "budget"
            self._end(slot, task, status)
            wrong = np.flatnonzero(~right[slot, self.scored_from : self.size[slot]])
            leading = int(wrong[0]) + self.scored_from if len(wrong) else int(self.size[slot])
            longer = advance(task, leading) if status == "solved" else None
            while longer is not None and longer <= leading:  # exact at the new length too: one more probe, no step
                self._lengthen(slot, task, longer, right, bits)
                self._end(slot, task, status)
                longer = advance(task, leading)
            if longer is not None and longer <= self.bucket:
                self._lengthen(slot, task, longer, right, bits)
                continue
            self.take(slot)
            if longer is not None:
                task.length = longer
                task.restart()
            left.append(task)
        return left

    def _lengthen(self, slot: int, task: Task, length: int, right, bits) -> None:
        """Ask a text for a longer prefix of the bucket; the logits of this step hold for it too."""
        scored = (self.positions >= self.scored_from) & (self.positions < length)
        task.length = self.length[slot] = length
        self.steps[slot] = self.stale[slot] = 0
        self.n_scored[slot], self.best[slot] = scored.sum(), (right[slot] & scored).sum()
        self.bits_min[slot] = np.inf if bits is None else bits[slot, 1:length].sum()
        self.seconds[slot], self.dirty = 0.0, True
        if task.curve is not None and bits is not None:
            task.curve = Curve([int(self.best[slot])], [float(bits[slot, scored].sum())])

    def _end(self, slot: int, task: Task, status: str) -> None:
        length, steps = int(self.length[slot]), int(self.steps[slot])
        least = float(self.bits_min[slot])
        task.token_steps += length * steps
        task.probes.append(
            Probe(
                length=length, status=status, steps=steps, token_steps=length * steps,
                n_correct=max(0, int(self.best[slot])), n_scored=int(self.n_scored[slot]),
                bits_min=least if self.recipe.loss == "cross_entropy" and np.isfinite(least) else None,
                seconds=float(self.seconds[slot]), mem=self.best_mem[slot].detach().cpu().clone(),
                curve=task.curve,
            )
        )  # fmt: skip

    def _update(self, mem: Tensor, hidden: Tensor, logits: Tensor) -> None:
        """Move every vector by AdamW, with its own count of updates (decoupled weight decay, as torch.optim.AdamW)."""
        frozen, recipe = self.frozen, self.recipe
        if frozen.weight is not None:
            with torch.no_grad():
                slope = GRADIENTS[recipe.loss](logits, self.targets, recipe.margin, frozen.weight.float())
                slope = (slope * self.weights.unsqueeze(-1)).to(hidden.dtype)
        else:
            leaf = hidden.detach().float().requires_grad_()
            with torch.enable_grad():
                loss = LOSSES[recipe.loss](frozen.head(leaf), self.targets, recipe.margin)
                slope = torch.autograd.grad((loss * self.weights).sum(), leaf)[0].to(hidden.dtype)
        (gradient,) = torch.autograd.grad(hidden, mem, slope)
        with torch.no_grad():
            self.steps += 1
            self.updates += 1
            one, two = recipe.betas
            self.first.lerp_(gradient, 1 - one)
            self.second.mul_(two).addcmul_(gradient, gradient, value=1 - two)
            host = torch.from_numpy(self.updates.astype(np.float64)).to(mem.device)[:, None, None]
            rate, root = (recipe.lr / (1 - one**host)).float(), (1 - two**host).sqrt().float()
            moved = mem.detach() * (1 - recipe.lr * recipe.weight_decay)
            self.mem = moved - rate * self.first / (self.second.sqrt() / root + recipe.eps)


def run(
    frozen: Frozen,
    tasks: Iterable[Task],
    recipe: Recipe,
    advance: Advance,
    *,
    scored_from: int = 0,
) -> Iterator[Task]:
    """Yield each task as it ends, its probes filled in; the order depends on the tasks, their results do not.

    The bucket with the most tasks runs until it is half empty and another has more; who waits enters as others leave.
    """
    waiting: dict[tuple[int, int], list[Task]] = {}

    def enqueue(task: Task) -> None:
        waiting.setdefault((task.mem.shape[0], bucket_of(task.length)), []).append(task)

    for task in tasks:
        enqueue(task)
    while waiting:
        n_mem, bucket = max(waiting, key=lambda shape: (len(waiting[shape]), -shape[1]))
        queue = waiting.pop((n_mem, bucket))[::-1]
        batch = Batch(frozen, recipe, n_mem=n_mem, bucket=bucket, scored_from=scored_from)
        while True:
            for slot in batch.free[: len(queue)]:
                batch.put(slot, queue.pop())
            under_way = len(batch.tasks) - len(batch.free)
            others = max((len(tasks) for tasks in waiting.values()), default=0)
            if not under_way or (under_way <= len(batch.tasks) // 2 and others > under_way and not queue):
                break
            for task in batch.step(advance):
                if task.length == task.probes[-1].length:
                    yield task
                else:
                    enqueue(task)
        for slot, task in enumerate(batch.tasks):
            if task is not None:
                enqueue(batch.take(slot))
