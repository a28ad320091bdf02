"""What tests of fits put in: random texts, tasks, the tensors of a step; and what came out, compared."""

import torch
from torch import Tensor

from capacity import fitting
from capacity.fitting.step import Moved, State
from capacity.fitting.tasks import Task
from capacity.models import Frozen

SLOTS, TOKENS = 3, 6


def random_ids(*lengths: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 300, (length,), generator=generator).tolist() for length in lengths]


def task_of(frozen: Frozen, ids: list[int], *, n_mem: int = 1, length: int | None = None, **options) -> Task:
    options = {"seed": 0, "scored_from": 0} | options
    return fitting.task(frozen, ids, n_mem=n_mem, length=length or len(ids), **options)


def inputs(frozen: Frozen, *, n_mem: int = 1, seed: int = 0) -> tuple[State, Tensor, Tensor, Tensor]:
    """Return state, context, targets and weights of SLOTS texts of TOKENS tokens; the last two of one do not count."""
    generator = torch.Generator().manual_seed(seed)
    mem = torch.randn(SLOTS, n_mem, frozen.dim, generator=generator) * frozen.embedding_std
    state = State(mem, torch.zeros_like(mem), torch.zeros_like(mem), torch.zeros(SLOTS))
    targets = torch.randint(0, 300, (SLOTS, TOKENS), generator=generator)
    weights = torch.full((SLOTS, TOKENS), 1 / TOKENS)
    weights[1] = torch.tensor([0.25] * 4 + [0.0] * 2)
    return state, frozen.embed(targets[:, :-1]), targets, weights


def tensors(moved: Moved) -> list[Tensor]:
    return [*moved.state, moved.right, moved.finite, *([] if moved.bits is None else [moved.bits])]


def same(one: Moved, other: Moved) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


def close(one: Moved, other: Moved, *, atol: float) -> None:
    for a, b in zip(tensors(one), tensors(other), strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=0)
