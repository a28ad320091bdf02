"""A frozen causal language model behind four calls (`embed`, `hidden`, `head`, `logits`), and its facts."""

import inspect
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import transformers  # its classes take seconds to import: not before a model is loaded
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from capacity.models.beginning import bos_id
from capacity.models.checkpoints import context_of, tokenizer_digest
from capacity.models.errors import ModelError
from capacity.models.habits import spared
from capacity.models.products import Products
from capacity.models.senses import parts

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
    quantisation: str | None = None  # of the GGUF file that the weights were dequantised from; None for others
    contract: Any = None  # a contract.Contract: what was measured as it was loaded; None where it was made in memory

    def __repr__(self) -> str:
        kind, size = type(self.model).__name__, self.model.num_parameters()
        return f"Frozen({self.name!r}, {kind}, {size:,} parameters, width {self.dim}, {self.dtype} on {self.device})"

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

    @cached_property
    def products(self) -> Products:
        """What its linear layers are multiplied by in `hidden` and `head`."""
        return Products(self.model, self.weight, width=self.dim)

    @property
    def vocab_size(self) -> int:
        """The rows of the embedding, padded ones included: Eq. 1's V."""
        return self._embedding.shape[0]

    @property
    def n_parameters(self) -> int:
        """The parameters that a text's logits pass through, tied ones once: none of a vision tower's."""
        return sum(parameter.numel() for name, parameter in self.model.named_parameters() if not parts([name]))

    @property
    def context(self) -> int | None:
        """The most input vectors at once, [mem] included; None where the architecture sets no limit."""
        return context_of(self.model.config)

    def room(self, n_mem: int) -> int | None:
        """Return how many tokens a text may have beside `n_mem` vectors and BOS; None where nothing limits it."""
        return None if self.context is None else max(0, self.context - self.n_before - n_mem)

    def predicting(self, n_mem: int) -> int:
        """Return how many positions stand before the one that predicts t1, after `n_mem` vectors (1 or more)."""
        return self.n_before + n_mem - 1

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
        return self._some_logits().float().std(-1).mean().item()

    @cached_property
    def logit_resolution(self) -> float:
        """How far apart the number type holds neighbouring logits of the size of the largest, averaged as logit_std."""
        logits = self._some_logits()
        exponent = torch.frexp(logits.float().amax(-1).abs())[1] - 1
        return torch.finfo(logits.dtype).eps * (2.0**exponent).mean().item()

    def _some_logits(self) -> Float[Tensor, "one positions vocab"]:
        ids = torch.arange(0, self.vocab_size, max(1, self.vocab_size // 64))[None, : min(64, self.context or 64)]
        with torch.no_grad():
            return self.logits(self.embed(ids))

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

        See `predicting` for the position that predicts t1.

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
        with spared(), self.products.taken():
            if self.weight is None and self.tail is None:
                return self.model(inputs_embeds=embeds, use_cache=False).logits
            states = self.model.base_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        return states.to(embeds)  # elsewhere where the model is spread over devices, wider in some recurrent ones

    def head(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch vocab"]:
        """Return the logits of final hidden states: h Wᵀ + b, or `tail`'s, or the identity where `hidden` made them."""
        if self.tail is not None:
            return self.tail(inputs_embeds=hidden.reshape(1, -1, hidden.shape[-1])).logits.view(*hidden.shape[:-1], -1)
        if self.weight is None:
            return hidden
        return self.products.linear(hidden, self.weight, self.bias)

    def logits(self, embeds: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens vocab"]:
        """Return the next-token logits at every position of the input vectors."""
        return self.head(self.hidden(embeds))

    def carried(
        self, embeds: Float[Tensor, "batch tokens dim"], state: dict[str, Any] | None = None
    ) -> tuple[Float[Tensor, "batch tokens vocab"], dict[str, Any]]:
        """Return the logits of input vectors read after a state, and the state after them.

        What a model puts out that it also takes in (keys and values, a recurrent state) is the state; it is empty for a
        model that carries nothing on, which has to read everything again.
        """
        out = self.model(inputs_embeds=embeds, use_cache=True, **(state or {}))
        taken = inspect.signature(self.model.forward).parameters.keys()
        return out.logits, {name: value for name, value in out.items() if name in taken}

    @cached_property
    def tokenizer_digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of the tokenizer's definition."""
        return tokenizer_digest(self.tokenizer)

    def facts(self) -> dict[str, Any]:
        """Return all that is known of a model: its name and files, architecture, sizes, dtype, attention, BOS policy.

        `vocab_size` counts the rows of the embedding, `tokenizer_size` the tokens; `context` is None where nothing
        limits it, `commit` where the model did not come from a hub, `quantisation` where not from a GGUF file.
        """
        config = self.model.config
        return {
            "model": self.name,
            "revision": self.revision,
            "commit": self.commit,
            "quantisation": self.quantisation,
            "architecture": type(self.model).__name__,
            "n_parameters": self.n_parameters,
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
        room = context - n_mem - n_before
        less = f"shorten the text to {room} tokens" if room > 0 else "take fewer vectors"
        raise ModelError(
            f"{length} tokens and {n_mem} [mem]{before} are {positions} positions, past the context of {name} "
            f"({context}); {less}"
        )
