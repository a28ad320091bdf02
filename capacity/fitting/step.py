"""One step of all slots as a pure function of tensors: score, gradient, AdamW; as it is, or compiled into one graph."""

import math
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from capacity.fitting.losses import GRADIENTS, LOSSES, cross_entropy
from capacity.fitting.memory import rows_of_chunk
from capacity.fitting.recipes import Recipe
from capacity.models import Frozen


class State(NamedTuple):
    """What a step moves: the vectors and AdamW's moments (slots, n_mem, dim), and how often each was moved."""

    mem: Float[Tensor, "slots n_mem dim"]
    first: Float[Tensor, "slots n_mem dim"]
    second: Float[Tensor, "slots n_mem dim"]
    updates: Float[Tensor, " slots"]


class Moved(NamedTuple):
    """What a step found of the vectors it was given, and where it moved them."""

    state: State
    right: Bool[Tensor, "slots tokens"]  # the argmax is the target
    finite: Bool[Tensor, " slots"]  # vectors and hidden states are
    bits: Float[Tensor, "slots tokens"] | None  # surprisal, where it was asked for or the loss gives it, in nats


# (state, context (slots, tokens - 1, dim), targets (slots, tokens), weights (slots, tokens)) -> Moved
Step = Callable[[State, Tensor, Tensor, Tensor], Moved]


def step(frozen: Frozen, recipe: Recipe, *, n_mem: int, follow_bits: bool) -> Step:
    """Return the step of a recipe. Its weights are those of the positions in the loss; zero where none is wanted.

    Only the vectors get a gradient. The head runs in chunks of at most memory.CHUNK logits; where it is linear, the
    gradient of the loss with respect to the hidden states is written by hand (losses.GRADIENTS), else autograd's.
    """
    skipped = frozen.predicting(n_mem)
    corrections = _corrections(recipe, frozen.device)

    def move(state: State, context: Tensor, targets: Tensor, weights: Tensor) -> Moved:
        with torch.enable_grad():
            mem = state.mem.detach().requires_grad_()
            hidden = frozen.hidden(frozen.inputs(mem, context))[:, skipped:]
        with torch.no_grad():
            slope, right, bits = _head(frozen, recipe, hidden.detach(), targets, weights, follow_bits)
        (gradient,) = torch.autograd.grad(hidden, mem, slope)
        with torch.no_grad():
            asked = torch.isfinite(hidden).all(2) | (weights == 0)  # a position that is not scored never counts
            finite = torch.isfinite(state.mem).all(2).all(1) & asked.all(1)
            return Moved(_adamw(recipe, corrections, state, gradient), right, finite, bits)

    return move


def _head(
    frozen: Frozen, recipe: Recipe, hidden: Tensor, targets: Tensor, weights: Tensor, follow_bits: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return d loss / d hidden, which argmax are right, and the surprisals in nats, chunk by chunk of positions."""
    positions = hidden.flatten(0, 1)
    per_chunk = rows_of_chunk(frozen)
    slopes, rights, surprisals = [], [], []
    for at in range(0, len(positions), per_chunk):
        some = slice(at, at + per_chunk)
        rows, aim, weight = positions[some], targets.flatten()[some], weights.flatten()[some]
        if frozen.weight is not None:
            logits = frozen.head(rows).float()
            slope = GRADIENTS[recipe.loss](logits, aim, recipe.margin, frozen.weight)
            slopes.append((slope * weight.unsqueeze(-1)).to(hidden.dtype))
        else:
            with torch.enable_grad():
                leaf = rows.float().requires_grad_()
                logits = frozen.head(leaf.to(rows.dtype)).float()
                loss = (LOSSES[recipe.loss](logits, aim, recipe.margin) * weight).sum()
            slopes.append(torch.autograd.grad(loss, leaf)[0].to(hidden.dtype))
            logits = logits.detach()
        rights.append(logits.argmax(-1) == aim)
        if follow_bits:
            surprisals.append(cross_entropy(logits, aim))
    slope, right = (torch.cat(parts) if len(parts) > 1 else parts[0] for parts in (slopes, rights))
    bits = torch.cat(surprisals).view(targets.shape) if follow_bits else None
    return slope.view(hidden.shape), right.view(targets.shape), bits


@cache  # all of them: what was recorded reads them where they are
def _corrections(recipe: Recipe, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return AdamW's corrections of rate and second moment after 0, 1, 2, ... updates; the last entry holds for ever.

    A table, since torch rounds the power of a few numbers and of many in two ways, by which a text's neighbours would
    tell.
    """
    beta1, beta2 = recipe.betas
    count = torch.arange(1024 * math.ceil(math.log(1e-9, max(beta1, beta2, 0.5)) / 1024), dtype=torch.float32)
    return (recipe.lr / (1 - beta1**count)).to(device), (1 - beta2**count).sqrt().to(device)


def _adamw(recipe: Recipe, corrections: tuple[Tensor, Tensor], state: State, gradient: Tensor) -> State:
    """Return the state moved by AdamW, each slot with its own count (decoupled decay, as torch.optim.AdamW)."""
    beta1, beta2 = recipe.betas
    updates = state.updates + 1
    count = updates.long().clamp(max=len(corrections[0]) - 1)
    rate, root = (table[count][:, None, None] for table in corrections)
    first = state.first.lerp(gradient, 1 - beta1)
    second = state.second * beta2 + (1 - beta2) * gradient * gradient
    mem = state.mem * (1 - recipe.lr * recipe.weight_decay) - rate * first / (second.sqrt() / root + recipe.eps)
    return State(mem, first, second, updates)
