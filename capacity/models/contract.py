"""What the project relies on in a model, measured on the model at hand by a few passes of a few tokens."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capacity.files import first_line
from capacity.models.checkpoints import ModelError
from capacity.models.frozen import Frozen
from capacity.models.senses import parts

# The largest deviation of logits that counts as rounding, in standard deviations of the logits over the vocabulary.
TOLERANCES = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.25}
_N_TEXTS, _N_TOKENS = 3, 12
# Check -> what is wrong where it deviates, and what to do.
_BROKEN = {
    "embed_path": (
        "its logits of tokens' input vectors are not its logits of the tokens: it reads more of a token than its input "
        "vector",
        "take a model without per-layer or other inputs by token",
    ),
    "later_tokens": (
        "a later token changes earlier logits: it is not causal",
        "take a decoder (its config may say is_decoder: false, or bidirectional attention)",
    ),
    "padding": (
        "vectors to the right of a text change its logits",
        "take a model whose logits don't depend on how long the input is",
    ),
    "cache": (
        "its logits with the cache are not those without",
        "try attention='eager' or another release of transformers",
    ),
    "given_vectors": (
        "it writes into the vectors that it is given, so that [mem] would not stay what was fitted",
        "take a model that leaves its inputs alone",
    ),
    "repeat": (
        "the same input gives other logits the second time",
        "turn off what draws at random (dropout, layers left out, noise of a router) in its config",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What was measured of a model. Deviations are those of logits, in standard deviations over the vocabulary.

    A deviation is the root mean square over the vocabulary, the median over texts, and the largest over positions: one
    router's near tie that rounding decides is not a fault, a position that is wrong in every text is.
    """

    embed_path: float  # logits of `embed`'s vectors against those of the tokens
    later_tokens: float  # logits before tokens that were changed for free vectors
    padding: float  # logits of a part alone against those with vectors to its right
    cache: float | None  # logits with what is carried on against those without; None where nothing is carried on
    given_vectors: float  # the largest change of the vectors that were given
    repeat: float  # the same input again
    head: str  # `linear`: h Wᵀ + b; `own`: the model's, of hidden states; `whole`: not told apart from the model
    tolerance: float  # what counts as rounding in the weights' dtype
    n_weights: int  # tensors, all finite
    left_out: tuple[str, ...]  # parts for other senses than text, in the files or in memory, that are not counted
    seconds: float

    @property
    def deviations(self) -> dict[str, float | None]:
        """The measured deviations by check."""
        return {name: getattr(self, name) for name in _BROKEN}

    def require(self, name: str) -> None:
        """Raise ModelError for the first check that does not hold: what, by how much, what to do."""
        for check, deviation in self.deviations.items():
            allowed = 0.0 if check == "given_vectors" else self.tolerance
            if deviation is not None and not deviation <= allowed:  # NaN does not hold
                wrong, remedy = _BROKEN[check]
                unit = "" if check == "given_vectors" else " standard deviations"
                raise ModelError(
                    f"{name!r} can't be used: {wrong} (by {deviation:.2g}{unit}; {allowed:g} is allowed); {remedy}"
                )


