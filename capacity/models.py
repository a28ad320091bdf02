"""A frozen causal language model behind four calls (`embed`, `hidden`, `head`, `logits`), and its facts."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from capacity import resources

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FILES = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "*.model",
    "vocab*",
    "merges*",
)


class ModelError(ValueError):
    """A model that cannot be had, or cannot be used: says what was given, what is allowed, what to do."""


def _embedded() -> dict[str, Path]:
    found = sorted(
        (
            sum(file.stat().st_size for file in path.parent.glob("*.safetensors")),
            path.parent.name,
            path.parent,
        )
        for path in (resources.data() / "models").glob("*/config.json")
    )
    return {name: folder for _, name, folder in found}


EMBEDDED: dict[str, Path] = _embedded()  # name -> folder, smallest first


@dataclass(frozen=True, eq=False)
class Frozen:
    """A causal LM whose weights never change; dim is [mem]'s width, dtype and device those of the weights."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str  # digest of the files that were loaded
    weight: Float[Tensor, "vocab width"] | None  # the head's, where head(h) = h Wᵀ + b; else None
    bias: Float[Tensor, " vocab"] | None

    @property
    def _embedding(self) -> Tensor:
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)  # for the type checker: a module's attribute may be a module
        return weight

    @property
    def device(self) -> torch.device:
        """Where the embedding lies, and [mem] with it."""
        return self._embedding.device

    @property
    def dtype(self) -> str:
        """The weights' dtype, a key of DTYPES."""
        return str(self.model.dtype).removeprefix("torch.")

    @cached_property
    def dim(self) -> int:
        """The width of what `embed` returns, which is [mem]'s."""
        return self.embed(torch.zeros(1, 1, dtype=torch.long)).shape[-1]

    @property
    def vocab_size(self) -> int:
        """The rows of the embedding, padded ones included: Eq. 1's V."""
        return self._embedding.shape[0]

    @property
    def context(self) -> int | None:
        """The most input vectors at once, [mem] included; None where the architecture sets no limit."""
        return context_of(self.model.config)

    @cached_property
    def embedding_std(self) -> float:
        """The standard deviation over all entries of `embed` of all ids: the scale of a start."""
        ids = torch.arange(self.vocab_size).unsqueeze(0)
        return self.embed(ids).float().std(unbiased=False).item()

    def embed(self, ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens dim"]:
        """Return the input vectors of `ids`, as the model makes them."""
        return self.model.get_input_embeddings()(ids.to(self.device)).detach()

    def hidden(self, embeds: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens width"]:
        """Return the final hidden states; where the head is not linear, the logits themselves (see `head`)."""
        embeds = embeds.to(self.model.dtype)
        if self.weight is None:
            return self.model(inputs_embeds=embeds, use_cache=False).logits
        return self.model.base_model(inputs_embeds=embeds, use_cache=False).last_hidden_state

    def head(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch vocab"]:
        """Return the logits of final hidden states: h Wᵀ + b, or the identity where `hidden` made them."""
        if self.weight is None:
            return hidden
        return torch.nn.functional.linear(hidden, self.weight, self.bias)

    def logits(self, embeds: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens vocab"]:
        """Return the next-token logits at every position of the input vectors."""
        return self.head(self.hidden(embeds))

    @cached_property
    def tokenizer_digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of the tokenizer's definition."""
        return tokenizer_digest(self.tokenizer)

    def facts(self) -> dict:
        """Return what a row records of a model: name, revision, architecture, sizes, dtype, attention, BOS policy."""
        return {
            "model": self.name,
            "revision": self.revision,
            "architecture": type(self.model).__name__,
            "n_parameters": self.model.num_parameters(),
            "d_model": self.dim,
            "vocab_size": self.vocab_size,
            "tokenizer_digest": self.tokenizer_digest,
            "bos": "none",
            "attention": str(self.model.config._attn_implementation),
            "dtype": self.dtype,
        }

    def check_length(self, length: int, n_mem: int) -> None:
        """Raise ModelError as `check_length`, for this model's context."""
        check_length(length, n_mem, context=self.context, name=self.name)


def check_length(length: int, n_mem: int, *, context: int | None, name: str) -> None:
    """Raise ModelError if `n_mem` vectors and `length` tokens don't fit into a context, or are below one."""
    if n_mem < 1:
        raise ModelError(f"n_mem is {n_mem}; at least one [mem] vector is needed")
    if length < 1:
        raise ModelError("the text is empty; give at least one token")
    if context is not None and length + n_mem > context:
        raise ModelError(
            f"{length} tokens and {n_mem} [mem] are {length + n_mem} positions, past the context of {name} "
            f"({context}); shorten the text to {max(0, context - n_mem)} tokens"
        )


def context_of(config: PreTrainedConfig) -> int | None:
    """Return the most input vectors at once, [mem] included; None where the architecture sets no limit."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the first 16 hex digits of the SHA-256 of a tokenizer's definition."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def locate(name: str, *, revision: str | None = None) -> Path:
    """Return the folder of a model: an embedded name, a local folder, or a hub name (downloaded if not cached).

    Raises ModelError for an unknown name, a hub that can't be reached, or a folder without safetensors.
    """
    if not name or "\0" in name:
        raise ModelError(f"{name!r} names no model; embedded are {', '.join(EMBEDDED)}")
    folder = EMBEDDED.get(name) or _local(name)
    if folder is None:
        try:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(_FILES)))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            reason = str(error).strip().splitlines()[0][:200] or type(error).__name__
            raise ModelError(
                f"no model {name[:120]!r}: it is not embedded ({', '.join(EMBEDDED)}), not a local folder, and the hub "
                f"did not give it ({reason}). Check the name, or download it where there is a network; a gated model "
                "needs its licence accepted and HF_TOKEN"
            ) from error
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; give a folder written by save_pretrained")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder} has no *.safetensors, and pickled weights are not read; convert them with "
            "save_pretrained(..., safe_serialization=True)"
        )
    return folder


def _local(name: str) -> Path | None:
    try:
        folder = Path(name).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long a name, no such user's home, odd characters
        return None


def digest(folder: Path) -> str:
    """Return 16 hex digits that change with any file that `load` reads (a hub cache names blobs by their content)."""
    total = hashlib.sha256()
    for path in sorted({file for pattern in _FILES for file in folder.glob(pattern)}):
        total.update(path.name.encode())
        blob = path.resolve()
        if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
            total.update(blob.name.encode())
        else:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


def describe(name: str, folder: Path) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Return the config and tokenizer in a model's folder, without its weights; raises ModelError as `load`."""
    with _loading(name, folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return config, AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


@contextmanager
def _loading(name: str, folder: Path) -> Iterator[None]:
    """Turn what transformers raises into a ModelError."""
    settings = [folder / name for name in ("config.json", "tokenizer_config.json")]
    try:
        yield
    except (ValueError, ImportError, KeyError, OSError, SafetensorError) as error:
        if not any('"auto_map"' in path.read_text(errors="replace") for path in settings if path.is_file()):
            raise ModelError(f"transformers cannot load {name!r} as a causal model: {error}") from error
        raise ModelError(
            f"{name!r} needs code from a hub, which is never run; use a model of an architecture that transformers has"
        ) from error


def load(
    name: str,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    attention: str | None = None,
) -> Frozen:
    """Return the model, frozen and in evaluation mode.

    Args:
        name: embedded name, local folder, or hub name.
        revision: a hub commit, branch or tag.
        device: None takes CUDA, then MPS, then CPU.
        dtype: float32 (None), bfloat16 or float16.
        attention: an implementation of transformers (`sdpa`, `eager`, ...); None takes the model's own choice.

    Raises ModelError when there is no such model, it has no safetensors, or it needs code from a hub.
    """
    kind = dtype if isinstance(dtype, torch.dtype) else DTYPES.get(dtype or "float32")
    if kind is None:
        raise ModelError(f"unknown dtype {dtype!r}; known are {', '.join(DTYPES)}")
    folder = locate(name, revision=revision)
    device = device or next(
        (kind for kind, there in (("cuda", torch.cuda), ("mps", torch.backends.mps)) if there.is_available()),
        "cpu",
    )
    options = {} if attention is None else {"attn_implementation": attention}
    with _loading(name, folder), _no_bars():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=kind, use_safetensors=True, trust_remote_code=False, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    torch.nn.Module.to(model, device)
    model.eval().requires_grad_(False)
    weight, bias = _linear_head(model)
    return Frozen(model, tokenizer, name, digest(folder), weight, bias)


@contextmanager
def _no_bars() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@torch.no_grad()
def _linear_head(model: PreTrainedModel) -> tuple[Tensor | None, Tensor | None]:
    """Return (W, b) if logits are base_model's last hidden states times Wᵀ plus b, measured; else (None, None)."""
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or model.base_model is model:
        return None, None
    ids = torch.arange(8, device=head.weight.device).unsqueeze(0) % head.weight.shape[0]
    embeds = model.get_input_embeddings()(ids)
    out = model.base_model(inputs_embeds=embeds, use_cache=False)
    hidden = getattr(out, "last_hidden_state", None)
    if hidden is None or hidden.shape[-1] != head.weight.shape[1]:
        return None, None
    expected = model(inputs_embeds=embeds, use_cache=False).logits.float()
    found = torch.nn.functional.linear(hidden, head.weight, head.bias).float()
    scale = expected.abs().max().clamp_min(1.0)
    same = found.shape == expected.shape and bool(((found - expected).abs() <= 1e-5 * scale).all())
    return (head.weight, head.bias) if same else (None, None)
