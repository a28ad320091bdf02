import copy
import dataclasses
import math

import numpy as np
import polars as pl
import pytest
import torch

from capacity import baselines, metrics, models, store, sweep
from capacity.baselines import copying
from capacity.texts import Text, encode
from capacity.texts import sample as sample_texts


def texts_of(frozen, lengths, *, seed=0, source="s"):
    rng = np.random.default_rng(seed)
    drawn = [rng.integers(0, frozen.vocab_size, n).tolist() for n in lengths]
    return [Text(source=source, index=n, id=f"t{n}", ids=tuple(ids)) for n, ids in enumerate(drawn)]


def next_token(frozen, ids):
    """Log2 probabilities of what follows token ids, by the model as it is."""
    logits = frozen.model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0, -1].double()
    return torch.log_softmax(logits, -1).detach() / math.log(2)


def expected(frozen, n):
    found = [5]
    while len(found) < n:
        found.append(int(next_token(frozen, found).argmax()))
    return found


# Real tokens read first


def test_a_context_counts_as_a_plain_loop_over_the_model_does(frozen):
    sample = texts_of(frozen, [6, 3])
    contexts = [[7, 11, 13, 17], [19, 23]]
    rows = baselines.read_first(frozen, sample, contexts)
    for row, text, context in zip(rows, sample, contexts, strict=True):
        bits_with = bits_without = right_with = right_without = 0.0
        for t in range(1, len(text.ids)):
            after, alone = next_token(frozen, [*context, *text.ids[:t]]), next_token(frozen, text.ids[:t])
            bits_with, bits_without = bits_with - float(after[text.ids[t]]), bits_without - float(alone[text.ids[t]])
            right_with += int(after.argmax()) == text.ids[t]
            right_without += int(alone.argmax()) == text.ids[t]
        first = next_token(frozen, context)
        assert row["bits_with"] == pytest.approx(bits_with, rel=1e-5)
        assert row["bits_without"] == pytest.approx(bits_without, rel=1e-5)
        assert (row["correct_with"], row["correct_without"]) == (right_with, right_without)
        assert row["first_bits_with"] == pytest.approx(-float(first[text.ids[0]]), rel=1e-5)
        assert (row["model"], row["source"], row["text_id"]) == (frozen.name, "s", text.id)
        assert (row["n_context"], row["length"], row["n_scored"]) == (len(context), len(text.ids), len(text.ids))


def test_what_the_model_goes_on_with_comes_back(frozen):
    whole = expected(frozen, 14)
    goes_on = Text(source="s", index=0, id="on", ids=tuple(whole[4:]))
    stops = Text(source="s", index=1, id="off", ids=(*whole[4:9], (whole[9] + 1) % frozen.vocab_size, *whole[10:]))
    on, off = baselines.read_first(frozen, [goes_on, stops], [whole[:4]] * 2)
    assert (on["decoded_tokens"], on["correct_with"], on["first_correct"]) == (10, 9, True)
    assert off["decoded_tokens"] == 5


def test_prefixes_are_the_tokens_right_before_the_text(tiny):
    whole = texts_of(tiny, [15, 17])
    sample = [dataclasses.replace(text, ids=text.ids[-5:]) for text in whole]
    rows = baselines.prefixes(tiny, whole, sample, [2, 10])
    by_hand = [
        baselines.read_first(tiny, sample, [text.ids[-5 - size : -5] for text in whole])[place]
        for size in (2, 10)
        for place in (0, 1)
    ]
    assert rows == by_hand
    assert [(row["n_context"], row["text_id"]) for row in rows] == [(2, "t0"), (2, "t1"), (10, "t0"), (10, "t1")]


def test_prefixes_that_are_not_there_are_refused(tiny):
    whole = texts_of(tiny, [15, 17])
    sample = [dataclasses.replace(text, ids=text.ids[-5:]) for text in whole]
    with pytest.raises(ValueError, match=r"prefixes of \[0, 11\] tokens; 1 to 10 stand before"):
        baselines.prefixes(tiny, whole, sample, [0, 4, 11])
    with pytest.raises(ValueError, match="t0 does not end with t0"):
        baselines.prefixes(tiny, whole, texts_of(tiny, [5, 5], seed=1), [4])
    with pytest.raises(ValueError, match="t0 does not end with t0"):
        baselines.prefixes(tiny, sample, sample, [1])


