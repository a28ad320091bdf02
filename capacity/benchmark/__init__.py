"""How fast fits are: token-steps a second beside the plain published procedure and beside the machine's own peak."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import numpy as np
import polars as pl
import torch

from capacity import fitting
from capacity.benchmark.shapes import SHAPES, load
from capacity.benchmark.tables import folder, kept, medians
from capacity.fitting import Recipe, shape_of, stop
from capacity.fitting.batch import Batch
from capacity.fitting.slots import narrowed
from capacity.models import Frozen

__all__ = [
    "SHAPES", "WAYS", "Bench", "bench", "flop_per_token_step", "folder", "growth_rate", "kept", "load", "medians",
    "peak_flops", "plain", "rates", "timed",
]  # fmt: skip
__dir__ = __all__.copy  # what completion shows

WAYS: dict[str, bool | str] = {"engine": False, "captured": "capture", "compiled": True}  # `compile` of fitting.run


def plain(
    frozen: Frozen,
    ids: Sequence[int],
    recipe: Recipe,
    *,
    n_mem: int = 1,
    steps: int,
    scored_from: int = 0,
    seed: int = 0,
    stop: bool = False,
) -> list[float]:
    """Return the mean loss at each of `steps` steps of one text, nats, fitted as the paper describes it.

    One text at a time: it goes through transformers' own forward pass, the cross-entropy through autograd, [mem]
    through torch's AdamW, and the accuracy is looked at after every step. It ends with all tokens right, if `stop`.
    Source: Kuratov et al. 2025, section 3.
    """
    recipe = recipe.scaled_to(frozen)
    text = torch.tensor([list(ids)], device=frozen.device)
    mem = torch.nn.Parameter(fitting.start(frozen, ids, n_mem=n_mem, seed=seed).unsqueeze(0).to(frozen.device))
    optimizer = torch.optim.AdamW([mem], lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)
    embeds = frozen.embed(text)
    losses = []
    for _ in range(steps):
        logits = frozen.model(inputs_embeds=torch.cat([mem.to(embeds.dtype), embeds], dim=1)).logits
        predicted = logits[0, n_mem - 1 + scored_from : -1].float()
        loss = torch.nn.functional.cross_entropy(predicted, text[0, scored_from:])
        accuracy = (predicted.argmax(-1) == text[0, scored_from:]).float().mean().item()
        losses.append(loss.item())
        if stop and accuracy == 1.0:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


@dataclass(frozen=True)
class Bench:
    """A batch at one length whose slots are refilled as texts end, ready to be stepped."""

    batch: Batch
    tasks: int  # under way at once

    def step(self) -> int:
        """Do one step of all slots; return its token-steps."""
        for task in self.batch.step(stop):
            task.begin(fitting.start(self.batch.frozen, task.ids, n_mem=self.batch.shape.n_mem, seed=0))
            task.restart()
            self.batch.put(self.batch.free[0], task)
        return sum(task.length for task in self.batch.tasks if task is not None)


def bench(
    frozen: Frozen,
    recipe: Recipe,
    *,
    length: int,
    n_mem: int = 1,
    texts: int | None = None,
    compile: bool | str = False,
) -> Bench:
    """Return a batch of random token ids, as the engine would run `texts` of them; None: as many as run at once."""
    recipe, shape = recipe.scaled_to(frozen), shape_of(frozen, length, n_mem=n_mem, compile=compile)
    shape = narrowed(frozen, recipe, texts or shape.slots, shape, compile=compile)
    batch = Batch(frozen, recipe, shape, compile=compile)
    rng = np.random.default_rng(0)
    for slot in range(min(shape.slots, texts or shape.slots)):
        ids = rng.integers(0, min(len(frozen.tokenizer), frozen.vocab_size), size=length).tolist()
        batch.put(slot, fitting.task(frozen, ids, n_mem=n_mem, seed=slot, length=length, scored_from=0))
    return Bench(batch, batch.under_way)


def timed(work: Callable[[], int], device: torch.device, *, seconds: float) -> tuple[int, float]:
    """Return what repeated calls of `work` did in all, and the seconds they took, at least `seconds` and two calls."""
    done, calls = 0, 0
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    while calls < 2 or time.perf_counter() - started < seconds:
        done += work()
        calls += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return done, time.perf_counter() - started


def peak_flops(device: torch.device, dtype: torch.dtype, *, seconds: float = 0.3) -> float:
    """Return the FLOP a second of a large square matrix product on this device, measured now."""
    side = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def work() -> int:
        torch.mm(left, right)
        return 2 * side**3

    timed(work, device, seconds=seconds / 3)
    done, spent = timed(work, device, seconds=seconds)
    return done / spent


def flop_per_token_step(frozen: Frozen, length: int, *, n_mem: int = 1, loss: str = "cross_entropy") -> float:
    """Return the FLOP of a token-step: 4 a parameter that multiplies (2 forward, 2 back), and attention's.

    A linear head has no product backwards in a step of the engine with a hinge, whose gradient is two of its rows.
    An input embedding that is not the head's, too, is looked up and does not multiply. Attention takes 12 * positions *
    width a layer (scores and values, forward and both back), half of it where only the past is looked at. Below the
    head there are n_mem - 1 positions more than tokens, whose FLOP the tokens share.
    """
    config: Any = frozen.model.config.get_text_config()
    head, table = frozen.model.get_output_embeddings(), frozen.model.get_input_embeddings()
    tied = head is not None and head.weight is table.weight
    multiplying = frozen.model.num_parameters() - (0 if tied else frozen.vocab_size * frozen.dim)
    heads = getattr(config, "num_attention_heads", None) or 0
    width = heads * (getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 0))
    n_head, positions = 0 if head is None else head.weight.numel(), length + n_mem - 1
    below = 4.0 * (multiplying - n_head) + 6.0 * config.num_hidden_layers * width * positions
    on_head = 2.0 if loss in fitting.WITHOUT_PRODUCT and frozen.weight is not None else 4.0
    return on_head * n_head + below * positions / length


def _on_its_threads(measure: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, run on as many threads as a fit of its model, the first argument."""

    @wraps(measure)
    def on_its_threads(frozen: Frozen, *arguments: Any, **options: Any) -> Any:
        with fitting.threads(frozen):
            return measure(frozen, *arguments, **options)

    return on_its_threads


