import contextlib
import math

import numpy as np
import pytest
import torch

from capacity import coding


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
        "token ids, packed": 6,  # 45 bits
        "token ids, coded by the model": len(coding.encode(tiny, ids)),
    }
    assert [line["bits_per_token"] for line in lines] == [8 * size / 5 for size in sizes.values()]


def test_ledger_of_nothing_given_is_the_vector_alone(tiny):
    first, second, *_ = coding.ledger(tiny, torch.zeros(1, 32), "a", [9])
    assert (first["bytes"], second["bytes"]) == (128, 64)


@pytest.mark.parametrize("given", [-1, 3])
def test_ledger_refuses_more_given_than_there_is(tiny, given):
    with pytest.raises(ValueError, match=f"{given} tokens are given of 2; 0 to 2 are allowed"):
        coding.ledger(tiny, torch.zeros(1, 32), "ab", [1, 2], given=given)
