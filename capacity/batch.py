"""The slots of one bucket of lengths: tasks enter and leave, every step is one call of the model for all of them."""

import time
from functools import partial

import numpy as np
import torch
from torch import Tensor

from capacity import stepping
from capacity.models import Frozen
from capacity.recipes import Recipe
from capacity.stepping import State
from capacity.tasks import Advance, Curve, Probe, Task


class Batch:
    """A fixed number of slots at one padded length; idle ones hold dummies, so that the shapes never change."""

    def __init__(
        self,
        frozen: Frozen,
        recipe: Recipe,
        *,
        n_mem: int,
        bucket: int,
        slots: int,
        scored_from: int,
        compile: bool = False,
    ):
        self.frozen, self.recipe, self.bucket, self.scored_from = frozen, recipe, bucket, scored_from
        self.n_mem, self.compile = n_mem, compile
        device = frozen.device
        self.tasks: list[Task | None] = [None] * slots
        blank = partial(torch.zeros, slots, n_mem, frozen.dim, device=device)
        self.state = State(blank(), blank(), blank(), torch.zeros(slots, device=device))
        self.best_mem = blank()
        self.targets = torch.zeros(slots, bucket, dtype=torch.long, device=device)
        self.context = frozen.embed(self.targets[:, :-1]).clone()
        self.positions = np.arange(bucket)
        # Bookkeeping of a slot, on the host; `size` is what exists of the text in this bucket, `length` what is asked.
        self.length, self.size, self.steps, self.stale, self.best = (np.zeros(slots, int) for _ in range(5))
        self.best -= 1
        self.bits_min = np.full(slots, np.inf)
        self.seconds = np.zeros(slots)
        self.dirty = True  # the weights of the positions are to be made again

    @property
    def free(self) -> list[int]:
        """The idle slots."""
        return [slot for slot, task in enumerate(self.tasks) if task is None]

    @property
    def under_way(self) -> int:
        """How many slots hold a task."""
        return sum(task is not None for task in self.tasks)

    def put(self, slot: int, task: Task) -> None:
        """Let a task into an idle slot, with its state as it left the last one."""
        size = min(len(task.ids), self.bucket)
        self.targets[slot] = 0
        self.targets[slot, :size] = torch.tensor(task.ids[:size])
        self.context[slot] = self.frozen.embed(self.targets[slot : slot + 1, :-1])[0]
        for whole, own in self._state(task):
            whole[slot] = own
        self.state.updates[slot] = task.updates
        self.length[slot], self.size[slot] = task.length, size
        self.steps[slot], self.stale[slot], self.best[slot] = task.steps, task.stale, task.best
        self.bits_min[slot], self.seconds[slot], self.dirty = task.bits_min, task.seconds, True
        self.tasks[slot] = task

    def _state(self, task: Task) -> list[tuple[Tensor, Tensor]]:
        return [
            (self.state.mem, task.mem), (self.state.first, task.first_moment),
            (self.state.second, task.second_moment), (self.best_mem, task.best_mem),
        ]  # fmt: skip

    def take(self, slot: int) -> Task:
        """Take a task out, with its state; the slot goes on as a dummy."""
        task = self.tasks[slot]
        assert task is not None
        task.mem, task.first_moment, task.second_moment, task.best_mem = (
            whole[slot].detach().cpu().clone() for whole, _ in self._state(task)
        )
        task.updates, task.steps = int(self.state.updates[slot]), int(self.steps[slot])
        task.stale, task.best = int(self.stale[slot]), int(self.best[slot])
        task.bits_min, task.seconds = float(self.bits_min[slot]), float(self.seconds[slot])
        self.tasks[slot], self.length[slot], self.dirty = None, 0, True
        return task

    def _weigh(self) -> None:
        """Make the weights of the positions again: the mean over those that are scored, zero elsewhere."""
        scored = (self.positions >= self.scored_from) & (self.positions < self.length[:, None])
        self.scored, self.n_scored, self.dirty = scored, scored.sum(1), False
        weights = scored / np.maximum(self.n_scored, 1)[:, None]
        self.weights = torch.from_numpy(weights.astype(np.float32)).to(self.frozen.device)

    def _move(self) -> stepping.Moved:
        follow = self.recipe.loss == "cross_entropy" or any(task is not None and task.trace for task in self.tasks)
        options = {"n_mem": self.n_mem, "follow_bits": follow}
        inputs = (self.state, self.context, self.targets, self.weights)
        if self.compile:
            return stepping.compiled(self.frozen, self.recipe, like=inputs, **options)(*inputs)
        return stepping.step(self.frozen, self.recipe, **options)(*inputs)

    def step(self, advance: Advance) -> list[Task]:
        """Score all slots and move them, then let go of those that are done; return the tasks that left.

        A task that leaves keeps the vector from before the move. One that goes on, at a new length, keeps the move,
        which was made for the old length. Out of memory, it raises with every task as it was before the step.
        """
        started = time.perf_counter()
        if self.dirty:
            self._weigh()
        moved = self._move()
        right = moved.right.cpu().numpy() & (self.positions < self.size[:, None])
        bits = None if moved.bits is None else moved.bits.double().cpu().numpy() / np.log(2)
        left = self._settle(right, moved.finite.cpu().numpy(), bits, advance)
        self.state = moved.state
        self.steps += 1
        self.seconds += (time.perf_counter() - started) / max(1, self.under_way)
        return left

    def _settle(self, right, finite, bits, advance: Advance) -> list[Task]:
        """Keep the best vectors, and let go of every task whose fit at its length has ended."""
        count = (right & self.scored).sum(1)
        rise = (count > self.best) & finite
        if rise.any():
            chosen = torch.from_numpy(rise).to(self.best_mem.device)[:, None, None]
            self.best_mem = torch.where(chosen, self.state.mem, self.best_mem)
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
            if broke and status == "stalled":
                status = "budget"
            wrong = np.flatnonzero(~right[slot, self.scored_from : self.size[slot]])
            leading = int(wrong[0]) + self.scored_from if len(wrong) else int(self.size[slot])
            if not self._follow(slot, task, status, leading, broke, right, bits, advance):
                left.append(task)
        return left

    def _follow(self, slot: int, task: Task, status: str, leading: int, broke: bool, right, bits, advance) -> bool:
        """End a fit, and go on in this slot if its next length is one of this bucket; return whether it does."""
        self._end(slot, task, status)
        following = advance(task, leading) if status in ("solved", "stalled") else None
        while following is not None and task.length < following <= leading:  # exact there, too: a probe, but no step
            self._lengthen(slot, task, following, right, bits)
            self._end(slot, task, status)
            following = advance(task, leading)
        if following is None or broke:
            self.take(slot)
            return False
        if task.length < following <= self.bucket:
            self._lengthen(slot, task, following, right, bits)
            return True
        self.take(slot)
        if following < task.length and task.exact():
            task.begin(task.exact()[-1].mem)
        task.length = following
        task.restart()
        return False

    def _lengthen(self, slot: int, task: Task, length: int, right, bits) -> None:
        """Ask a text for a longer prefix of the bucket; what this step found holds for it too."""
        scored = (self.positions >= self.scored_from) & (self.positions < length)
        task.length = self.length[slot] = length
        self.steps[slot] = self.stale[slot] = 0
        self.n_scored[slot], self.best[slot] = scored.sum(), (right[slot] & scored).sum()
        self.best_mem[slot] = self.state.mem[slot]
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
