"""What does the same work as a trained vector: real tokens, a push over the margin, a vector of other texts."""

from collections.abc import Sequence
from math import log, log2

import polars as pl
import torch

from capacity import coding, metrics, published
from capacity.baselines.copying import asked, copies, repeated
from capacity.baselines.kinds import NULLS, load, nulls
from capacity.baselines.reading import Row, named, read_first
from capacity.baselines.shared import Shared, fit
from capacity.fitting import LOSSES
from capacity.models import Frozen
from capacity.texts import Text

__all__ = [
    "NULLS", "Row", "Shared", "asked", "copies", "fit", "load", "nulls", "prefix_gains", "prefixes",
    "published_prefixes", "read_first", "repeated", "shortfalls",
]  # fmt: skip
__dir__ = __all__.copy  # what completion shows


def prefixes(frozen: Frozen, whole: Sequence[Text], sample: Sequence[Text], sizes: Sequence[int]) -> list[Row]:
    """Return the rows of `read_first` for each text after the real tokens that stand before it, for each of `sizes`.

    Args:
        frozen: the model.
        whole: the texts with what stands before them, each ending with its text: of source S and length K + N, where
            those of `sample` are of source `after:K:S` and length N.
        sample: the texts.
        sizes: tokens before the text, at least 1 and at most what there is.

    Raises ValueError as `read_first`, for a whole that does not end with its text, or a size past what stands before.
    """
    befores = []
    for whole_text, text in zip(whole, sample, strict=True):
        before = len(whole_text.ids) - len(text.ids)
        if before < 1 or whole_text.ids[before:] != text.ids:
            raise ValueError(f"{whole_text.id} does not end with {text.id}; give the texts that `sample` was cut from")
        befores.append(whole_text.ids[:before])
    least = min(map(len, befores))
    if wrong := [size for size in sizes if not 1 <= size <= least]:
        raise ValueError(f"prefixes of {wrong} tokens; 1 to {least} stand before these texts")
    return [row for size in sizes for row in read_first(frozen, sample, [before[-size:] for before in befores])]


def prefix_gains(read: pl.DataFrame, fitted: pl.DataFrame) -> pl.DataFrame:
    """Return the bits of positions 2..N that real prefixes save, and as a share of what vectors save of the same texts.

    Columns: model, length (N), n_context (null: the vectors), saved_bits, low, high, share, share_low, share_high, n
    (texts). As in the paper, a vector's bits are its least over the steps; intervals are over texts.

    Args:
        read: rows of `prefixes`.
        fitted: rows of the store, one for each model and text in `read`, of a recipe that follows bits.

    Raises ValueError where the texts are not the same, or no bits were followed.
    """
    keys = ["model", "length", "text_id"]
    read, fitted = (rows.with_columns(pl.col("length").cast(pl.Int64)) for rows in (read, fitted))
    vectors = fitted.select(*keys, mem_saved=pl.col("bits_without") - pl.col("bits_with_min"))
    if vectors["mem_saved"].null_count():
        raise ValueError("some rows have no bits_with_min (their loss has no bits); fit them with recipe 'paper'")
    if sorted(vectors.select(keys).iter_rows()) != sorted(read.select(keys).unique().iter_rows()):
        raise metrics.NothingFound(
            "the texts after prefixes and those of the vectors differ; give one row of each text"
        )
    real = read.select(*keys, "n_context", saved=pl.col("bits_without") - pl.col("bits_with")).join(vectors, on=keys)
    no_context = pl.lit(None, dtype=pl.Int64).alias("n_context")
    both = pl.concat([real, vectors.select(*keys, no_context, pl.col("mem_saved").alias("saved"), "mem_saved")])
    by = ["model", "length", "n_context"]
    saved = metrics.ratio(both.with_columns(texts=pl.lit(1)), "saved", "texts", by=by)
    shares = metrics.ratio(both, "saved", "mem_saved", by=by)
    shares = shares.select(*by, share="value", share_low="low", share_high="high")
    joined = saved.rename({"value": "saved_bits"}).join(shares, on=by, nulls_equal=True)
    return joined.drop("degenerate").sort(by, nulls_last=True)


def published_prefixes() -> pl.DataFrame:
    """Return the paper's numbers as `prefix_gains` gives ours, with no intervals: none are published.

    Source: Kuratov et al. 2025, ablations_analyze_results.ipynb of its repository; nats there, bits here.
    """
    rows = published.load("kuratov2025").filter(pl.col("item").str.starts_with("context-length ablation"))
    vectors = rows.filter(n_mem=1).select("model", "item", mem_nats="value")
    return rows.join(vectors, on=["model", "item"]).select(
        "model",
        pl.col("item").str.extract(r"(\d+)$").cast(pl.Int64).alias("length"),
        pl.col("metric").str.extract(r"_prefix_(\d+)$").cast(pl.Int64).alias("n_context"),
        (pl.col("value") / log(2)).alias("saved_bits"),
        (pl.col("value") / pl.col("mem_nats")).alias("share"),
    )


def shortfalls(frozen: Frozen, sample: Sequence[Text]) -> list[Row]:
    """Return what each text costs the model alone, and what is missing for it to be the argmax: one row a text.

    Positions 2..N, summed. `bits`: surprisal. `shortfall_bits`: sum of max(0, log2 p(best other) - log2 p(target)),
    by which the targets' own logits must rise, the others left as they are, for each to be the argmax: the hinge of
    margin 0, in bits, in [0, bits]. `n_wrong`: positions that fall short. Raises ValueError as `coding.entropy_bits`.
    """
    rows = []
    for text in sample:
        bits = coding.entropy_bits(frozen, text.ids) - log2(frozen.vocab_size)
        ids = torch.tensor([text.ids], device=frozen.device)
        with torch.no_grad():
            logits = frozen.logits(frozen.inputs(None, frozen.embed(ids)))[:, frozen.n_before : -1].float()
        short = LOSSES["hinge"](logits, ids[:, 1:], 0.0).cpu().double() / log(2)
        rows.append(
            named(frozen, text)
            | {"n_tokens": len(text.ids), "bits": bits, "shortfall_bits": float(short.sum())}
            | {"n_wrong": int((short > 0).sum())}
        )
    return rows
