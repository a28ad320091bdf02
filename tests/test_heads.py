"""What makes logits of hidden states: a linear map where it is one, else the model's own tail, chunk by chunk."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from capacity import models
from capacity.models import Frozen, heads

SHAPE = {
    "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64,
    "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
BENT = {
    "capped": Gemma2Config(head_dim=8, final_logit_softcapping=10.0, **SHAPE),
    "scaled up": CohereConfig(logit_scale=3.0, **SHAPE),
    "scaled down": GraniteConfig(logits_scaling=4.0, **SHAPE),
}
LLAMA = LlamaConfig(tie_word_embeddings=False, **SHAPE)
DTYPES = [torch.float32, torch.bfloat16]


def made(config: PreTrainedConfig, *, kind: type = AutoModelForCausalLM, dtype: torch.dtype = torch.float32):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind is AutoModelForCausalLM:
            return AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False)
        return kind(config).eval().requires_grad_(False)


def freeze(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Frozen:
    return models.freeze(model, tokenizer, name="made here", revision="0" * 16)


def vectors(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", BENT)
def test_a_bent_head_is_the_models_own_in_chunks_too(
    name: str, dtype: torch.dtype, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = made(BENT[name], dtype=dtype)
    assert heads.linear(model) == (None, None)
    frozen = freeze(model, tokenizer)
    assert frozen.weight is None
    assert frozen.tail is not None
    for scale in (0.3, 30.0):
        embeds = vectors(3, 7, scale=scale).to(dtype)
        with torch.no_grad():
            expected = model(inputs_embeds=embeds).logits
            hidden = frozen.hidden(embeds)
        assert hidden.shape == (3, 7, 32)
        tolerance = {"atol": 8 * torch.finfo(dtype).eps * float(expected.abs().max()), "rtol": 0}
        assert_close(frozen.head(hidden), expected, **tolerance)
        flat = hidden.flatten(0, 1)
        chunks = [frozen.head(flat[at : at + 4]) for at in range(0, 21, 4)]
        assert [len(chunk) for chunk in chunks] == [4] * 5 + [1]
        assert_close(torch.cat(chunks).view(3, 7, 300), expected, **tolerance)
        assert_close(frozen.head(hidden[2, 3]), expected[2, 3], **tolerance)
        bent = torch.nn.functional.linear(hidden, model.get_output_embeddings().weight)
        assert (bent - expected).abs().max() > 0.1 * expected.abs().max()  # or the tail would be no news


@pytest.mark.parametrize("name", BENT)
def test_gradients_go_through_a_tail(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    model = made(BENT[name])
    frozen, embeds = freeze(model, tokenizer), vectors(2, 5).requires_grad_()
    hidden = frozen.hidden(embeds)
    leaf = hidden.detach().flatten(0, 1).requires_grad_()
    slopes = [torch.autograd.grad(frozen.head(rows).logsumexp(-1).sum(), rows)[0] for rows in leaf.split(3)]
    (found,) = torch.autograd.grad(hidden, embeds, torch.cat(slopes).view(hidden.shape))
    (expected,) = torch.autograd.grad(model(inputs_embeds=embeds).logits.logsumexp(-1).sum(), embeds)
    assert expected.abs().max() > 0.01
    assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_tail_shares_the_weights_and_leaves_the_model_whole() -> None:
    model = made(BENT["capped"])
    before = model(inputs_embeds=vectors(1, 3)).logits
    names = list(dict(model.named_parameters()))
    rest = heads.tail(model)
    assert rest is not None
    assert rest is not model
    (weight,) = rest.parameters()  # none of the layers
    assert weight is model.get_output_embeddings().weight
    assert torch.equal(model(inputs_embeds=vectors(1, 3)).logits, before)
    assert list(dict(model.named_parameters())) == names


@pytest.mark.parametrize("kind", ["llama", "neox", "opt", "grouped", "gemma"])
def test_a_linear_head_needs_no_tail(kind: str, loaded: dict[str, Frozen]) -> None:
    frozen = loaded[kind]
    assert (frozen.weight is None) == (frozen.tail is not None) == (kind == "gemma")


def test_a_linear_head_is_weight_and_bias() -> None:
    model = made(PhiConfig(**SHAPE))
    with torch.no_grad():
        model.get_output_embeddings().bias.normal_(generator=torch.Generator().manual_seed(2))
        weight, bias = heads.linear(model)
        assert weight is model.get_output_embeddings().weight
        assert bias is model.get_output_embeddings().bias
        states = model.base_model(inputs_embeds=vectors(2, 4)).last_hidden_state
        by_hand = torch.einsum("btw,vw->btv", states, weight) + bias
        assert_close(by_hand, model(inputs_embeds=vectors(2, 4)).logits, atol=1e-4, rtol=0)


class Leaking(LlamaForCausalLM):
    """A head that looks at the input vectors beside the hidden states."""

    def forward(self, inputs_embeds: Tensor, **options):
        found = super().forward(inputs_embeds=inputs_embeds, **options)
        found.logits = found.logits + inputs_embeds.sum(-1, keepdim=True).sin()
        return found


class Peeking(LlamaForCausalLM):
    """A head that reads the hidden states before the last."""

    def forward(self, inputs_embeds: Tensor, **options):
        found = self.model(inputs_embeds=inputs_embeds, output_hidden_states=True, **options)
        found.logits = self.lm_head(found.last_hidden_state + found.hidden_states[0])
        return found


class Apart(LlamaForCausalLM):
    """A model that says it is its own base."""

    base_model_prefix = ""


@pytest.mark.parametrize("kind", [Leaking, Peeking, Apart])
def test_a_head_that_is_not_one_of_hidden_states_alone(kind: type, tokenizer: PreTrainedTokenizerFast) -> None:
    model = made(LLAMA, kind=kind)
    assert heads.linear(model) == (None, None)
    assert heads.tail(model) is None
    frozen, embeds = freeze(model, tokenizer), vectors(2, 6)
    assert (frozen.weight, frozen.tail) == (None, None)
    expected = model(inputs_embeds=embeds).logits
    hidden = frozen.hidden(embeds)  # the logits themselves
    assert torch.equal(hidden, expected)
    assert torch.equal(frozen.head(hidden.flatten(0, 1)[3:5]), expected.flatten(0, 1)[3:5])