def test_contexts_that_cannot_be_read_are_refused(tiny):
    sample = texts_of(tiny, [4])
    with pytest.raises(ValueError, match="2 contexts for 1 texts"):
        baselines.read_first(tiny, sample, [[1], [2]])
    with pytest.raises(ValueError, match="no token stands before t0"):
        baselines.read_first(tiny, sample, [[]])
    with pytest.raises(ValueError, match=r"4 tokens and 61 \[mem\] are 65 positions"):
        baselines.read_first(tiny, sample, [[1] * 61])


def test_a_copy_follows_the_text_and_the_instruction(tiny):
    sample = texts_of(tiny, [5, 8])
    asking = encode(tiny.tokenizer, "again")
    by_hand = baselines.read_first(tiny, sample, [[*text.ids, *asking] for text in sample])
    assert baselines.copies(tiny, sample, instruction="again") == by_hand
    assert [row["n_context"] for row in baselines.copies(tiny, sample)] == [5, 8]


def test_a_model_that_chats_is_asked_by_its_template(tiny):
    """The text's tokens stand in the turn as they are, whatever a tokenizer would make of the whole."""
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.chat_template = "U {{ messages[0]['content'] }} E{% if add_generation_prompt %} A{% endif %}"
    head, asking, tail = (encode(tokenizer, part) for part in ("U ", "again", " E A"))
    assert baselines.asked(tokenizer, [5, 6], "again") == [*head, 5, 6, *asking, *tail]
    frozen = dataclasses.replace(tiny, tokenizer=tokenizer)
    (row,) = baselines.copies(frozen, texts_of(tiny, [5]), instruction="again")
    assert row["n_context"] == len(head) + 5 + len(asking) + len(tail)


def test_copies_are_kept_and_found_without_their_model(tmp_path, monkeypatch):
    names, wanted = (["llama-64"], ["embedded"], [4, 6]), {"n_texts": 2, "travelling": False}
    found = baselines.repeated(*names, tmp_path, **wanted)
    frozen = models.load("llama-64")
    for (length,), part in found.group_by("length"):
        sample = sample_texts("embedded", frozen.tokenizer, n_texts=2, length=length)
        expected = pl.DataFrame(baselines.copies(frozen, sample))
        assert part["bits_with"].to_list() == expected["bits_with"].to_list()
    monkeypatch.setattr(copying, "copies", None)
    assert baselines.repeated(*names, tmp_path, **wanted).equals(found)
    assert baselines.repeated(*names, tmp_path, n_texts=1, travelling=False).height == 2
    assert baselines.repeated(*names, tmp_path, n_texts=3, missing="skip", travelling=False).height == 4
    with pytest.raises(sweep.MissingCells, match="llama-64 has no copies of embedded of 4 tokens"):
        baselines.repeated(*names, tmp_path / "none", missing="refuse", **wanted)
    monkeypatch.setenv("CAPACITY_HOME", str(tmp_path / "home"))
    store.write(tmp_path / "copies", found.with_columns(model=pl.lit("smollm2-135m"), revision=pl.lit("x")))
    away = baselines.repeated(["smollm2-135m"], ["embedded"], [4], tmp_path, **wanted)
    assert away.drop("model", "revision").equals(found.filter(length=4).drop("model", "revision"))


# What prefixes save, beside vectors

READ = pl.DataFrame({
    "model": "m", "length": 8, "text_id": ["a", "b"] * 2, "n_context": [16, 16, 64, 64],
    "bits_without": [30.0, 20.0] * 2, "bits_with": [28.0, 20.0, 24.0, 16.0],
})  # fmt: skip
FITTED = pl.DataFrame({
    "model": "m", "length": 8, "text_id": ["a", "b"], "bits_without": [30.0, 20.0], "bits_with": [25.0, 19.0],
    "bits_with_min": [18.0, 12.0],
}, schema_overrides={"length": pl.Int32})  # fmt: skip


