"""How the embedded models are made: a byte-level BPE tokenizer, one stream of tokens, a small causal LM."""

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from capacity import files, models, provenance
from capacity.pretraining import state
from capacity.pretraining.corpus import CONTEXT, END, END_ID, books, frequent_words, stream, train_tokenizer
from capacity.pretraining.schedule import FAMILIES, RUNGS, SCHEDULES, Schedule, batches, llama, neox, rate

__all__ = [
    "CONTEXT", "CURVE", "END", "END_ID", "FAMILIES", "RUNGS", "SCHEDULES", "Schedule", "batches", "books",
    "frequent_words", "held_out_nats", "llama", "make", "neox", "next_token_loss", "rate", "records", "rung", "save",
    "stream", "train", "train_tokenizer",
]  # fmt: skip
__dir__ = __all__.copy  # what completion shows

CURVE = "curve.csv"  # in a model's folder: step, tokens, loss_nats


def next_token_loss(model: Callable[..., Any], ids: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy in nats of ids[:, 1:] (batch, length - 1)."""
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


def held_out_nats(model: PreTrainedModel, tokens: np.ndarray, *, n_tokens: int = 200_000) -> float:
    """Return the mean nats a token over blocks of CONTEXT spread evenly over `tokens`, at most about `n_tokens`."""
    n_blocks = max(1, min(n_tokens, len(tokens)) // CONTEXT)
    starts = np.linspace(0, len(tokens) - CONTEXT, n_blocks).astype(int)
    total = 0.0
    with torch.no_grad():
        for at in range(0, len(starts), 16):
            block = np.stack([tokens[s : s + CONTEXT] for s in starts[at : at + 16]]).astype(np.int64)
            total += next_token_loss(model, torch.from_numpy(block).to(model.device)).item() * len(block)
    return total / len(starts)


def train(
    config: PreTrainedConfig,
    tokens: np.ndarray,
    schedule: Schedule,
    *,
    device: str = "cpu",
    compile: bool = False,
    watch: Callable[[int, float, PreTrainedModel | None], None] | None = None,
    kept: Path | None = None,
    keep_seconds: float = 30.0,
) -> tuple[PreTrainedModel, float]:
    """Return the trained model (float32, on `device`) and the seconds it took.

    Args:
        config: of the model.
        tokens: (n_tokens,) uint16, from `stream`.
        schedule: of the training.
        device: where it is trained.
        compile: through torch.compile, one graph for each of the schedule's lengths.
        watch: called with step, loss in nats, model, before each update; None for the model of steps that `kept` knows.
        kept: a file from which a run that was killed goes on with the same bits; it is the caller's to remove.
        keep_seconds: how often it is written.

    Raises ValueError where `kept` is of another config, schedule, tokens or versions.
    """
    torch.manual_seed(schedule.seed)
    model = AutoModelForCausalLM.from_config(config).to(device).train()
    if compile:
        torch._dynamo.reset()  # or the graphs of models trained before count against this one's limit
    run = torch.compile(model, dynamic=False) if compile else model
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": schedule.decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=schedule.peak, betas=(0.9, 0.95), fused=True)
    named = state.digest(tokens, config.to_dict(), asdict(schedule), compile, provenance.versions()) if kept else ""
    losses, before = state.read(kept, named, model, optimizer) if kept else ([], 0.0)
    n_there, started = len(losses), time.perf_counter() - before
    written = time.perf_counter()
    for step, ids in enumerate(batches(tokens, schedule)):
        if step < n_there:
            if watch is not None:
                watch(step, losses[step], None)
            continue
        if kept and time.perf_counter() - written >= keep_seconds:
            state.write(kept, named, model, optimizer, losses, time.perf_counter() - started)
            written = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = rate(step, schedule)
        loss = next_token_loss(run, ids.to(device))
        losses.append(loss.item())
        if watch is not None:
            watch(step, losses[-1], model)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()
    return model.eval(), time.perf_counter() - started


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, record: dict) -> None:
    """Write model (bfloat16, shards of at most 12 MB), tokenizer, `record` (training.json) and a README."""
    folder.mkdir(parents=True, exist_ok=True)
    with models.no_bars():
        model.bfloat16().save_pretrained(folder, max_shard_size="12MB")
    tokenizer.save_pretrained(folder)
    lines = [f"| {key.replace('_', ' ')} | {value} |" for key, value in record.items()]
    title = f"# {folder.name}\n\nA small causal language model, trained by `notebooks/90_pretrain.py`.\n\n"
    (folder / "README.md").write_text(title + "| fact | value |\n|---|---|\n" + "\n".join(lines) + "\n")
    files.write(folder / "training.json", f"{json.dumps(record, indent=1)}\n".encode())  # the last: all is there


def rung(
    name: str,
    tokenizer: PreTrainedTokenizerFast,
    tokens: np.ndarray,
    held_out: np.ndarray,
    schedule: Schedule,
    **options: Any,
) -> pl.DataFrame:
    """Train the model RUNGS[name], SCHEDULES[name] over the schedule, and return its curve; options: of `make`."""
    if name not in RUNGS:
        raise ValueError(f"unknown rung {name!r}; known are {', '.join(RUNGS)}")
    return make(name, RUNGS[name], tokenizer, tokens, held_out, replace(schedule, **SCHEDULES.get(name, {})), **options)


def make(
    name: str,
    shape: dict,
    tokenizer: PreTrainedTokenizerFast,
    tokens: np.ndarray,
    held_out: np.ndarray,
    schedule: Schedule,
    *,
    bytes_per_token: float,
    out: Path,
    device: str = "cpu",
    compile: bool = False,
    checkpoints: Mapping[str, int] | None = None,
    resumable: bool = False,
) -> pl.DataFrame:
    """Train a model, save it and its curve to `out / name`, and return the curve (model, step, tokens, loss_nats).

    Args:
        name: of its folder.
        shape: as those of RUNGS.
        tokenizer: of the tokens.
        tokens: (n_tokens,) from `stream`.
        held_out: (n_tokens,), the same, never trained on.
        schedule: of the training.
        bytes_per_token: of the held-out text, for bits per byte.
        out: folder of folders.
        device: of `train`.
        compile: of `train`.
        checkpoints: folder names, and after how many tokens the model, as it is then, is saved there.
        resumable: go on where a run that was killed stood.

    Raises ValueError for checkpoints that fall on one step, or on the last.
    """
    config = FAMILIES[shape["family"]](**{k: v for k, v in shape.items() if k != "family"}, vocab_size=len(tokenizer))
    at = {math.ceil(n / schedule.batch): label for label, n in (checkpoints or {}).items()}
    if len(at) < len(checkpoints or {}) or not all(0 < step < schedule.steps for step in at):
        raise ValueError(
            f"{name} has checkpoints after {checkpoints} tokens, in {schedule.steps} steps of {schedule.batch}: each "
            "has to be at a step of its own, before the last"
        )
    kept = out / f".{name}.safetensors" if resumable else None
    losses: list[float] = []
    begun = time.perf_counter()

    def curve() -> pl.DataFrame:
        steps = np.arange(len(losses))
        return pl.DataFrame({"step": steps, "tokens": (steps + 1) * schedule.batch, "loss_nats": losses})

    def keep(model: PreTrainedModel, label: str, steps: int, seconds: float) -> None:
        model = model.bfloat16().float().eval()  # what is measured is what is stored
        nats = held_out_nats(model, held_out)
        record = {
            "parameters": sum(p.numel() for p in model.parameters()),
            **shape,
            "vocabulary": len(tokenizer),
            "context_tokens": CONTEXT,
            "held_out_nats_per_token": round(nats, 4),
            "held_out_bits_per_token": round(nats / math.log(2), 4),
            "held_out_bits_per_byte": round(nats / math.log(2) / bytes_per_token, 4),
            "tokens_seen": steps * schedule.batch,
            "seconds": round(seconds),
            "machine": f"{provenance.machine()}, {torch.get_num_threads()} threads{', compiled' if compile else ''}",
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "versions": provenance.versions(),
            "schedule": asdict(schedule),
        }
        files.write(out / label / CURVE, curve().write_csv().encode())
        save(model, tokenizer, out / label, record)

    with tqdm(total=schedule.steps, desc=name, mininterval=5) as bar:

        def watch(step: int, loss: float, model: PreTrainedModel | None) -> None:
            losses.append(loss)
            bar.update()
            bar.set_postfix(nats=f"{np.mean(losses[-50:]):.3f}", refresh=False)
            if step in at and model is not None:
                keep(copy.deepcopy(model), at[step], step, time.perf_counter() - begun)

        model, seconds = train(config, tokens, schedule, device=device, compile=compile, watch=watch, kept=kept)
    keep(model, name, schedule.steps, seconds)
    if kept is not None:
        kept.unlink(missing_ok=True)
    return curve().select(pl.lit(name).alias("model"), pl.all())


def records(folder: Path) -> pl.DataFrame:
    """Return the training records of the models below `folder`, one row a model, without their schedules."""
    rows = [
        {"model": path.parent.name} | {k: v for k, v in json.loads(path.read_text()).items() if k != "schedule"}
        for path in sorted(folder.glob("*/training.json"))
    ]
    return pl.DataFrame(rows)