def read(path: Path) -> Contract | None:
    """Return the contract in a file, as JSON; None where there is none, or none like this one."""
    try:
        facts = json.loads(path.read_bytes())
        return Contract(**facts | {"left_out": tuple(facts["left_out"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def unused(keys: Iterable[str], *, name: str) -> tuple[str, ...]:
    """Return the parts for other senses among the weights that a model's files have and its class does not take.

    keys: what transformers reports as unexpected: buffers that the class is known to ignore are not among them.

    Raises ModelError, naming them, where any other weight is left over.
    """
    keys = sorted(keys)
    left_over = [key for key in keys if not parts([key])]
    if left_over:
        raise ModelError(
            f"{len(left_over)} weights in the files of {name!r} are not used by what its config describes "
            f"({', '.join(left_over[:3])}): it would be another model; mend config.json (layers, biases), or save the "
            "model with save_pretrained from the class that it was trained in"
        )
    return parts(keys)


@torch.no_grad()
def finite(model: Any, *, name: str) -> int:
    """Return how many weights a model has; raises ModelError, naming them, where one is not finite."""
    state = {key: value for key, value in model.state_dict().items() if value.is_floating_point() and not value.is_meta}
    readable = {key: value for key, value in state.items() if value.dtype.itemsize >= 2}  # 8 bits add up in no device
    sums = {key: value.sum(dtype=torch.float32).to("cpu", non_blocking=True) for key, value in readable.items()}
    if any(value.is_cuda for value in readable.values()):
        torch.cuda.synchronize()
    suspects = [key for key, total in sums.items() if not total.isfinite()]  # or the sum alone is too large
    broken = [key for key in suspects if not readable[key].isfinite().all()]
    if broken:
        raise ModelError(
            f"{len(broken)} weights of {name!r} are not finite ({', '.join(broken[:3])}); download the model again, or "
            "load it in the dtype that it was trained in"
        )
    return len(state)


@contextmanager
def running(name: str) -> Iterator[None]:
    """Turn what a model raises as it reads input vectors into a ModelError; memory that runs out stays."""
    try:
        yield
    except (ModelError, torch.OutOfMemoryError):
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = first_line(error)
        raise ModelError(
            f"{name!r} can't be used: it does not run on input vectors alone ({reason}); take a model whose forward "
            "takes inputs_embeds and needs nothing else"
        ) from error


@torch.no_grad()
def measure(frozen: Frozen, *, left_out: tuple[str, ...] = ()) -> Contract:
    """Return what a few passes show of a model; some of all and some of one of 3 texts of 12 tokens or fewer.

    left_out: parts of the files that were not loaded.

    Raises ModelError for weights or logits that are not finite, or a model that takes no input vectors.
    """
    begun = time.perf_counter()
    n_weights = finite(frozen.model, name=frozen.name)
    with running(frozen.name):
        deviations = _deviations(frozen)
    inside = parts(key for key, _ in frozen.model.named_parameters())
    return Contract(
        **deviations,
        head="linear" if frozen.weight is not None else "own" if frozen.tail is not None else "whole",
        tolerance=TOLERANCES[frozen.dtype],
        n_weights=n_weights,
        left_out=tuple(dict.fromkeys([*left_out, *inside])),
        seconds=time.perf_counter() - begun,
    )


def _deviations(frozen: Frozen) -> dict[str, Any]:
    """Return the deviation by check, from passes over texts of evenly spread tokens, none of them special."""
    n_tokens = min(_N_TOKENS, frozen.context or _N_TOKENS)
    cut = max(1, n_tokens - 2)
    special = {*frozen.tokenizer.all_special_ids}
    size = min(frozen.vocab_size, max(len(frozen.tokenizer), 1))
    plain = torch.tensor([i for i in range(size) if i not in special] or [0])
    picked = torch.randint(len(plain), (_N_TEXTS, n_tokens), generator=torch.Generator().manual_seed(0))
    ids = plain[picked].to(frozen.device)
    embeds = frozen.embed(ids)
    free = torch.randn(embeds.shape, generator=torch.Generator().manual_seed(1)).to(embeds) * embeds.std()
    changed = torch.cat([embeds[:, :cut], free[:, cut:]], 1)  # as [mem], what no token has
    given = embeds.clone()
    logits = frozen.logits(given).float()
    if not logits.isfinite().all():
        raise ModelError(
            f"the logits of {frozen.name!r} are not finite in {frozen.dtype}; load it as bfloat16 or float32, or "
            "download it again"
        )
    spread = logits.std(-1).mean().clamp_min(torch.finfo(torch.float32).tiny)

    def apart(values: Tensor, expected: Tensor) -> float:
        squares = (values.float() - expected.to(values.device)).square().mean(-1).sqrt() / spread.to(values.device)
        return squares.median(0).values.max().item() if squares.shape[1] else 0.0  # (texts, positions)

    def with_cache(texts: int) -> float | None:
        stepped: list[Tensor] = []
        for text in embeds[:texts].split(1):  # alone, as it is decoded
            _, state = frozen.carried(text[:, :cut].clone())
            for at in range(cut, n_tokens) if state else ():
                step, state = frozen.carried(text[:, at : at + 1].clone(), state)
                stepped.append(step[:, -1].to(logits.device))
        return apart(torch.stack(stepped).view(texts, n_tokens - cut, -1), logits[:texts, cut:]) if stepped else None

    cache = with_cache(
        1
    )  # nine passes of one token cost a large model more than all others: a text that holds is enough
    if cache is not None and not cache <= TOLERANCES[frozen.dtype]:
        cache = with_cache(_N_TEXTS)
    return {
        "given_vectors": (given - embeds).abs().max().item(),
        "embed_path": apart(frozen.model(input_ids=ids, use_cache=False).logits.to(logits.device), logits),
        "later_tokens": apart(frozen.logits(changed)[:, :cut], logits[:, :cut]),
        "padding": apart(frozen.logits(embeds[:, :cut].clone()), logits[:, :cut]),
        "cache": cache,
        "repeat": apart(frozen.logits(embeds.clone()), logits),
    }
