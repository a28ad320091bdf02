import contextlib
import dataclasses
import math

import numpy as np
import pytest
import torch
import zstandard

from capacity import coding
from capacity.texts import Text, token_bytes


def ids_of(frozen, n_tokens, seed=0):
    return np.random.default_rng(seed).integers(0, frozen.vocab_size, n_tokens).tolist()


def greedy(frozen, n_tokens):
    """What the model expects of itself: cheap to code."""
    found = [5]
    while len(found) < n_tokens:
        logits = frozen.logits(frozen.embed(torch.tensor([found])))[0, -1]
        found.append(int(logits.argmax()))
    return found


@pytest.mark.parametrize(
    "text",
    [
        lambda frozen: ids_of(frozen, 40),
        lambda frozen: ids_of(frozen, 64, seed=1),  # the whole context
        lambda frozen: [7] * 30,
        lambda frozen: greedy(frozen, 30),
        lambda frozen: [0, frozen.vocab_size - 1, 0],
        lambda frozen: [11],
    ],
    ids=["random", "context", "repeated", "expected", "edges", "one token"],
)
def test_a_text_comes_back_and_takes_its_entropy(frozen, text):
    ids = text(frozen)
    data = coding.encode(frozen, ids)
    assert coding.decode(frozen, data, len(ids)) == ids
    bits = coding.entropy_bits(frozen, ids)
    assert bits - 1 <= 8 * len(data) <= bits + 40  # up to a word is the coder's own


def test_entropy_is_the_chain_rule_by_a_plain_loop(frozen):
    ids = ids_of(frozen, 12)
    total = math.log2(frozen.vocab_size)
    for t in range(1, len(ids)):
        logits = frozen.model(input_ids=torch.tensor([ids[:t]]), use_cache=False).logits[0, -1].double()
        total -= math.log2(torch.softmax(logits, -1)[ids[t]])
    assert coding.entropy_bits(frozen, ids) == pytest.approx(total, rel=1e-5)


@pytest.mark.slow
def test_one_token_costs_the_logarithm_of_the_vocabulary(frozen):
    assert coding.entropy_bits(frozen, [3]) == math.log2(frozen.vocab_size)


def test_every_first_token_comes_back(tiny):
    # Any of the coder's intervals, so also those at the edges of its range.
    for token in range(tiny.vocab_size):
        assert coding.decode(tiny, coding.encode(tiny, [token]), 1) == [token]


def test_what_the_model_expects_takes_less(tiny):
    assert len(coding.encode(tiny, greedy(tiny, 40))) < len(coding.encode(tiny, ids_of(tiny, 40))) / 2


def test_coding_is_deterministic(tiny):
    ids = ids_of(tiny, 20)
    assert coding.encode(tiny, ids) == coding.encode(tiny, ids)


def test_with_bos_before_the_text(tiny):
    begun, ids = dataclasses.replace(tiny, bos="before_mem"), ids_of(tiny, 40)
    data = coding.encode(begun, ids)
    assert coding.decode(begun, data, 40) == ids
    assert coding.entropy_bits(begun, ids) <= 8 * len(data) < coding.entropy_bits(begun, ids) + 64
    assert coding.entropy_bits(begun, ids) != coding.entropy_bits(tiny, ids)


def test_refuses_data_of_another_length_or_model(tiny, loaded):
    ids = ids_of(tiny, 40)
    data = coding.encode(tiny, ids)
    with pytest.raises(ValueError, match="no whole words"):
        coding.decode(tiny, data[:-1], 40)
    with pytest.raises(ValueError, match="not 20 tokens coded by"):
        coding.decode(tiny, data, 20)
    with contextlib.suppress(ValueError):  # it may show, or give other tokens
        assert coding.decode(loaded["grouped"], data, 40) != ids


