"""Scores against a plain loop, decoding against one that encodes everything again."""

import dataclasses
import inspect
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RecurrentGemmaConfig,
    RwkvConfig,
)

from capacity import decoding, models
from capacity.decoding import (
    Ended,
    all_decoded_back,
    decoded_back,
    decoded_side_by_side,
    decoded_tokens,
    free_running,
    teacher_forced,
)  # fmt: skip
from capacity.models import Frozen, ModelError


def random_mem(frozen: Frozen, n_mem: int, seed: int = 0) -> Tensor:
    return torch.randn(n_mem, frozen.dim, generator=torch.Generator().manual_seed(seed)) * frozen.embedding_std


def random_ids(frozen: Frozen, *shape: int) -> Tensor:
    return torch.randint(0, 300, shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def next_logits(frozen: Frozen, mem: Tensor | None, ids: Sequence[int]) -> Tensor:
    """Return the logits (vocab,) after `mem` and `ids`, everything encoded from the start."""
    parts = [] if mem is None else [mem]
    if len(ids):
        parts.append(frozen.model.get_input_embeddings()(torch.tensor(ids)))
    return frozen.model(inputs_embeds=torch.cat(parts).unsqueeze(0), use_cache=False).logits[0, -1]


def naive(frozen: Frozen, mem: Tensor, n_tokens: int, given: Sequence[int] = ()) -> list[int]:
    """Return what greedy decoding gives, without a cache."""
    found = list(given)
    while len(found) < n_tokens:
        found.append(int(next_logits(frozen, mem, found).argmax()))
    return found


@pytest.mark.parametrize("n_mem", [0, 1, 3])
def test_scores_are_those_of_a_plain_loop(frozen: Frozen, n_mem: int) -> None:
    ids = random_ids(frozen, 2, 6)
    mem = torch.stack([random_mem(frozen, n_mem, seed) for seed in (0, 1)]) if n_mem else None
    score = teacher_forced(frozen, mem, ids)
    for text, row in enumerate(ids.tolist()):
        for at in range(0 if n_mem else 1, 6):
            logits = next_logits(frozen, None if mem is None else mem[text], row[:at])
            assert score.predicted[text, at] == logits.argmax()
            expected = -torch.log_softmax(logits.double(), -1)[row[at]].item() / math.log(2)
            assert score.bits[text, at] == pytest.approx(expected, abs=1e-4)
    assert (score.correct == (score.predicted == ids.numpy())).all()


def test_nothing_predicts_the_first_token_without_mem(frozen: Frozen) -> None:
    score = teacher_forced(frozen, None, random_ids(frozen, 3, 4))
    assert (score.predicted[:, 0] == -1).all()
    assert np.isnan(score.bits[:, 0]).all()
    assert not score.correct[:, 0].any()
    assert np.isfinite(score.bits[:, 1:]).all()
    alone = teacher_forced(frozen, None, random_ids(frozen, 3, 1))
    assert (alone.predicted == -1).all()
    assert np.isnan(alone.bits).all()


def test_exact_looks_at_the_scored_positions_alone(tiny: Frozen) -> None:
    mem = random_mem(tiny, 2)
    ids = naive(tiny, mem, 5)
    wrong_first = [(ids[0] + 1) % 300]
    wrong_first += naive(tiny, mem, 5, given=wrong_first)[1:]
    score = teacher_forced(tiny, torch.stack([mem, mem]), torch.tensor([ids, wrong_first]))
    assert score.exact().tolist() == [True, False]
    assert score.exact(scored_from=1).tolist() == [True, True]


def test_decoding_is_that_of_a_plain_loop(frozen: Frozen) -> None:
    mem = random_mem(frozen, 3)
    assert free_running(frozen, mem, 24) == naive(frozen, mem, 24)  # past the sliding window, where there is one


def test_given_tokens_come_first_and_count(frozen: Frozen) -> None:
    mem, given = random_mem(frozen, 1), random_ids(frozen, 2).tolist()
    found = free_running(frozen, mem, 8, given=given)
    assert found == naive(frozen, mem, 8, given)
    assert found[:2] == given
    assert found != free_running(frozen, mem, 8)
    assert free_running(frozen, mem, 2, given=given) == given


def forked(frozen: Frozen, mem: Tensor, at: int, n_tokens: int) -> tuple[list[int], list[int]]:
    """Return what `mem` decodes to, and a text that parts from it at `at` and follows the model after that."""
    own = naive(frozen, mem, n_tokens)
    for token in range(300):
        text = naive(frozen, mem, n_tokens, given=[*own[:at], token])
        if all(a != b for a, b in zip(own[at:], text[at:], strict=True)):
            return own, text
    raise AssertionError("no token changes everything after it; take another seed")


def test_one_wrong_token_is_followed_when_running_free(frozen: Frozen) -> None:
    mem = random_mem(frozen, 2, seed=3)
    own, text = forked(frozen, mem, 2, 5)
    score = teacher_forced(frozen, mem.unsqueeze(0), torch.tensor([text]))
    assert score.correct.tolist() == [[True, True, False, True, True]]
    assert free_running(frozen, mem, 5) == own
    assert own[3:] != text[3:]
    assert decoded_tokens(frozen, mem, text) == 2
    assert decoded_tokens(frozen, mem, own) == 5


def test_decoding_stops_at_the_first_wrong_token(tiny: Frozen) -> None:
    mem = random_mem(tiny, 2, seed=3)
    _, text = forked(tiny, mem, 2, 5)
    calls = []
    hook = tiny.model.register_forward_hook(lambda *_: calls.append(1))
    try:
        decoded_tokens(tiny, mem, text)
    finally:
        hook.remove()
    assert len(calls) == 3


def test_a_given_first_token_counts_as_come_back(frozen: Frozen) -> None:
    mem, first = random_mem(frozen, 1), random_ids(frozen, 1).tolist()
    text = naive(frozen, mem, 4, given=first)
    assert decoded_tokens(frozen, mem, text, scored_from=1) == 4
    assert decoded_tokens(frozen, mem, [*text[:3], (text[3] + 1) % 300], scored_from=1) == 3
    assert decoded_tokens(frozen, mem, first, scored_from=1) == 1
    if naive(frozen, mem, 1) != first:
        assert decoded_tokens(frozen, mem, text) == 0


# BOS before [mem]: what the same model does with BOS's vector as the first of [mem], or BOS as the first token.


@pytest.fixture
def begun(frozen: Frozen) -> Frozen:
    return dataclasses.replace(frozen, bos="before_mem")


def after_bos(frozen: Frozen, mem: Tensor) -> Tensor:
    return torch.cat([frozen.embed(torch.tensor([[frozen.tokenizer.bos_token_id]]))[0], mem])


def test_decoding_with_bos_before_mem(frozen: Frozen, begun: Frozen) -> None:
    mem = random_mem(frozen, 2)
    found = naive(frozen, after_bos(frozen, mem), 12, [7, 8])
    assert free_running(begun, mem, 12, given=[7, 8]) == found
    assert decoded_tokens(begun, mem, naive(frozen, after_bos(frozen, mem), 12)) == 12
    with pytest.raises(ModelError, match=r"62 tokens and 2 \[mem\] after BOS are 65 positions"):
        free_running(begun, mem, 62)


def test_scores_with_bos_before_mem(frozen: Frozen, begun: Frozen) -> None:
    ids = random_ids(frozen, 2, 6)
    mem = torch.stack([random_mem(frozen, 2, seed) for seed in (0, 1)])
    score = teacher_forced(begun, mem, ids)
    plain = teacher_forced(frozen, torch.stack([after_bos(frozen, one) for one in mem]), ids)
    assert (score.predicted == plain.predicted).all()
    assert np.array_equal(score.bits, plain.bits)
    alone = teacher_forced(begun, None, ids)
    begin = torch.full((2, 1), frozen.tokenizer.bos_token_id)
    plain = teacher_forced(frozen, None, torch.cat([begin, ids], dim=1))
    assert np.array_equal(alone.bits[:, 1:], plain.bits[:, 2:])
    assert (alone.predicted[:, 1:] == plain.predicted[:, 2:]).all()
    assert np.isnan(alone.bits[:, 0]).all()  # t1 is not scored, although BOS stands before it
    assert (alone.predicted[:, 0] == -1).all()
    assert np.isnan(teacher_forced(begun, None, ids[:, :1]).bits).all()


RECURRENT = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, **dict.fromkeys(
    ("bos_token_id", "eos_token_id", "pad_token_id"), 0
)}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "read"),
    [
        (RwkvConfig(attention_hidden_size=32, **RECURRENT), [3, 1, 1, 1, 1, 1]),  # has a `state`, no keys and values
        (
            RecurrentGemmaConfig(
                num_attention_heads=4, num_key_value_heads=1, intermediate_size=64, w_init_variance_scale=3.0,
                block_types=["recurrent", "attention"], **RECURRENT,
            ),
            [3, 4, 5, 6, 7, 8],  # gives nothing back: all is read again
        ),
    ],
    ids=["rwkv", "recurrent_gemma"],
)  # fmt: skip
def test_whatever_state_a_model_gives_back_is_carried_on(
    config: PreTrainedConfig, read: list[int], tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    frozen, found = models.load(str(tmp_path), device="cpu"), []
    mem = random_mem(frozen, 3) * 30
    handle = frozen.model.register_forward_pre_hook(
        lambda _module, _args, options: found.append(options["inputs_embeds"].shape[1]), with_kwargs=True
    )
    try:
        tokens = free_running(frozen, mem, 6)
    finally:
        handle.remove()
    assert found == read
    assert tokens == naive(frozen, mem, 6)
    assert len(set(tokens)) > 2


def test_the_decoder_is_not_given_the_text() -> None:
    assert list(inspect.signature(free_running).parameters) == ["frozen", "mem", "n_tokens", "given"]


def test_wrong_input_is_refused(tiny: Frozen) -> None:
    mem = random_mem(tiny, 2)
    with pytest.raises(ValueError, match=r"mem has shape \(2, 31\); \(n_mem, 32\)"):
        free_running(tiny, mem[:, 1:], 4)
    with pytest.raises(ValueError, match="3 tokens are given but only 2 asked for"):
        free_running(tiny, mem, 2, given=[1, 2, 3])
    with pytest.raises(ModelError, match="past the context"):
        free_running(tiny, mem, 63)
    with pytest.raises(ModelError, match="at least one token"):
        free_running(tiny, mem, 0)
    assert len(free_running(tiny, mem, 62)) == 62


@pytest.mark.parametrize("n_mem", [0, 2])
@pytest.mark.parametrize("most", [8, 4, 3, 1])
def test_scores_where_memory_runs_out_are_the_scores(
    most: int, n_mem: int, frozen: Frozen, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = random_ids(frozen, 3, 6)
    mem = torch.stack([random_mem(frozen, n_mem, seed) for seed in range(3)]) if n_mem else None
    whole, head = teacher_forced(frozen, mem, ids), Frozen.head

    def limited(self: Frozen, hidden: Tensor) -> Tensor:
        if hidden.shape[:-1].numel() > most:
            raise RuntimeError("CUDA error: out of memory")
        return head(self, hidden)

    monkeypatch.setattr(Frozen, "head", limited)
    parts = teacher_forced(frozen, mem, ids)
    assert np.array_equal(parts.predicted, whole.predicted)
    assert np.array_equal(parts.correct, whole.correct)
    np.testing.assert_allclose(parts.bits, whole.bits, atol=1e-5)
    monkeypatch.setattr(Frozen, "head", lambda self, hidden: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        teacher_forced(frozen, mem, ids)


@pytest.mark.parametrize("most", [4, 2, 1])
def test_decoding_where_memory_runs_out_reads_the_vectors_in_parts(
    most: int, tiny: Frozen, monkeypatch: pytest.MonkeyPatch
) -> None:
    mem, carried, read = random_mem(tiny, 7), Frozen.carried, []
    whole = free_running(tiny, mem, 12, given=[5])

    def limited(self: Frozen, embeds: Tensor, state: dict | None = None) -> tuple:
        if embeds.shape[1] > most:
            raise RuntimeError("CUDA error: out of memory")
        read.append(embeds.shape[1])
        return carried(self, embeds, state)

    monkeypatch.setattr(Frozen, "carried", limited)
    assert free_running(tiny, mem, 12, given=[5]) == whole
    assert sum(read) == 8 + 10
    assert max(read) == most
    monkeypatch.setattr(Frozen, "carried", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        free_running(tiny, mem, 12)


def test_decoding_goes_back_until_a_vector_decodes_whole(tiny: Frozen) -> None:
    mem = [random_mem(tiny, 2, seed=seed) for seed in range(3)]
    ids = free_running(tiny, mem[1], 9)
    short = decoded_tokens(tiny, mem[2], ids)
    assert short < 5  # the later one gives little back
    exact = [(4, mem[0]), (8, mem[1]), (9, mem[2])]
    assert decoded_back(tiny, exact, ids) == [None, 8, short]
    assert decoded_back(tiny, [(4, mem[0]), (9, mem[1])], ids) == [None, 9]
    assert decoded_back(tiny, [(4, mem[1]), (7, mem[0]), (9, mem[2])], ids)[0] == 4
    assert decoded_back(tiny, [(short, mem[0]), (9, mem[2])], ids) == [None, short]  # could give no more
    assert decoded_back(tiny, [], ids) == []


@pytest.mark.parametrize("most", [100, 3, 1])
def test_texts_are_decoded_side_by_side_as_alone(most: int, frozen: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    mem = torch.stack([random_mem(frozen, 2, seed=seed) for seed in range(5)])
    ids = [free_running(frozen, one, n) for one, n in zip(mem, (9, 4, 7, 12, 1), strict=True)]
    ids[2][3] = (ids[2][3] + 1) % 300
    ids[3][0] = (ids[3][0] + 1) % 300
    calls, carried = [], Frozen.carried

    def limited(self: Frozen, embeds: Tensor, state: dict | None = None) -> tuple:
        if len(embeds) > most:
            raise RuntimeError("CUDA error: out of memory")
        calls.append(len(embeds))
        return carried(self, embeds, state)

    monkeypatch.setattr(Frozen, "carried", limited)
    assert decoded_side_by_side(frozen, mem, ids) == [9, 4, 3, 0, 1]
    if most == 100:
        assert calls == [5] * 9  # one pass a token, until the longest has ended
    given = [[7, *free_running(frozen, one, 4, given=[7])[1:]] for one in mem]
    assert decoded_side_by_side(frozen, mem, given, scored_from=1) == [4] * 5


def test_going_back_is_the_same_in_company(tiny: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    mem = [random_mem(tiny, 2, seed=seed) for seed in range(3)]
    other = random_mem(tiny, 1)
    one, two = free_running(tiny, mem[1], 9), free_running(tiny, other, 6)
    ended = [
        Ended(one, [(4, mem[0]), (8, mem[1]), (9, mem[2])]), Ended(two, [(3, mem[0][:1]), (6, other)]), Ended(one, []),
        Ended(one, [(4, mem[1]), (9, mem[0])], 1),
    ]  # fmt: skip
    alone = [decoded_back(tiny, text.exact, text.ids, scored_from=text.scored_from) for text in ended]
    assert alone[1] == [None, 6]
    monkeypatch.setitem(decoding.AT_ONCE, "cpu", 2)
    assert all_decoded_back(tiny, ended) == alone
