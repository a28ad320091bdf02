"""The slots of one shape: tasks enter and leave, every step is one call of the model for all of them."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from capacity.fitting import graph, step
from capacity.fitting.memory import Shape
from capacity.fitting.recipes import Recipe
from capacity.fitting.step import State
from capacity.fitting.tasks import Advance, Task
from capacity.models import Frozen


def _on(device: torch.device, tensor: Tensor) -> Tensor:
    """Return a tensor of the processor on the device; to a GPU without waiting for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Batch:
    """The tensors of a fixed number of slots; idle ones hold dummies, so that the shapes never change."""

    def __init__(self, frozen: Frozen, recipe: Recipe, shape: Shape, *, compile: bool | str = False):
        self.frozen, self.recipe, self.shape, self.compile = frozen, recipe, shape, compile
        device, slots = frozen.device, shape.slots
        self.tasks: list[Task | None] = [None] * slots
        blank = partial(torch.zeros, slots, shape.n_mem, frozen.dim, device=device)
        self.state = State(blank(), blank(), blank(), torch.zeros(slots, device=device))
        self.best_mem, self.best = blank(), torch.zeros(slots, dtype=torch.long, device=device)  # as Task.best
        self.targets = torch.zeros(slots, shape.bucket, dtype=torch.long, device=device)
        self.context = frozen.embed(self.targets[:, :-1]).clone()
        self.weights = torch.zeros(slots, shape.bucket, device=device)
        self.scored = np.zeros((slots, shape.bucket), dtype=bool)  # the positions that are asked for
        self.own_tokens = np.zeros((slots, shape.bucket), dtype=bool)  # the positions of a text's own tokens
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
        self._enter([slot], [task])

    def fill(self, queue: list[Task]) -> None:
        """Let the last of a queue into the idle slots, as many as there are, and take them off it."""
        slots = self.free[: len(queue)]
        if slots:
            self._enter(slots, queue[: -len(slots) - 1 : -1])
            del queue[-len(slots) :]

    def _enter(self, slots: list[int], tasks: Sequence[Task]) -> None:
        """Let tasks into idle slots, all of them in two copies."""
        width, device = self.shape.bucket, self.frozen.device
        sizes = [min(len(task.ids), width) for task in tasks]
        rows = [
            [slot, task.updates, task.best, *task.ids[:size], *[0] * (width - size)]
            for slot, task, size in zip(slots, tasks, sizes, strict=True)
        ]
        numbers = _on(device, torch.tensor(rows))
        own = [torch.stack([t.mem, t.first_moment, t.second_moment, t.best_mem]) for t in tasks]
        vectors = _on(device, torch.stack(own))
        at, targets = numbers[:, 0], numbers[:, 3:]
        context = self.frozen.embed(targets[:, :-1])
        self.targets[at], self.context[at] = targets, context
        for whole, part in zip(self._vectors(), vectors.unbind(1), strict=True):
            whole[at] = part
        self.state.updates[at], self.best[at] = numbers[:, 1].float(), numbers[:, 2]
        for slot, task, size in zip(slots, tasks, sizes, strict=True):
            self.own_tokens[slot] = np.arange(width) < size
            self.tasks[slot], self.dirty = task, True

    def _vectors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.state.mem, self.state.first, self.state.second, self.best_mem

    def _read(self, slots: Sequence[int]) -> dict[int, Tensor]:
        """Return vector, moments and best vector (4, n_mem, dim) of each of the slots, on the CPU, in one copy."""
        if not slots:
            return {}
        at = _on(self.frozen.device, torch.tensor(list(slots)))
        rows = torch.stack([whole[at] for whole in self._vectors()], dim=1)
        return dict(zip(slots, rows.detach().cpu(), strict=True))

    def take(self, slot: int) -> Task:
        """Take a task out, with its state; the slot goes on as a dummy."""
        return self._let_go(slot, self._read([slot])[slot])

    def take_all(self) -> list[Task]:
        """Take all tasks out, in the order of their slots."""
        own = self._read([slot for slot, task in enumerate(self.tasks) if task is not None])
        return [self._let_go(slot, part) for slot, part in own.items()]

    def _let_go(self, slot: int, own: Float[Tensor, "4 n_mem dim"]) -> Task:
        task = self.tasks[slot]
        assert task is not None
        task.mem, task.first_moment, task.second_moment, task.best_mem = (part.clone() for part in own)
        self.tasks[slot], self.dirty = None, True
        return task

    def _weigh(self) -> None:
        """Make the weights of the positions again: the mean over those that are scored, zero elsewhere."""
        spans = np.array([(0, 0) if task is None else (task.scored_from, task.length) for task in self.tasks])
        positions = np.arange(self.shape.bucket)
        self.scored = (positions >= spans[:, :1]) & (positions < spans[:, 1:])
        weights = self.scored / np.maximum(self.scored.sum(1, keepdims=True), 1)
        self.weights = _on(self.frozen.device, torch.from_numpy(weights.astype(np.float32)))
        self.dirty = False

    def _mover(self) -> Callable[[], step.Moved]:
        """Return what does a step, compiled by now where it is to be."""
        follow = self.recipe.loss == "cross_entropy" or any(task is not None and task.trace for task in self.tasks)
        options = {"n_mem": self.shape.n_mem, "follow_bits": follow}
        inputs = (self.state, self.context, self.targets, self.weights)
        if self.compile:
            moved = graph.compiled(self.frozen, self.recipe, like=inputs, how=self.compile, **options)
            return partial(moved, *inputs)
        return partial(step.step(self.frozen, self.recipe, **options), *inputs)

    def step(self, advance: Advance) -> list[Task]:
        """Score all slots and move them, then let go of those that are done; return the tasks that left.

        A task that leaves keeps the vector from before the move. One that goes on, at a new length, keeps the move,
        which was made for the old length. Out of memory, it raises with every task as it was before the step.
        """
        if self.dirty:
            self._weigh()
        move = self._mover()  # what compiling takes is no text's
        started = time.perf_counter()
        moved = move()
        n_right = (moved.right & (self.weights != 0)).sum(1)
        better = moved.finite & (n_right > self.best)  # as Task.score finds it, without a copy to and fro
        best, best_mem = n_right.where(better, self.best), self.state.mem.where(better[:, None, None], self.best_mem)
        seen = torch.cat([moved.right, moved.finite.unsqueeze(1)], dim=1).cpu().numpy()
        bits = None if moved.bits is None else moved.bits.cpu().double().numpy() / np.log(2)
        right, finite = seen[:, :-1] & self.own_tokens, seen[:, -1].tolist()
        self.best, self.best_mem = best, best_mem
        share = (time.perf_counter() - started) / max(1, self.under_way)
        left = self._settle(right, finite, bits, share, advance)
        self.state = moved.state
        for task in self.tasks:
            if task is not None:
                task.steps += 1
                task.updates += 1
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
        ended: list[tuple[int, Task, str]] = []
        for slot, task in enumerate(self.tasks):
            if task is not None:
                task.score(count[slot], finite[slot], all_bits[slot], rest_bits[slot], share)
                if status := task.ending(self.recipe, count[slot], finite[slot]):
                    ended.append((slot, task, status))
        left, own = [], self._read([slot for slot, *_ in ended])
        for slot, task, status in ended:
            wrong = np.flatnonzero(~right[slot, task.scored_from :])
            leading = task.scored_from + int(wrong[0]) if len(wrong) else self.shape.bucket
            leading = min(leading, len(task.ids))
            if not self._follow(slot, task, own[slot], status, leading, right, bits, advance):
                left.append(task)
        return left

    def _follow(self, slot: int, task: Task, own: Tensor, status: str, leading: int, right, bits, advance) -> bool:
        """End a fit, and go on in this slot if its next length is one of this bucket; return whether it does.

        own: what _read gives of the slot.
        """
        mem, *_, best_mem = own
        own_bits = None if bits is None else bits[slot]
        broke = task.spent()  # once this fit is closed, its steps are in the sum
        task.close(status, best_mem, self.recipe)
        goes_on = status in ("solved", "stalled") or (status == "budget" and not broke)
        following = advance(task, leading) if goes_on else None
        while following is not None and task.length < following <= leading:  # exact there, too: a probe, but no step
            task.lengthen(following, right[slot], own_bits)
            task.close(status, mem, self.recipe)
            following = advance(task, leading)
        if following is not None and not broke and task.length < following <= self.shape.bucket:
            task.lengthen(following, right[slot], own_bits)
            self.best_mem[slot], self.best[slot], self.dirty = self.state.mem[slot], task.best, True
            return True
        self._let_go(slot, own)
        if following is not None and not broke:
            if following < task.length and task.exact():
                task.begin(task.exact()[-1].mem)
            task.length = following
            task.restart()
        return False
