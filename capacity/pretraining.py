"""How the embedded models are made: a byte-level BPE tokenizer, one stream of tokens, a small causal LM."""

import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from capacity import provenance

__all__ = [
    "CONTEXT", "FAMILIES", "RUNGS", "SCHEDULES", "Schedule", "batches", "books", "frequent_words", "held_out_nats",
    "llama", "neox", "next_token_loss", "rate", "records", "rung", "save", "stream", "train", "train_tokenizer",
]  # fmt: skip

END, END_ID = "<|endoftext|>", 0
CONTEXT = 512  # tokens


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Settings of one training run; rungs that take the same ones see the same batches."""

    tokens: int  # tokens seen in all
    batch: int = 2048  # tokens a step
    lengths: tuple[int, ...] = (32, 64, 128, 256, 512)  # tokens a sequence, one of these a step
    weights: tuple[float, ...] = (0.25, 0.25, 0.25, 0.125, 0.125)  # how often each length is drawn
    peak: float = 3e-3  # learning rate after the warm-up
    floor: float = 0.05  # of the peak, where the cosine ends
    warmup: int = 300  # steps
    decay: float = 0.1  # AdamW's weight decay
    clip: float = 1.0  # norm of the gradient
    begin: bool = False  # the first token of every sequence gives way to END, as Llama's begin with BOS
    seed: int = 0

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return math.ceil(self.tokens / self.batch)


def llama(*, width: int, layers: int, vocab_size: int, heads: int, inner: int) -> PreTrainedConfig:
    """Return the config of a Llama-like model: RoPE, RMSNorm, gated MLP, untied embeddings."""
    return LlamaConfig(
        vocab_size=vocab_size, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, intermediate_size=inner, max_position_embeddings=CONTEXT,
        bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip


def neox(*, width: int, layers: int, vocab_size: int, heads: int, inner: int) -> PreTrainedConfig:
    """Return the config of a GPT-NeoX-like model (as Pythia): parallel residual, LayerNorm, partial RoPE."""
    return GPTNeoXConfig(
        vocab_size=vocab_size, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=inner, max_position_embeddings=CONTEXT, bos_token_id=0, eos_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip


FAMILIES: dict[str, Callable[..., PreTrainedConfig]] = {"llama": llama, "neox": neox}

# The embedded models. Heads are 32 wide and layers 4 in every rung, so that width is what differs in a family, and
# what SCHEDULES names: how a model was trained decides what it holds, too (papers/fitting-notes.md).
RUNGS: dict[str, dict] = {
    "llama-64": {"family": "llama", "width": 64, "layers": 4, "heads": 2, "inner": 176},
    "llama-128": {"family": "llama", "width": 128, "layers": 4, "heads": 4, "inner": 352},
    "llama-192": {"family": "llama", "width": 192, "layers": 4, "heads": 6, "inner": 512},
    "neox-128": {"family": "neox", "width": 128, "layers": 4, "heads": 4, "inner": 512},
    "llama-128-bos": {"family": "llama", "width": 128, "layers": 4, "heads": 4, "inner": 352},
}
SCHEDULES: dict[str, dict] = {"llama-128-bos": {"begin": True, "lengths": (128, 512), "weights": (0.8, 0.2)}}


def books(path: Path | str, *, column: str = "text") -> list[str]:
    """Return the documents of a Parquet file's `column`, or a text file as one document."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no corpus at {path}; give a Parquet file with a column {column!r}, or a text file")
    if path.suffix == ".parquet":
        return pl.read_parquet(path, columns=[column])[column].to_list()
    return [path.read_text(encoding="utf-8")]


def train_tokenizer(documents: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of `vocab_size` tokens, `<|endoftext|>` (END_ID) the only special one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )  # fmt: skip