@_on_its_threads
def rates(
    frozen: Frozen,
    recipe: Recipe,
    *,
    lengths: Sequence[int],
    n_mem: int = 1,
    texts: int | None = None,
    methods: Sequence[str] = ("plain", "engine"),
    repeats: int = 3,
    seconds: float = 0.5,
) -> pl.DataFrame:
    """Return token-steps a second: model, length, n_mem, texts, method, repeat, rate, share, peak (FLOP a second).

    On as many threads as a fit of the model. All methods and the peak of the matrix product are measured in turn,
    `repeats` times, so that a machine that slows down slows all of them. share: of the peak, by flop_per_token_step of
    the recipe's loss (`plain` has the cross-entropy).

    methods: of `plain` (the published procedure) and WAYS. Raises ValueError for another.
    """
    if unknown := sorted(set(methods) - {"plain", *WAYS}):
        raise ValueError(f"unknown methods {unknown}; known are plain, {', '.join(WAYS)}")
    rows = []
    for length in lengths:
        work: dict[str, Callable[[], int]] = {}
        busy = {"plain": 1}
        for method in methods:
            if method == "plain":
                ids = list(range(1, length + 1))
                work[method] = partial(_plain_steps, frozen, ids, recipe, n_mem)
            else:
                own_bench = bench(frozen, recipe, length=length, n_mem=n_mem, texts=texts, compile=WAYS[method])
                work[method], busy[method] = own_bench.step, own_bench.tasks
            work[method]()  # the first call allocates, or compiles
        losses = {method: "cross_entropy" if method == "plain" else recipe.loss for method in methods}
        cost = {m: flop_per_token_step(frozen, length, n_mem=n_mem, loss=loss) for m, loss in losses.items()}
        for repeat in range(repeats):
            peak = peak_flops(frozen.device, frozen.model.dtype, seconds=seconds / 2)
            for method in methods:
                done, spent = timed(work[method], frozen.device, seconds=seconds)
                rows.append(
                    {
                        "model": frozen.name, "length": length, "n_mem": n_mem, "texts": busy[method],
                        "method": method, "repeat": repeat, "rate": done / spent,
                        "share": done / spent * cost[method] / peak, "peak": peak,
                    }
                )  # fmt: skip
    return pl.DataFrame(rows)


def _plain_steps(frozen: Frozen, ids: Sequence[int], recipe: Recipe, n_mem: int, steps: int = 5) -> int:
    plain(frozen, ids, recipe, n_mem=n_mem, steps=steps)
    return steps * len(ids)


@_on_its_threads
def growth_rate(
    frozen: Frozen, ids: Sequence[Sequence[int]], recipe: Recipe, *, budget: int, compile: bool | str = False
) -> dict[str, float]:
    """Return what searches by growth over all `ids` make of the engine's own rate.

    texts: how many. rate: token-steps a second, everything counted. bare: that of full batches at the same lengths,
    which only step, averaged over the token-steps that the searches spent at each. share: their quotient.
    """
    started = time.perf_counter()
    results = fitting.exact_length(frozen, ids, recipe, budget=budget, compile=compile)
    spent = time.perf_counter() - started
    by_length: Counter[int] = Counter()
    for probe in (probe for longest in results for probe in longest.probes):
        by_length[probe.length] += probe.token_steps
    seconds = 0.0
    for length, token_steps in by_length.items():
        own_bench = bench(frozen, recipe, length=length, compile=compile)
        own_bench.step()
        done, took = timed(own_bench.step, frozen.device, seconds=0.3)
        seconds += token_steps * took / done
    total = by_length.total()
    return {"texts": len(ids), "rate": total / spent, "bare": total / seconds, "share": seconds / spent}