def test_gains_worked_by_hand():
    found = baselines.prefix_gains(READ, FITTED)
    assert found.select("n_context", "saved_bits", "share", "n").rows() == [
        (16, 1.0, 2 / 20, 2), (64, 5.0, 10 / 20, 2), (None, 10.0, 1.0, 2),
    ]  # fmt: skip
    assert found.select("low", "share_low").null_count().row(0) == (3, 3)  # of two texts
    many = [pl.concat([frame.with_columns(pl.col("text_id") + str(n)) for n in range(3)]) for frame in (READ, FITTED)]
    found = baselines.prefix_gains(*many)
    expected = metrics.quotient([2.0, 0.0] * 3, [12.0, 8.0] * 3)
    assert found.select("share", "share_low", "share_high").row(0) == (0.1, expected.low, expected.high)
    assert found.filter(pl.col("n_context").is_null())["share_low"].to_list() == [1.0]


def test_gains_of_other_texts_or_of_a_loss_without_bits_are_refused():
    with pytest.raises(ValueError, match="differ; give one row of each text"):
        baselines.prefix_gains(READ, FITTED.head(1))
    with pytest.raises(ValueError, match="differ; give one row of each text"):
        baselines.prefix_gains(READ, pl.concat([FITTED, FITTED.head(1)]))
    with pytest.raises(ValueError, match="no bits_with_min"):
        baselines.prefix_gains(READ, FITTED.with_columns(bits_with_min=pl.lit(None, pl.Float64)))


def test_published_shares_are_those_of_the_papers_nats():
    found = baselines.published_prefixes()
    llama = found.filter(model="meta-llama/Meta-Llama-3.1-8B", n_context=1024).row(0, named=True)
    assert llama["length"] == 1568
    assert llama["share"] == pytest.approx(181 / 3607)
    assert llama["saved_bits"] == pytest.approx(181 / math.log(2))
    assert found.height == 4 * 5
    vectors = found.filter(pl.col("n_context").is_null())
    assert vectors["share"].to_list() == [1.0] * 4
    assert vectors["length"].to_list() == [64, 128, 512, 1568]


# The margin


def test_the_shortfall_is_a_plain_loop_over_log_probabilities(frozen):
    sample = [*texts_of(frozen, [9, 1]), Text(source="s", index=2, id="own", ids=tuple(expected(frozen, 9)))]
    drawn, single, own = baselines.shortfalls(frozen, sample)
    short = bits = wrong = 0.0
    for t in range(1, 9):
        logs = next_token(frozen, sample[0].ids[:t])
        target = logs[sample[0].ids[t]].item()
        logs[sample[0].ids[t]] = -math.inf
        short, bits, wrong = short + max(0.0, logs.max().item() - target), bits - target, wrong + (logs.max() > target)
    assert drawn["shortfall_bits"] == pytest.approx(short, rel=1e-4)
    assert drawn["bits"] == pytest.approx(bits, rel=1e-5)
    assert (drawn["n_wrong"], drawn["n_tokens"]) == (wrong, 9)
    assert 0 < drawn["shortfall_bits"] < drawn["bits"]
    assert (single["bits"], single["shortfall_bits"], single["n_wrong"]) == (0, 0, 0)
    assert own["shortfall_bits"] == own["n_wrong"] == 0  # what it expects of itself needs no push, but has entropy
    assert own["bits"] > 0


def test_raising_the_targets_by_the_shortfall_makes_each_the_argmax(tiny):
    (text,) = texts_of(tiny, [7])
    raised = 0.0
    for t in range(1, 7):
        logs = next_token(tiny, text.ids[:t])
        best = logs.max().item()
        raised += best - logs[text.ids[t]].item()
        logs[text.ids[t]] = best + 1e-9
        assert int(logs.argmax()) == text.ids[t]
    assert baselines.shortfalls(tiny, [text])[0]["shortfall_bits"] == pytest.approx(raised, rel=1e-4)


def test_the_shortfall_after_bos(tiny):
    begun, (text,) = dataclasses.replace(tiny, bos="before_mem"), texts_of(tiny, [4])
    bos = tiny.tokenizer.bos_token_id
    short = 0.0
    for t in range(1, 4):
        logs = next_token(tiny, [bos, *text.ids[:t]])
        short += (logs.max() - logs[text.ids[t]]).item()
    assert baselines.shortfalls(begun, [text])[0]["shortfall_bits"] == pytest.approx(short, rel=1e-4)
