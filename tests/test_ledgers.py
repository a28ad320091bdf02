import math

import polars as pl
import pytest
import torch

from capacity import coding, ledgers, models, published
from capacity.texts import Text


def row_of(frozen, mem, decoded, **changes):
    return {
        "model": frozen.name, "source": "s", "text_index": 3, "text_id": "t3", "scored_from": 0, "n_mem": mem.shape[0],
        "d_model": mem.shape[1], "decoded_tokens": decoded, "mem": mem.flatten().tolist(),
    } | changes  # fmt: skip


def frame(*rows):
    return pl.DataFrame(rows, schema_overrides={"decoded_tokens": pl.Int32})


def test_a_vector_holds_what_it_decodes_to(tiny):
    mem = tiny.embed(torch.tensor([[4, 9]]))[0]
    ids = [4, 9]
    for _ in range(5):  # the same without [mem]: these are real tokens
        ids.append(int(tiny.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    rows = frame(row_of(tiny, mem, 5), row_of(tiny, mem, None), row_of(tiny, mem, 0))
    assert ledgers.held(tiny, rows) == [Text(source="s", index=3, id="t3", ids=tuple(ids[2:]))]


def test_rows_of_another_model_or_with_a_token_given_are_refused(tiny):
    mem = torch.zeros(1, 32)
    with pytest.raises(ValueError, match="rows of llama-64 for"):
        ledgers.held(tiny, frame(row_of(tiny, mem, 2, model="llama-64")))
    with pytest.raises(ValueError, match="scored_from=1: their t1 was given"):
        ledgers.held(tiny, frame(row_of(tiny, mem, 2, scored_from=1)))


def test_a_ledger_has_the_lines_of_coding_and_the_entropy(tiny):
    ids = tiny.tokenizer("The ferry left at noon.")["input_ids"]
    text = Text(source="s", index=0, id="t0", ids=tuple(ids))
    found = ledgers.measured(tiny, [text], n_mem=2)
    sizes = {line["what"]: line["bytes"] for line in found}
    lines = coding.ledger(tiny, torch.zeros(2, tiny.dim), "The ferry left at noon.", ids)
    assert sizes.pop(ledgers.ENTROPY) == coding.entropy_bits(tiny, ids) / 8
    assert sizes == {line["what"]: line["bytes"] for line in lines}
    assert sizes[ledgers.TEXT] == len(b"The ferry left at noon.")
    for line in found:
        assert (line["n_tokens"], line["n_mem"], line["vector_bytes"]) == (len(ids), 2, 2 * 32 * 2)
        assert line["came_back"] is True
        assert (line["model"], line["source"], line["text_id"]) == (tiny.name, "s", "t0")


def test_a_coder_that_does_not_give_the_text_back_shows(tiny, monkeypatch):
    text = Text(source="s", index=0, id="t0", ids=(7, 8, 9))
    other = coding.encode(tiny, [7, 8, 10])  # what a model that is not the same to the bit may come to
    monkeypatch.setattr(coding, "encode", lambda *_: other)
    assert {line["came_back"] for line in ledgers.measured(tiny, [text])} == {False}


def test_the_papers_ledger_worked_by_hand():
    found = ledgers.of_paper()
    assert found["model"].n_unique() == 14
    llama = found.filter(model="meta-llama/Meta-Llama-3.1-8B")
    sizes = dict(llama.select("what", "bytes").iter_rows())
    assert llama["n_tokens"].to_list() == [1568] * 5
    assert sizes["[mem], float32"] == 4 * 4096
    assert sizes[ledgers.VECTOR] == 2 * 4096
    assert sizes[ledgers.PACKED] == 1568 * 17 / 8  # 128256 tokens
    assert sizes[ledgers.TEXT] == pytest.approx(1568 / 0.229209)
    assert sizes[ledgers.ENTROPY] == pytest.approx(1568 * 1266.66 / 512 / math.log(2) / 8)
    mamba = found.filter(model="state-spaces/mamba-130m-hf")  # no tokens a byte, no cross-entropy are published
    assert set(mamba["what"]) == {"[mem], float32", ledgers.VECTOR, ledgers.PACKED}


def test_the_papers_lines_are_named_as_ours(tiny):
    ours = {line["what"] for line in ledgers.measured(tiny, [Text(source="s", index=0, id="t", ids=(7, 8))])}
    assert set(ledgers.of_paper()["what"]) < ours


def test_no_published_fact_stands_twice_for_one_model():
    for item in ("Table 1", "Eq. 1, Fig. 5", "models list", "bits per byte"):
        rows = published.load("kuratov2025", item).filter(pl.col("source").fill_null("pg19") == "pg19")
        assert not rows.select("model", "metric").is_duplicated().any()


def test_times_worked_by_hand():
    ledger = pl.DataFrame([
        {"model": "m", "source": "s", "text_id": name, "n_tokens": n, "n_mem": 2, "what": what, "bytes": float(size),
         "vector_bytes": 10.0}
        for name, n, text in (("a", 4, 30), ("b", 8, 10))
        for what, size in ((ledgers.VECTOR, 10), ("[mem], float32", 20), (ledgers.TEXT, text))
    ])  # fmt: skip
    found = {row["what"]: row for row in ledgers.times(ledger).iter_rows(named=True)}
    assert found.keys() == {"model inputs", ledgers.TEXT}
    assert found["model inputs"]["value"] == 12 / 4
    assert (found["model inputs"]["low"], found["model inputs"]["high"]) == (None, None)  # of two texts
    assert found[ledgers.TEXT]["value"] == 40 / 20
    assert found[ledgers.TEXT]["n"] == 2


def test_the_papers_1568_tokens_are_fewer_bytes_than_their_vector():
    times = ledgers.times(ledgers.of_paper()).filter(model="meta-llama/Meta-Llama-3.1-8B")
    found = dict(times.select("what", "value").iter_rows())
    assert found["model inputs"] == 1568
    assert found[ledgers.TEXT] == pytest.approx(1568 / 0.229209 / 8192)
    assert found[ledgers.ENTROPY] < found[ledgers.PACKED] < found[ledgers.TEXT] < 1


def test_an_embedded_model_codes_a_real_text_in_less_than_its_ids():
    frozen = models.load("llama-64", device="cpu")
    ids = frozen.tokenizer("The ferry left the quay at noon, as it did every day.")["input_ids"]
    found = ledgers.measured(frozen, [Text(source="s", index=0, id="t0", ids=tuple(ids))])
    sizes = {line["what"]: line["bytes"] for line in found}
    assert all(line["came_back"] for line in found)
    assert sizes[ledgers.ENTROPY] < sizes["token ids, coded by the model"] < sizes[ledgers.PACKED]