@pytest.mark.parametrize("call", [coding.encode, coding.entropy_bits])
def test_refuses_texts_that_the_model_has_no_room_or_symbol_for(tiny, call):
    with pytest.raises(ValueError, match="has 0 tokens; give at least one"):
        call(tiny, [])
    with pytest.raises(ValueError, match=r"65 tokens are past the context of .* \(64\)"):
        call(tiny, [1] * 65)
    with pytest.raises(ValueError, match="reach from -1 to 300; 0 to 299 are allowed"):
        call(tiny, [-1, 300])


@pytest.mark.parametrize("n_tokens", [0, -1])
def test_refuses_a_count_that_is_none(tiny, n_tokens):
    with pytest.raises(ValueError, match=f"has {n_tokens} tokens"):
        coding.decode(tiny, b"", n_tokens)


def test_ledger_worked_by_hand(tiny):
    text = "wéiß"  # 6 bytes
    ids = [1, 2, 3, 4, 5]
    lines = coding.ledger(tiny, torch.zeros(2, 32), text, ids, given=1)
    sizes = {line["what"]: line["bytes"] for line in lines}
    assert sizes == {
        "[mem], float32": 2 * 32 * 4 + 2,  # 9 bits for one of 300 tokens
        "[mem], 16 bits a number": 2 * 32 * 2 + 2,
        "text, UTF-8": 6,
        "text, zstd": 4 + 1 + 1 + 3 + 6,  # magic, descriptor, size, block header, the text as it is
        "token ids, packed": 6,  # 45 bits
        "token ids, coded by the model": len(coding.encode(tiny, ids)),
    }
    assert [line["bits_per_token"] for line in lines] == [8 * size / 5 for size in sizes.values()]


@pytest.mark.parametrize("text", ["", "wéiß", "the same words, again and again; " * 40])
def test_zstd_gives_the_text_back(text):
    data = coding.zstd(text)
    assert zstandard.decompress(data) == text.encode()
    assert (len(data) < len(text.encode())) == (len(text) > 100)  # a short text has nothing to repeat


def test_ledger_of_nothing_given_is_the_vector_alone(tiny):
    first, second, *_ = coding.ledger(tiny, torch.zeros(1, 32), "a", [9])
    assert (first["bytes"], second["bytes"]) == (128, 64)


@pytest.mark.parametrize("given", [-1, 3])
def test_ledger_refuses_more_given_than_there_is(tiny, given):
    with pytest.raises(ValueError, match=f"{given} tokens are given of 2; 0 to 2 are allowed"):
        coding.ledger(tiny, torch.zeros(1, 32), "ab", [1, 2], given=given)


def test_densities_are_those_of_a_plain_loop(frozen):
    drawn = [[i % len(frozen.tokenizer) for i in ids_of(frozen, 6 + n, seed=n)] for n in range(3)]
    kept = [Text(source="s", index=n, id=f"t{n}", ids=tuple(ids)) for n, ids in enumerate(drawn)]
    for text, row in zip(kept, coding.densities(frozen, kept), strict=True):
        bits = 0.0
        for t in range(1, len(text.ids)):
            logits = frozen.model(input_ids=torch.tensor([text.ids[:t]]), use_cache=False).logits[0, -1].double()
            bits -= math.log2(torch.softmax(logits, -1)[text.ids[t]])
        n_bytes = len(token_bytes(frozen.tokenizer, text.ids))
        assert (row["source"], row["text_id"]) == ("s", text.id)
        assert (row["n_tokens"], row["n_bytes"]) == (len(text.ids), n_bytes)
        assert row["bits_per_token"] == pytest.approx(bits / (len(text.ids) - 1), rel=1e-5)
        assert row["tokens_per_byte"] == len(text.ids) / n_bytes
        assert row["bits_per_byte"] == pytest.approx(bits / (len(text.ids) - 1) * len(text.ids) / n_bytes, rel=1e-5)


def test_a_text_of_one_token_has_no_density(tiny):
    with pytest.raises(ValueError, match="t0 has 1 token, which nothing predicts; give at least 2"):
        coding.densities(tiny, [Text(source="s", index=0, id="t0", ids=(5,))])
