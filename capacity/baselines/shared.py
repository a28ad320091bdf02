"""Vectors that save most bits of texts they were not fitted to: what such vectors say of the kind of text alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from capacity import fitting
from capacity.decoding import teacher_forced
from capacity.files import whole_number
from capacity.fitting import Recipe
from capacity.models import Frozen

_BATCH = 8  # texts a step
_PATIENCE = 8  # epochs without a better mean over the texts held out


@dataclass(frozen=True)
class Shared:
    """Vectors that save most bits of texts they were not fitted to."""

    mem: Float[Tensor, "n_mem dim"]
    bits: float  # of positions 2..N of a text held out, the mean
    epochs: int  # passes over the texts fitted to, until then


def fit(
    frozen: Frozen, train: Int[Tensor, "texts tokens"], held_out: Int[Tensor, "others tokens"], *,
    recipe: str = "progressive", n_mem: int = 1, most: int = 200, seed: int = 0, n_starts: int = 3,
    also: Sequence[Float[Tensor, "n_mem dim"]] = (),
) -> Shared:  # fmt: skip
    """Return the vectors with the least mean cross-entropy of positions 2..N over texts, as texts held out judge.

    AdamW at the recipe's rate over batches of 8 texts in seeded order; after each epoch the texts held out are scored,
    and after 8 without a better score, or `most`, the best vectors are kept. From these on the same again at a fifth
    of the rate. So from `n_starts` random vectors, drawn as a fit's, and from those given as `also`: one start may end
    far above another. The best of all is returned, a floor of what such a vector can do.

    Raises ValueError for a recipe of another loss than the cross-entropy, no text, no start, or a start that is no
    n_mem finite vectors of the model's width.
    """
    if (loss := fitting.recipe(recipe).loss) != "cross_entropy":
        raise ValueError(f"recipe {recipe!r} descends {loss}; give one of the cross-entropy, as progressive")
    whole_number("n_starts", n_starts, least=0 if len(also) else 1)
    if not len(train) or not len(held_out):
        raise ValueError(f"{len(train)} texts to fit and {len(held_out)} to stop the fit; give one of each at least")
    for start in also:
        if tuple(start.shape) != (n_mem, frozen.dim) or not start.isfinite().all():
            raise ValueError(f"a start of shape {tuple(start.shape)}; give finite ones, ({n_mem}, {frozen.dim})")
    settings = fitting.recipe(recipe).scaled_to(frozen)
    random = torch.Generator().manual_seed(seed)
    starts = [torch.randn(n_mem, frozen.dim, generator=random) * frozen.embedding_std for _ in range(n_starts)]
    ends = [_descended(frozen, train, held_out, start, settings, most, random) for start in [*starts, *also]]
    return min(ends, key=lambda end: end.bits)


def _descended(
    frozen: Frozen, train: Tensor, held_out: Tensor, start: Tensor, settings: Recipe, most: int, random: torch.Generator
) -> Shared:
    start = start.to(frozen.device)
    best = Shared(start, bits_after(frozen, start, held_out).mean().item(), 0)
    epoch = 0
    for rate in (settings.lr, settings.lr / 5):
        mem, last = best.mem.clone().requires_grad_(), epoch
        adam = torch.optim.AdamW([mem], lr=rate, betas=settings.betas, weight_decay=settings.weight_decay)
        while epoch < min(most, last + _PATIENCE):
            epoch += 1
            for some in torch.randperm(len(train), generator=random).split(_BATCH):
                adam.zero_grad()
                _loss(frozen, mem, train[some]).backward()
                adam.step()
            bits = bits_after(frozen, mem.detach(), held_out).mean().item()
            if bits < best.bits:
                best, last = Shared(mem.detach().clone(), bits, epoch), epoch
    return best


def _loss(frozen: Frozen, mem: Tensor, ids: Tensor) -> Tensor:
    ids = ids.to(frozen.device)
    inputs = frozen.inputs(mem.expand(len(ids), -1, -1), frozen.embed(ids[:, :-1]))
    logits = frozen.logits(inputs)[:, frozen.predicting(len(mem)) + 1 :].float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def bits_after(frozen: Frozen, mem: Tensor, ids: Tensor) -> Tensor:
    """Return the bits of positions 2..N of each text after the vectors, (n_mem, dim) for all or one a text."""
    mem = mem if mem.ndim == 3 else mem.expand(len(ids), -1, -1)
    return torch.from_numpy(teacher_forced(frozen, mem, ids).bits[:, 1:].sum(1))
