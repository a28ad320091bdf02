"""One step of all slots as a pure function of tensors: score, gradient, AdamW; as it is, or compiled into one graph."""

import math
import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map_only

from capacity.losses import GRADIENTS, LOSSES, cross_entropy
from capacity.memory import is_exhausted, rows_of_chunk
from capacity.models import Frozen
from capacity.recipes import Recipe


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
    skipped = frozen.n_before + n_mem - 1  # the positions before the one that predicts t1
    corrections = _corrections(recipe, frozen.device)

    def move(state: State, context: Tensor, targets: Tensor, weights: Tensor) -> Moved:
        with torch.enable_grad():
            mem = state.mem.detach().requires_grad_()
            hidden = frozen.hidden(frozen.inputs(mem, context))[:, skipped:]
        with torch.no_grad():
            slope, right, bits = _head(frozen, recipe, hidden.detach(), targets, weights, follow_bits)
        (gradient,) = torch.autograd.grad(hidden, mem, slope)
        with torch.no_grad():
            finite = torch.isfinite(state.mem).all(2).all(1) & torch.isfinite(hidden).all(2).all(1)
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


@lru_cache
def _corrections(recipe: Recipe, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return AdamW's corrections of rate and second moment after 0, 1, 2, ... updates; the last entry holds for ever.

    A table, since torch rounds the power of a few numbers and of many in two ways, by which a text's neighbours would
    tell.
    """
    one, two = recipe.betas
    count = torch.arange(1024 * math.ceil(math.log(1e-9, max(one, two, 0.5)) / 1024), dtype=torch.float32)
    return (recipe.lr / (1 - one**count)).to(device), (1 - two**count).sqrt().to(device)


def _adamw(recipe: Recipe, corrections: tuple[Tensor, Tensor], state: State, gradient: Tensor) -> State:
    """Return the state moved by AdamW, each slot with its own count (decoupled decay, as torch.optim.AdamW)."""
    one, two = recipe.betas
    updates = state.updates + 1
    count = updates.long().clamp(max=len(corrections[0]) - 1)
    rate, root = (table[count][:, None, None] for table in corrections)
    first = state.first.lerp(gradient, 1 - one)
    second = state.second * two + (1 - two) * gradient * gradient
    mem = state.mem * (1 - recipe.lr * recipe.weight_decay) - rate * first / (second.sqrt() / root + recipe.eps)
    return State(mem, first, second, updates)


_COMPILED: WeakKeyDictionary[Frozen, dict[tuple, Step | None]] = WeakKeyDictionary()  # None: it can't be


def compiled(
    frozen: Frozen, recipe: Recipe, *, n_mem: int, follow_bits: bool, like: tuple[State, Tensor, Tensor, Tensor]
) -> Step:
    """Return the step for the shapes of `like`, forward, backward and update in one graph, compiled once a process.

    On CUDA the graph is replayed (mode `reduce-overhead`). Where the model can't be traced, or there is no compiler,
    the step as it is comes back, with a warning that says why.
    """
    known = _COMPILED.setdefault(frozen, {})
    name = (recipe, n_mem, follow_bits, *like[1].shape)
    plain = step(frozen, recipe, n_mem=n_mem, follow_bits=follow_bits)
    if name not in known:
        frozen.inputs(like[0].mem, like[1])  # what it keeps of BOS must not come from the tracing
        try:
            known[name] = _compile(plain, like, frozen.device.type == "cuda")
        except Exception as error:  # whatever tracing and compilers raise: the fit itself can go on
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            warnings.warn(f"{frozen.name} runs uncompiled: {type(error).__name__}: {reason}", stacklevel=2)
            known[name] = None
    return known[name] or plain


_ALIKE: WeakKeyDictionary[Frozen, dict[tuple, dict[int, bool]]] = WeakKeyDictionary()


def narrowed(frozen: Frozen, recipe: Recipe, tasks: int, *, n_mem: int, bucket: int, slots: int, compile: bool) -> int:
    """Return the fewest slots, a power-of-two part of `slots`, that hold `tasks` and give the same bits as `slots` do.

    A matrix product may add in another order at another size. Whether it does on this machine is tried, once for each
    number of slots, by a step of random texts both ways; what differs in one bit is not taken. Compiled, every number
    would be a graph of its own: it stays at `slots`.
    """
    narrow = 1 << (max(1, tasks) - 1).bit_length()
    if compile or narrow >= slots:
        return slots
    known = _ALIKE.setdefault(frozen, {}).setdefault((recipe.loss, n_mem, bucket, slots, torch.get_num_threads()), {})
    if narrow not in known:
        try:
            known.update(_alike(frozen, recipe, n_mem, bucket, slots, narrow))
        except (RuntimeError, MemoryError) as error:
            if not is_exhausted(error):
                raise
            known[narrow] = False  # what has no room for the trial has none for `slots`: the batch will find out
    return min((n for n, alike in known.items() if alike and n >= narrow), default=slots)


def _alike(frozen: Frozen, recipe: Recipe, n_mem: int, bucket: int, slots: int, least: int) -> dict[int, bool]:
    """Return for `least` slots and its doubles below `slots`, up to the first that is, whether it gives the same bits.

    Each is tried where `slots` are parted into it: at the first place, the last, and one between.
    """
    device, generator = frozen.device, torch.Generator().manual_seed(0)
    mem, first, second = (
        (torch.randn(slots, n_mem, frozen.dim, generator=generator) * frozen.embedding_std).to(device) for _ in range(3)
    )
    targets = torch.randint(0, frozen.vocab_size, (slots, bucket), generator=generator).to(device)
    weights = torch.full((slots, bucket), 1 / bucket, device=device)
    state = State(mem, first, second * second, torch.arange(slots, device=device).float())
    flat = (*state, frozen.embed(targets[:, :-1]), targets, weights)
    move = step(frozen, recipe, n_mem=n_mem, follow_bits=True)

    def moved(at: int, size: int) -> list[Tensor]:
        own = [tensor[at : at + size].clone() for tensor in flat]
        state, right, finite, bits = move(State(*own[:4]), *own[4:])
        assert bits is not None
        return [state.mem, state.first, state.second, right, finite, bits]

    whole, found = moved(0, slots), {}
    while least < slots and not any(found.values()):
        places = {0, slots // least // 2 * least, slots - least} if slots % least == 0 else set()
        found[least] = bool(places) and all(
            torch.equal(part, every[at : at + least])
            for at in places for part, every in zip(moved(at, least), whole, strict=True)
        )  # fmt: skip
        least *= 2
    return found


def _compile(plain: Step, like: tuple[State, Tensor, Tensor, Tensor], replay: bool) -> Step:
    state, *rest = like
    fake = FakeTensorMode(allow_non_fake_inputs=True)  # without it, transformers looks at values while it is traced
    with fake:
        traced = make_fx(lambda *flat: plain(State(*flat[:4]), *flat[4:]))(
            *(fake.from_tensor(tensor) for tensor in (*state, *rest))
        )
    run = torch.compile(traced, dynamic=False, mode="reduce-overhead" if replay else None)

    def move(state: State, context: Tensor, targets: Tensor, weights: Tensor) -> Moved:
        with torch.no_grad():
            out = run(*state, context, targets, weights)
            if replay:  # the next replay writes over these
                out = tree_map_only(Tensor, torch.clone, out)
            return Moved(State(*out[0]), *out[1:])

    with torch.no_grad():
        move(*like)
    return move