def stream(documents: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Return all documents as one array of token ids (n_tokens,), uint16, each followed by `<|endoftext|>`."""
    end = tokenizer.convert_tokens_to_ids(END)
    encoded = tokenizer.backend_tokenizer.encode_batch_fast(list(documents), add_special_tokens=False)
    return np.concatenate([np.array([*document.ids, end], dtype=np.uint16) for document in encoded])


def batches(tokens: np.ndarray, schedule: Schedule) -> Iterator[torch.Tensor]:
    """Yield the ids of each step (batch // length, length): blocks of CONTEXT in seeded order, epoch after epoch."""
    blocks = tokens[: len(tokens) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    per_step = schedule.batch // CONTEXT
    if len(blocks) < per_step:
        raise ValueError(f"{len(tokens)} tokens are fewer than one step takes ({schedule.batch}); give more text")
    rng = np.random.default_rng(schedule.seed)
    order, at = rng.permutation(len(blocks)), 0
    for _ in range(schedule.steps):
        if at + per_step > len(order):
            order, at = rng.permutation(len(blocks)), 0
        length = int(rng.choice(schedule.lengths, p=schedule.weights))
        chosen = blocks[order[at : at + per_step]].astype(np.int64)
        at += per_step
        ids = torch.from_numpy(chosen.reshape(-1, length))
        if schedule.begin:
            ids[:, 0] = END_ID
        yield ids


def rate(step: int, schedule: Schedule) -> float:
    """Return the learning rate at `step`: linear warm-up, then a cosine to `floor` of the peak."""
    if step < schedule.warmup:
        return schedule.peak * (step + 1) / schedule.warmup
    progress = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return schedule.peak * (schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * progress)))


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
    watch: Callable[[int, float, PreTrainedModel], None] | None = None,
) -> tuple[PreTrainedModel, float]:
    """Return the trained model (float32, on `device`) and the seconds it took.

    tokens: (n_tokens,) uint16, from `stream`; compile: through torch.compile, one graph for each of the schedule's
    lengths; watch: called with step, loss in nats, model, before each update.
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
    started = time.perf_counter()
    for step, ids in enumerate(batches(tokens, schedule)):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, schedule)
        loss = next_token_loss(run, ids.to(device))
        if watch is not None:
            watch(step, loss.item(), model)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()
    return model.eval(), time.perf_counter() - started


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, record: dict) -> None:
    """Write model (bfloat16, shards of at most 12 MB), tokenizer, `record` (training.json) and a README."""
    folder.mkdir(parents=True, exist_ok=True)
    model.bfloat16().save_pretrained(folder, max_shard_size="12MB")
    tokenizer.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    lines = [f"| {key.replace('_', ' ')} | {value} |" for key, value in record.items()]
    title = f"# {folder.name}\n\nA small causal language model, trained by `notebooks/90_pretrain.py`.\n\n"
    (folder / "README.md").write_text(title + "| fact | value |\n|---|---|\n" + "\n".join(lines) + "\n")


def rung(
    name: str,
    tokenizer: PreTrainedTokenizerFast,
    tokens: np.ndarray,
    held_out: np.ndarray,
    schedule: Schedule,
    *,
    bytes_per_token: float,
    out: Path,
    device: str = "cpu",
    compile: bool = False,
) -> pl.DataFrame:
    """Train the model RUNGS[name], save it to `out / name`, and return its curve (step, tokens, loss_nats).

    tokens, held_out: (n_tokens,) from `stream`; schedule: with SCHEDULES[name] in place of its own; bytes_per_token: of
    the held-out text, for bits per byte; device, compile: of `train`.
    """
    if name not in RUNGS:
        raise ValueError(f"unknown rung {name!r}; known are {', '.join(RUNGS)}")
    shape = dict(RUNGS[name])
    schedule = replace(schedule, **SCHEDULES.get(name, {}))
    config = FAMILIES[shape.pop("family")](**shape, vocab_size=len(tokenizer))
    losses: list[float] = []
    with tqdm(total=schedule.steps, desc=name, mininterval=5) as bar:

        def watch(step: int, loss: float, model: PreTrainedModel) -> None:
            losses.append(loss)
            bar.update()
            bar.set_postfix(nats=f"{np.mean(losses[-50:]):.3f}", refresh=False)

        model, seconds = train(config, tokens, schedule, device=device, compile=compile, watch=watch)
    model = model.bfloat16().float()  # what is measured is what is stored
    nats = held_out_nats(model, held_out)
    record = {
        "parameters": sum(p.numel() for p in model.parameters()),
        **RUNGS[name],
        "vocabulary": len(tokenizer),
        "context_tokens": CONTEXT,
        "held_out_nats_per_token": round(nats, 4),
        "held_out_bits_per_token": round(nats / math.log(2), 4),
        "held_out_bits_per_byte": round(nats / math.log(2) / bytes_per_token, 4),
        "tokens_seen": schedule.steps * schedule.batch,
        "seconds": round(seconds),
        "machine": f"{provenance.machine()}, {torch.get_num_threads()} threads{', compiled' if compile else ''}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": provenance.versions(),
        "schedule": asdict(schedule),
    }
    save(model, tokenizer, out / name, record)
    steps = np.arange(len(losses))
    return pl.DataFrame({"model": name, "step": steps, "tokens": (steps + 1) * schedule.batch, "loss_nats": losses})


def records(folder: Path) -> pl.DataFrame:
    """Return the training records of the models below `folder`, one row a model, without their schedules."""
    rows = [
        {"model": path.parent.name} | {k: v for k, v in json.loads(path.read_text()).items() if k != "schedule"}
        for path in sorted(folder.glob("*/training.json"))
    ]
    return pl.DataFrame(rows)


def frequent_words(documents: Iterable[str], n: int) -> list[str]:
    """Return the `n` most frequent words, lower-cased, most frequent first (ties in alphabetical order)."""
    counts: Counter[str] = Counter()
    for document in documents:
        counts.update(re.findall(r"[a-z]+(?:'[a-z]+)?", document.lower()))
    return [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:n]]
