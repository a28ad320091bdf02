"""Shapes of published models, with random weights: how fast a model is does not depend on what its weights are."""

from collections.abc import Callable
from functools import partial

import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPTNeoXConfig, LlamaConfig, PreTrainedConfig

from capacity import models
from capacity.models import Frozen

SHAPES: dict[str, Callable[[], PreTrainedConfig]] = {
    "pythia-160m": partial(
        GPTNeoXConfig, vocab_size=50304, hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
        intermediate_size=3072, max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    ),
    "pythia-1.4b": partial(
        GPTNeoXConfig, vocab_size=50304, hidden_size=2048, num_hidden_layers=24, num_attention_heads=16,
        intermediate_size=8192, max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
    ),
    "llama-3.2-1b": partial(
        LlamaConfig, vocab_size=128256, hidden_size=2048, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, intermediate_size=8192, max_position_embeddings=131072,
        tie_word_embeddings=True,
    ),
    "smollm2-135m": partial(
        LlamaConfig, vocab_size=49152, hidden_size=576, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, intermediate_size=1536, max_position_embeddings=8192, tie_word_embeddings=True,
    ),
    "gemma3-270m": partial(
        Gemma3TextConfig, vocab_size=262144, hidden_size=640, num_hidden_layers=18, num_attention_heads=4,
        num_key_value_heads=1, head_dim=256, intermediate_size=2048, sliding_window=512, max_position_embeddings=32768,
        tie_word_embeddings=True,
    ),
    "llama-3.1-8b": partial(
        LlamaConfig, vocab_size=128256, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, intermediate_size=14336, max_position_embeddings=131072,
    ),
}  # fmt: skip


def load(name: str, *, device: str | None = None, dtype: str = "float32") -> Frozen:
    """Return the model `name`: of models.load, or `random:SHAPE` with a shape of SHAPES and random weights.

    A random model has the tokenizer of an embedded one. Raises ModelError for a name that is neither, or a dtype that
    does not exist.
    """
    shape = name.removeprefix("random:")
    if shape == name:
        return models.load(name, device=device, dtype=dtype)
    if shape not in SHAPES:
        raise models.ModelError(f"unknown shape {shape!r}; known are {', '.join(SHAPES)}")
    if dtype not in models.DTYPES:
        raise models.ModelError(f"unknown dtype {dtype!r}; known are {', '.join(models.DTYPES)}")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.manual_seed(0)
    with place:
        model = AutoModelForCausalLM.from_config(SHAPES[shape](), dtype=models.DTYPES[dtype])
    _, tokenizer = models.describe(name, next(iter(models.EMBEDDED.values())))
    return models.freeze(model, tokenizer, name=name, revision="random")
