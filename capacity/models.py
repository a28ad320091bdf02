"""A frozen causal language model behind four calls (`embed`, `hidden`, `head`, `logits`), and its facts."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import transformers  # what is quoted below takes it seconds to import: not before a model is loaded
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from capacity import heads
from capacity.checkpoints import (
    EMBEDDED,
    ModelError,
    commit_of,
    context_of,
    describe,
    digest,
    loading,
    locate,
    tokenizer_digest,
)

__all__ = [
    "BOS", "DTYPES", "EMBEDDED", "Frozen", "ModelError", "bos_id", "check_length", "commit_of", "context_of",
    "describe", "digest", "load", "locate", "tokenizer_digest",
]  # fmt: skip

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Policies for the beginning-of-sequence token: it is not there, stands before [mem] in every input, or is the text's
# own first token t1, given to the decoder (the paper's runs of Llama).
BOS = ("none", "before_mem", "after_mem")


@dataclass(frozen=True, eq=False)
class Frozen:
    """A causal LM whose weights never change; dim is [mem]'s width, dtype and device those of the weights."""

    model: "transformers.PreTrainedModel"
    tokenizer: PreTrainedTokenizerBase
    name: str
    revision: str  # digest of the files that were loaded
    weight: Float[Tensor, "vocab width"] | None  # the head's, where head(h) = h Wᵀ + b; else None
    bias: Float[Tensor, " vocab"] | None
    bos: str = "none"  # policy, one of BOS
    commit: str | None = None  # of the hub, where it came from there
    tail: "transformers.PreTrainedModel | None" = None  # makes logits of hidden states, where the head is not linear

    @property
    def _embedding(self) -> Tensor:
        weight = self.model.get_input_embeddings().weight
        assert isinstance(weight, Tensor)  # for the type checker: a module's attribute may be a module
        return weight

    @property
    def device(self) -> torch.device:
        """Where the embedding lies, and with it [mem], hidden states and logits, wherever the rest is."""
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

    @property
    def n_before(self) -> int:
        """How many vectors stand before [mem]: 1 under the policy `before_mem`, else 0."""
        return int(self.bos == "before_mem")

    @cached_property
    def embedding_std(self) -> float:
        """The standard deviation over all entries of `embed` of all ids: the scale of a start."""
        ids = torch.arange(self.vocab_size).unsqueeze(0)
        return self.embed(ids).float().std(unbiased=False).item()

    @cached_property
    def logit_std(self) -> float:
        """The standard deviation over the vocabulary of the logits, averaged over positions of evenly spaced ids."""
        ids = torch.arange(0, self.vocab_size, max(1, self.vocab_size // 64))[None, : min(64, self.context or 64)]
        with torch.no_grad():
            return self.logits(self.embed(ids)).float().std(-1).mean().item()

    def embed(self, ids: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens dim"]:
        """Return the input vectors of `ids`, as the model makes them."""
        return self.model.get_input_embeddings()(ids.to(self.device)).detach()

    @cached_property
    def _begin(self) -> Float[Tensor, "1 1 dim"]:
        return self.embed(torch.tensor([[bos_id(self.tokenizer, name=self.name)]]))

    def inputs(
        self, mem: Float[Tensor, "batch n_mem dim"] | None, context: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch positions dim"]:
        """Return what the model reads: BOS (under `before_mem`), [mem] and context, in context's dtype, on its device.

        The state at position `n_before + n_mem - 1` predicts t1.

        Args:
            mem: the vectors of each text; None for texts alone.
            context: input vectors of the tokens that stand after [mem], as `embed` gives them; there may be none.
        """
        parts = [self._begin.expand(len(context), -1, -1)] if self.n_before else []
        if mem is not None:
            parts.append(mem.to(context.device, context.dtype))
        return torch.cat([*parts, context], dim=1)

    def hidden(self, embeds: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens width"]:
        """Return the final hidden states; where no head could be told apart, the logits themselves (see `head`)."""
        embeds = embeds.to(self.model.dtype)
        if self.weight is None and self.tail is None:
            return self.model(inputs_embeds=embeds, use_cache=False).logits
        states = self.model.base_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        return states.to(embeds.device)  # elsewhere where the model is spread over devices

    def head(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch vocab"]:
        """Return the logits of final hidden states: h Wᵀ + b, or `tail`'s, or the identity where `hidden` made them."""
        if self.tail is not None:
            return self.tail(inputs_embeds=hidden.reshape(1, -1, hidden.shape[-1])).logits.view(*hidden.shape[:-1], -1)
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

    def facts(self) -> dict[str, Any]:
        """Return all that is known of a model: its name and files, architecture, sizes, dtype, attention, BOS policy.

        `vocab_size` counts the rows of the embedding, `tokenizer_size` the tokens; `context` is None where nothing
        limits it, `commit` where the model did not come from a hub.
        """
        config = self.model.config
        return {
            "model": self.name,
            "revision": self.revision,
            "commit": self.commit,
            "architecture": type(self.model).__name__,
            "n_parameters": self.model.num_parameters(),
            "n_layers": getattr(config.get_text_config(), "num_hidden_layers", None),
            "d_model": self.dim,
            "vocab_size": self.vocab_size,
            "tokenizer_size": len(self.tokenizer),
            "tokenizer_digest": self.tokenizer_digest,
            "context": self.context,
            "bos": self.bos,
            "attention": str(config._attn_implementation),
            "dtype": self.dtype,
        }

    def check_length(self, length: int, n_mem: int) -> None:
        """Raise ModelError as `check_length`, for this model's context."""
        check_length(length, n_mem, context=self.context, name=self.name, n_before=self.n_before)


def check_length(length: int, n_mem: int, *, context: int | None, name: str, n_before: int = 0) -> None:
    """Raise ModelError if BOS, `n_mem` vectors and `length` tokens don't fit into a context, or are below one.

    n_before: 1 where BOS stands before [mem], else 0.
    """
    if n_mem < 1:
        raise ModelError(f"n_mem is {n_mem}; at least one [mem] vector is needed")
    if length < 1:
        raise ModelError("the text is empty; give at least one token")
    positions = n_before + n_mem + length
    if context is not None and positions > context:
        before = " after BOS" if n_before else ""
        raise ModelError(
            f"{length} tokens and {n_mem} [mem]{before} are {positions} positions, past the context of {name} "
            f"({context}); shorten the text to {max(0, context - n_mem - n_before)} tokens"
        )


def bos_id(tokenizer: PreTrainedTokenizerBase, *, name: str) -> int:
    """Return the token for the beginning of a sequence; raises ModelError if the tokenizer of `name` has none."""
    token = tokenizer.bos_token_id
    if not isinstance(token, int):
        raise ModelError(f"the tokenizer of {name} has no BOS token; use bos='none'")
    return token


def load(
    name: str,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    attention: str | None = None,
    bos: str = "none",
) -> Frozen:
    """Return the model, frozen and in evaluation mode.

    Args:
        name: an embedded name, a local folder, or a name on the hub, OWNER/NAME or OWNER/NAME@REVISION.
        revision: a commit, branch or tag of the hub, where the name has none.
        device: None takes CUDA, then MPS, then CPU; `auto` spreads the model over all GPUs (extra `sharded`).
        dtype: float32 (None), bfloat16 or float16.
        attention: an implementation of transformers (`sdpa`, `eager`, ...); None takes the model's own choice.
        bos: policy for the beginning-of-sequence token, one of BOS.

    Raises ModelError when there is no such model, it has no safetensors, it needs code from a hub, the device is not
    there, or the tokenizer has no token that the policy needs.
    """
    kind = dtype if isinstance(dtype, torch.dtype) else DTYPES.get(dtype or "float32")
    if kind not in DTYPES.values():
        raise ModelError(f"unknown dtype {dtype!r}; known are {', '.join(DTYPES)}")
    if bos not in BOS:
        raise ModelError(f"unknown bos {bos!r}; known are {', '.join(BOS)}")
    place = _place(device)
    folder = locate(name, revision=revision)
    config, tokenizer = describe(name, folder)
    if bos != "none":
        bos_id(tokenizer, name=name)
    options: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    if place is None:
        options["device_map"] = "auto"
    with loading(name), _no_bars():
        found: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=kind, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True, ignore_mismatched_sizes=True, **options,
        )  # fmt: skip
    model, report = found
    wrong = sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
    if wrong:  # transformers makes them up
        raise ModelError(
            f"{len(wrong)} weights of {name!r} are not in its files, or of another shape than its config says "
            f"({', '.join(wrong[:3])}); give files of a whole causal model"
        )
    if place is not None:
        torch.nn.Module.to(model, place)
    return freeze(model, tokenizer, name=name, revision=digest(folder), bos=bos, commit=commit_of(folder))


def freeze(
    model: "transformers.PreTrainedModel",
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    revision: str,
    bos: str = "none",
    commit: str | None = None,
) -> Frozen:
    """Return a causal model that is in memory already, frozen and in evaluation mode; see Frozen for the fields."""
    model.eval().requires_grad_(False)
    weight, bias = heads.linear(model)
    return Frozen(
        model, tokenizer, name, revision, weight, bias, bos, commit, None if weight is not None else heads.tail(model)
    )


def _place(device: str | torch.device | None) -> torch.device | None:
    """Return the device for a whole model, or None to spread it over all; raises ModelError if that can't be."""
    if device == "auto":
        if importlib.util.find_spec("accelerate") is None:
            raise ModelError("device='auto' needs accelerate; install it (the extra `sharded`), or name one device")
        return None
    if device is None:
        found = (("cuda", torch.cuda), ("mps", torch.backends.mps))
        device = next((kind for kind, there in found if there.is_available()), "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ModelError(
            f"no device {str(device)!r} here ({reason}); give cpu, cuda, cuda:N, mps, auto or None"
        ) from error


@contextmanager
def _no_bars() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
