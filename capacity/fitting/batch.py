"""The slots of one shape: tasks enter and leave, every step is one call of the model for all of them."""

import time
from functools import partial

import numpy as np
import torch
from torch import Tensor

from capacity.fitting import graph, step
from capacity.fitting.memory import Shape
from capacity.fitting.recipes import Recipe
from capacity.fitting.step import State
from capacity.fitting.tasks import Advance, Task
from capacity.models import Frozen


class Batch:
    """The tensors of a fixed number of slots; idle ones hold dummies, so that the shapes never change."""

    def __init__(self, frozen: Frozen, recipe: Recipe, shape: Shape, *, compile: bool = False):
        self.frozen, self.recipe, self.shape, self.compile = frozen, recipe, shape, compile
        device, slots = frozen.device, shape.slots
        self.tasks: list[Task | None] = [None] * slots
        blank = partial(torch.zeros, slots, shape.n_mem, frozen.dim, device=device)
        self.state = State(blank(), blank(), blank(), torch.zeros(slots, device=device))
        self.best_mem = blank()
        self.targets = torch.zeros(slots, shape.bucket, dtype=torch.long, device=device)
        self.context = frozen.embed(self.targets[:, :-1]).clone()
        self.weights = torch.zeros(slots, shape.bucket, device=device)
        self.scored = np.zeros((slots, shape.bucket), dtype=bool)  # the positions that are asked for
        self.there = np.zeros((slots, shape.bucket), dtype=bool)  # the positions of a text's own tokens
        self.dirty = True  # `scored` and `weights` are to be made again

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
        size = min(len(task.ids), self.shape.bucket)
        self.targets[slot] = 0
        self.targets[slot, :size] = torch.tensor(task.ids[:size])
        self.context[slot] = self.frozen.embed(self.targets[slot : slot + 1, :-1])[0]
        for whole, own in self._state(task):
            whole[slot] = own
        self.state.updates[slot] = task.updates
        self.there[slot] = np.arange(self.shape.bucket) < size
        self.tasks[slot], self.dirty = task, True

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
        task.updates = int(self.state.updates[slot])
        self.tasks[slot], self.dirty = None, True
        return task

    def _weigh(self) -> None:
        """Make the weights of the positions again: the mean over those that are scored, zero elsewhere."""
        spans = np.array([(0, 0) if task is None else (task.scored_from, task.length) for task in self.tasks])
        positions = np.arange(self.shape.bucket)
        self.scored = (positions >= spans[:, :1]) & (positions < spans[:, 1:])
        weights = self.scored / np.maximum(self.scored.sum(1, keepdims=True), 1)
        self.weights = torch.from_numpy(weights.astype(np.float32)).to(self.frozen.device)
        self.dirty = False

    def _move(self) -> step.Moved:
        follow = self.recipe.loss == "cross_entropy" or any(task is not None and task.trace for task in self.tasks)
        options = {"n_mem": self.shape.n_mem, "follow_bits": follow}
        inputs = (self.state, self.context, self.targets, self.weights)
        if self.compile:
            return graph.compiled(self.frozen, self.recipe, like=inputs, **options)(*inputs)
        return step.step(self.frozen, self.recipe, **options)(*inputs)

    def step(self, advance: Advance) -> list[Task]:
        """Score all slots and move them, then let go of those that are done; return the tasks that left.

        A task that leaves keeps the vector from before the move. One that goes on, at a new length, keeps the move,
        which was made for the old length. Out of memory, it raises with every task as it was before the step.
        """
        started = time.perf_counter()
        if self.dirty:
            self._weigh()
        moved = self._move()
        right = moved.right.cpu().numpy() & self.there
        bits = None if moved.bits is None else moved.bits.cpu().double().numpy() / np.log(2)
        finite = moved.finite.tolist()
        share = (time.perf_counter() - started) / max(1, self.under_way)
        left = self._settle(right, finite, bits, share, advance)
        self.state = moved.state
        for task in self.tasks:
            if task is not None:
                task.steps += 1
        return left

    def _settle(
        self, right: np.ndarray, finite: list[bool], bits: np.ndarray | None, share: float, advance: Advance
    ) -> list[Task]:
        """Tell every task what was found of it, and let go of those whose fit at their length has ended."""
        count = (right & self.scored).sum(1).tolist()
        all_bits = rest_bits = [None] * len(self.tasks)
        if bits is not None:
            rest = self.scored & (np.arange(self.shape.bucket) >= 1)
            all_bits = [float(bits[slot, asked].sum()) for slot, asked in enumerate(self.scored)]
            rest_bits = np.where(rest, bits, 0.0).sum(1).tolist()
        best = [
            task is not None and task.score(count[slot], finite[slot], all_bits[slot], rest_bits[slot], share)
            for slot, task in enumerate(self.tasks)
        ]
        if any(best):
            chosen = torch.tensor(best, device=self.best_mem.device)[:, None, None]
            self.best_mem = torch.where(chosen, self.state.mem, self.best_mem)
        left = []
        for slot, task in enumerate(self.tasks):
            status = None if task is None else task.ending(self.recipe, count[slot], finite[slot])
            if task is None or status is None:
                continue
            wrong = np.flatnonzero(~right[slot, task.scored_from :])
            leading = task.scored_from + int(wrong[0]) if len(wrong) else self.shape.bucket
            leading = min(leading, len(task.ids))
            if not self._follow(slot, task, status, leading, right, bits, advance):
                left.append(task)
        return left

    def _follow(self, slot: int, task: Task, status: str, leading: int, right, bits, advance) -> bool:
        """End a fit, and go on in this slot if its next length is one of this bucket; return whether it does."""
        own_bits = None if bits is None else bits[slot]
        broke = task.spent()  # once this fit is closed, its steps are in the sum
        task.close(status, self.best_mem[slot], self.recipe)
        following = advance(task, leading) if status in ("solved", "stalled") else None
        while following is not None and task.length < following <= leading:  # exact there, too: a probe, but no step
            task.lengthen(following, right[slot], own_bits)
            task.close(status, self.state.mem[slot], self.recipe)
            following = advance(task, leading)
        if following is not None and not broke and task.length < following <= self.shape.bucket:
            task.lengthen(following, right[slot], own_bits)
            self.best_mem[slot], self.dirty = self.state.mem[slot], True
            return True
        self.take(slot)
        if following is not None and not broke:
            if following < task.length and task.exact():
                task.begin(task.exact()[-1].mem)
            task.length = following
            task.restart()
        return False
