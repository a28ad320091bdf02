"""How a model is trained: its shape, the settings of a run, the order of batches, the learning rate."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from transformers import (
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
)

from capacity.pretraining.corpus import CONTEXT, END_ID


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
    seed: int = 0  # of the initial weights
    order_seed: int = 0  # of the order of blocks and lengths

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


def batches(tokens: np.ndarray, schedule: Schedule) -> Iterator[torch.Tensor]:
    """Yield the ids of each step (batch // length, length): blocks of CONTEXT in seeded order, epoch after epoch."""
    blocks = tokens[: len(tokens) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    per_step = schedule.batch // CONTEXT
    if len(blocks) < per_step:
        raise ValueError(f"{len(tokens)} tokens are fewer than one step takes ({schedule.batch}); give more text")
    rng = np.random.default_rng(schedule.order_seed)
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
