"""The byte ledger of the texts that vectors hold, ours and the paper's: what each way to keep them takes."""

from collections.abc import Sequence
from math import ceil, log, log2
from typing import Any

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from capacity import coding, metrics, published
from capacity.decoding import check_rows, free_running
from capacity.models import Frozen
from capacity.texts import Text, token_bytes

__all__ = ["VECTOR", "Row", "held", "measured", "of_paper", "times"]
__dir__ = __all__.copy  # what completion shows

TEXT, PACKED, ENTROPY = "text, UTF-8", "token ids, packed", "token ids, their cross-entropy"
VECTOR = "[mem], 16 bits a number"
Row = dict[str, Any]


def held(frozen: Frozen, rows: pl.DataFrame) -> list[Text]:
    """Return the texts that stored vectors hold: what each decodes to free-running, as far as it is known to be right.

    rows: of the store, all of this model, with vectors and `scored_from` 0. Those that were not decoded, or gave no
    token back, are left out. Raises ValueError for rows of another model (as `decoding.check_rows`), or
    that had t1 given, which is not stored.
    """
    if wrong := sorted(set(rows["model"]) - {frozen.name}):
        raise ValueError(f"rows of {', '.join(wrong)} for {frozen.name}; give the rows of one model")
    check_rows(frozen, rows)
    if (rows["scored_from"] != 0).any():
        raise ValueError("some rows have scored_from=1: their t1 was given and is not in the row; give rows with 0")
    return [
        Text(
            source=row["source"], index=row["text_index"], id=row["text_id"],
            ids=tuple(free_running(frozen, _vectors(row), row["decoded_tokens"])),
        )
        for row in rows.filter(pl.col("decoded_tokens") > 0).iter_rows(named=True)
    ]  # fmt: skip


def _vectors(row: Row) -> Float[Tensor, "n_mem dim"]:
    return torch.tensor(row["mem"], dtype=torch.float32).reshape(row["n_mem"], row["d_model"])


def measured(frozen: Frozen, sample: Sequence[Text], *, n_mem: int = 1) -> list[Row]:
    """Return what each way of keeping each text takes, one row a text and way.

    The ways, `what`, are those of `coding.ledger`, and the cross-entropy under the model, which another model's coder
    may undercut. Columns: model, source, text_id, n_tokens, n_mem, what, bytes, vector_bytes (of the vectors at 16 bits
    a number) and came_back: the text was coded by the model, decoded again, and is the same. Raises ValueError as
    `coding.encode`.
    """
    rows = []
    for text in sample:
        words = token_bytes(frozen.tokenizer, text.ids)
        lines = coding.ledger(frozen, torch.zeros(n_mem, frozen.dim), words, text.ids)
        sizes = {str(line["what"]): float(line["bytes"]) for line in lines}
        sizes[ENTROPY] = coding.entropy_bits(frozen, text.ids) / 8
        back = coding.decode(frozen, coding.encode(frozen, text.ids), len(text.ids))
        facts = {
            "model": frozen.name, "source": text.source, "text_id": text.id, "n_tokens": len(text.ids), "n_mem": n_mem,
            "came_back": back == list(text.ids),
        }  # fmt: skip
        rows += _lines(facts, sizes)
    return rows


def of_paper() -> pl.DataFrame:
    """Return the rows of `measured`, without came_back, for the paper's models on PG-19, from published numbers.

    One vector and a text of its decoding capacity, tokens; UTF-8 by its tokens a byte; packed ids of ceil(log2 V)
    bits; the cross-entropy by that of 512 tokens without [mem]. What the paper does not say of a model is left
    out.

    Source: Kuratov et al. 2025, Table 1, Eq. 1, and data/tokens_to_bytes.json, models_list_add_mamba.csv of its
    repository (where cross-entropy is length times a mean).
    """
    facts: dict[str, Row] = {}
    for item in ("Table 1", "Eq. 1, Fig. 5", "models list", "bits per byte"):
        rows = published.load("kuratov2025", item).filter(pl.col("source").fill_null("pg19") == "pg19")
        for model, metric, value in rows.select("model", "metric", "value").iter_rows():
            facts.setdefault(model, {})[metric] = value
    lines = []
    for model, fact in facts.items():
        if fact.keys() >= {"decoding_capacity", "d_model", "vocab_size"}:
            n, bits = fact["decoding_capacity"], fact["d_model"] * 16
            sizes = {"[mem], float32": bits / 4, VECTOR: bits / 8, PACKED: n * ceil(log2(fact["vocab_size"])) / 8}
            if "tokens_per_byte" in fact:
                sizes[TEXT] = n / fact["tokens_per_byte"]
            if "ce_without_512_tokens" in fact:
                sizes[ENTROPY] = n * fact["ce_without_512_tokens"] / 512 / log(2) / 8
            lines += _lines({"model": model, "source": "pg19", "text_id": "", "n_tokens": int(n), "n_mem": 1}, sizes)
    return pl.DataFrame(lines)


def times(ledger: pl.DataFrame) -> pl.DataFrame:
    """Return how many times the vectors go into what they stand for: model, source, what, value, low, high, n.

    `what` is `model inputs` (tokens to vectors), and each other way to keep the text (its bytes to those of the vectors
    at 16 bits a number); sums over texts, 95% intervals over texts. Below 1 the vectors are larger.

    ledger: rows of `measured` or `of_paper`.
    """
    inputs = ledger.filter(what=VECTOR).with_columns(
        pl.lit("model inputs").alias("what"), bytes=pl.col("n_tokens") * 1.0, vector_bytes=pl.col("n_mem") * 1.0
    )
    both = pl.concat([inputs, ledger.filter(~pl.col("what").str.starts_with("[mem]"))])
    return metrics.ratio(both, "bytes", "vector_bytes", by=["model", "source", "what"]).drop("degenerate")


def _lines(facts: Row, sizes: dict[str, float]) -> list[Row]:
    return [facts | {"what": way, "bytes": float(n), "vector_bytes": sizes[VECTOR]} for way, n in sizes.items()]
