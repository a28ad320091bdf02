"""A frozen model behind its calls: what fits into its context, where t1 is predicted, which BOS policy is its own."""

import json

import pytest
import torch

from capacity import models
from capacity.models import Frozen, ModelError


def test_head_of_hidden_is_the_models_logits_and_the_width_that_of_embed(frozen: Frozen):
    embeds = frozen.embed(torch.arange(5)[None])
    with torch.no_grad():
        own = frozen.model(input_ids=torch.arange(5)[None]).logits
        torch.testing.assert_close(frozen.head(frozen.hidden(embeds)), own, atol=1e-4, rtol=0)
    assert embeds.shape[-1] == frozen.dim == frozen.facts()["d_model"]
    assert frozen.vocab_size == own.shape[-1] == frozen.facts()["vocab_size"]
    assert not embeds.requires_grad


def test_scales_are_those_of_all_entries(tiny: Frozen):
    entries = tiny.embed(torch.arange(tiny.vocab_size)[None]).double()
    assert tiny.embedding_std == pytest.approx((entries - entries.mean()).square().mean().sqrt().item(), rel=1e-5)


def test_what_was_carried_on_is_what_reading_it_all_again_gives(tiny: Frozen):
    embeds = tiny.embed(torch.tensor([[3, 1, 4, 1, 5, 9]]))
    with torch.no_grad():
        _, state = tiny.carried(embeds[:, :4])
        logits, _ = tiny.carried(embeds[:, 4:], state)
        torch.testing.assert_close(logits, tiny.logits(embeds)[:, 4:], atol=1e-4, rtol=0)


def test_room_is_what_is_left_of_the_context(tiny: Frozen):
    assert tiny.context == 64
    assert (tiny.room(1), tiny.room(64), tiny.room(65)) == (63, 0, 0)
    tiny.check_length(63, 1)
    with pytest.raises(ModelError, match=r"64 tokens and 1 \[mem\] are 65 positions, .*shorten the text to 63 tokens"):
        tiny.check_length(64, 1)


@pytest.mark.parametrize(
    ("length", "n_mem", "context", "n_before", "words"),
    [
        (1, 0, 8, 0, "n_mem is 0"),
        (0, 1, 8, 0, "the text is empty"),
        (7, 1, 8, 1, r"7 tokens and 1 \[mem\] after BOS are 9 positions, .*to 6 tokens"),
        (1, 9, 8, 0, "take fewer vectors"),
    ],
)
def test_a_length_that_does_not_fit_says_what_would(length, n_mem, context, n_before, words):
    with pytest.raises(ModelError, match=words):
        models.check_length(length, n_mem, context=context, name="m", n_before=n_before)


def test_without_a_context_any_length_fits():
    models.check_length(10**6, 1, context=None, name="m")


@pytest.mark.parametrize(
    ("record", "policy"), [(None, "none"), ("no JSON", "none"), ('{"bos": "before_mem"}', "before_mem"), ("[]", "none")]
)
def test_the_policy_is_the_models_own_where_it_names_one(record, policy, tokenizer, tmp_path):
    if record is not None:
        (tmp_path / "training.json").write_text(record)
    assert models.bos_policy(tokenizer, tmp_path) == policy


def test_a_policy_that_a_model_may_not_name_is_refused(tokenizer, tmp_path):
    (tmp_path / "training.json").write_text(json.dumps({"bos": "after_mem"}))
    with pytest.raises(ModelError, match="names bos 'after_mem'; none and before_mem are allowed"):
        models.bos_policy(tokenizer, tmp_path)
