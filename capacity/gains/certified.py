"""Bits that vectors must hold, whatever the model: of texts from a source whose entropy is known.

Rows need the columns of `sweep.with_source_bits`. Tokens that are given (`scored_from=1`: t1) or were not drawn (a BOS
of the text's own, `bos="after_mem"`) are not held.
"""

from collections.abc import Sequence
from dataclasses import asdict
from math import log2

import polars as pl
from scipy import stats

from capacity.metrics import (
    CONDITIONS,
    LEAST,
    UNFINISHED,
    NothingFound,
    check_columns,
    check_decoded,
    check_numbers,
    exact_lengths,
    interval,
    mean,
    pooled,
    summarise,
)

# What is known of a fit afterwards.
_LOOKED = (
    "status", "decoded_tokens", "probe", "steps", "token_steps", "n_scored", "correct_with", "correct_without",
    "bits_with", "bits_with_min", "first_bits_with", "seconds",
)  # fmt: skip


def certified_at(rows: pl.DataFrame, *, by: Sequence[str] = CONDITIONS) -> pl.DataFrame:
    """Return the bits certified at each fixed length: *by, length, value, low, high, n, degenerate, n_decoded.

    N log2 K + log2 (share of texts decoded), of texts drawn evenly from K tokens: B bits tell 2^B texts apart at most.
    Every text counts, also where its fit diverged; one of several seeds is decoded if each gave it back. The interval
    is Clopper and Pearson's of the share (scipy). Where no text was decoded, value and low are null.

    Raises ValueError where the source's bits are not known, or its tokens are not drawn evenly, where `by` tells texts
    apart by how their fits went, and for a column that is missing or holds no numbers; NothingFound where lengths have
    not the same texts, as those that were chosen after looking have not.
    """
    check_columns(rows, "source", "text_id", "length", "decoded_tokens", "scored_from", by=by, takes=("by",))
    check_decoded(rows, "decoded_tokens", "length")
    check_numbers(rows, "scored_from", whole=True)
    _check_before(rows, by)
    groups = [*dict.fromkeys([*by, "length"])]
    pooled(rows.drop("status", strict=False), groups)  # what did not finish is to be alike, too
    apart = [name for name in groups if name != "length"]
    n_lengths = pl.col("length").n_unique()
    if rows.filter(n_lengths.over([*apart, "text_id"]) < (n_lengths.over(apart) if apart else n_lengths)).height:
        raise NothingFound(
            "lengths have other texts; every drawn text counts at each of them, and lengths that were chosen after "
            "looking are for certified_lengths"
        )
    decoded = (pl.col("decoded_tokens") == pl.col("length")).fill_null(value=False).all()

    def bits_of(part: pl.DataFrame) -> dict:
        texts = part.group_by("text_id").agg(decoded.alias("decoded"))["decoded"]
        n, right = len(texts), int(texts.sum())
        held = part["source_token_bits"][0] * (part["length"][0] - part["unheld"][0])
        ends = stats.binomtest(right, n).proportion_ci(method="exact") if n >= LEAST else (0.0, 0.0)
        value, low, high = (held + log2(share) if share else None for share in (right / n, *ends))
        few = {"degenerate": n < LEAST, "n_decoded": right}
        return {"value": value, "low": low, "high": high, "n": n} | few

    table = summarise(_even(rows), groups, bits_of)
    return table.with_columns(pl.col("value").cast(pl.Float64))


def certified_lengths(rows: pl.DataFrame, *, by: Sequence[str] = CONDITIONS) -> pl.DataFrame:
    """Return the bits certified by exact lengths: *by, value, low, high, n, degenerate, n_censored.

    E[L] log2 K - log2 (number of possible lengths), of texts drawn evenly from K tokens. A search chooses L after it
    saw the text, so L may tell of it: it is one of 0 to `limit`. A text without a finished fit counts as 0; searches
    that ended with their budget make it a floor. The interval is Student's t of the mean length.

    Raises ValueError as `certified_at`, and for a `by` that names the length.
    """
    names = ("source", "text_id", "seed", "status", "length", "decoded_tokens", "limit", "scored_from")
    check_columns(rows, *names, by=by, takes=("by",))
    check_numbers(rows, "limit", "scored_from", whole=True)
    _check_before(rows, by, "length", search="")
    if (beyond := rows.filter(pl.col("length") > pl.col("limit"))).height:
        raise ValueError(f"length is {beyond['length'][0]} where limit is {beyond['limit'][0]}, the most that is tried")
    if rows["status"].null_count():
        raise ValueError("status is null in some rows; say how each fit ended, or leave these rows out")
    if "search" in rows.columns and (rows["search"].cast(pl.String) == "fixed").any():
        raise ValueError("fixed lengths were not searched for; take certified_at")
    if rows.schema["status"] != pl.String:
        raise ValueError(f"the column status is of type {rows.schema['status']}; it says in words how a fit ended")
    none = pl.col("status").is_in(UNFINISHED)
    counted = _even(rows).with_columns(
        pl.when(none).then(pl.lit("budget")).otherwise("status").alias("status"),
        pl.when(~none).then("decoded_tokens").alias("decoded_tokens"),
    )

    def bits_of(part: pl.DataFrame) -> dict:
        texts = exact_lengths(part, by=by).group_by("text_id").agg(
            pl.col("exact_length").mean(), pl.col("censored").any()
        )  # fmt: skip
        most = log2(part["limit"].max() + 1)  # pyright: ignore
        held = (texts["exact_length"] - part["unheld"].max()).clip(0)  # pyright: ignore
        bits = interval(held * part["source_token_bits"][0] - most)
        return asdict(bits) | {"n_censored": int(texts["censored"].sum())}

    return summarise(counted, by, bits_of)


def certified_information(rows: pl.DataFrame, *, by: Sequence[str] = CONDITIONS) -> pl.DataFrame:
    """Return the bits that vectors which were found tell of their texts at least, exact or not.

    Columns: *by, value, low, high, n, degenerate.

    The source's bits less those that the model still charges after the vector kept: H(2..N | t1) - E[bits with], or
    H(1..N) - E[bits with, t1's own among them] where t1 is predicted. Below 0 where the model charges more than the
    source spent, for all that it gained; it is not clipped. The interval is over texts; one whose fit diverged has no
    vector to charge anything after, and is left out: it is of those that have one, and n says how many.

    Raises ValueError where the source's bits are not known, for lengths that a search chose, and as `certified_at`.

    Source: Barber and Agakov 2003, The IM algorithm.
    """
    check_columns(rows, "source", "text_id", by=by, takes=("by",))
    _check_before(rows, by)
    _known(rows)
    numbers = ("scored_from", "bits_with", "first_bits_with")
    check_columns(rows, *numbers, takes=("by",))
    check_numbers(rows, *numbers)
    check_numbers(rows, "scored_from", whole=True)
    given = pl.col("scored_from") == 1
    spent = pl.col("source_bits_low") - pl.when(given).then("source_first_bits").otherwise(0.0)
    charged = pl.col("bits_with") + pl.when(given).then(0.0).otherwise("first_bits_with")
    return mean(rows, spent - charged, by)


def _check_before(rows: pl.DataFrame, by: Sequence[str], *names: str, search: str = "fixed") -> None:
    """Raise ValueError where rows or groups were chosen after looking; names: what `by` must not have besides."""
    if search and "search" in rows.columns and (rows["search"].cast(pl.String) != search).any():
        raise ValueError("lengths that a search chose are no fixed ones; take certified_lengths")
    if looked := [name for name in by if name in (*_LOOKED, *names)]:
        raise ValueError(f"by names {', '.join(looked)}, known only after a fit: only those that went well would count")


def _known(rows: pl.DataFrame) -> None:
    columns = ["source_bits_low", "source_first_bits"]
    if missing := [name for name in columns if name not in rows.columns or rows[name].null_count()]:
        sources = rows["source"].unique().sort().to_list()
        raise ValueError(f"{missing} are not known of all rows of {sources}; give sweep.with_source_bits(rows, cells)")
    check_numbers(rows, *columns)


def _even(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with `unheld`, tokens of a text that were given or not drawn, each drawn one as likely."""
    _known(rows)
    if "source_token_bits" not in rows.columns:
        raise ValueError("the rows have no column source_token_bits; give sweep.with_source_bits(rows, cells)")
    check_numbers(rows, "source_token_bits")
    led = pl.col("bos").eq_missing("after_mem") if "bos" in rows.columns else pl.lit(False)
    rows = rows.with_columns(unheld=pl.max_horizontal("scored_from", led.cast(pl.Int64)))
    drawn = (pl.col("length") - led.cast(pl.Int64)) * pl.col("source_token_bits")
    off = rows.filter(((pl.col("source_bits_low") - drawn).abs() <= 1e-6).fill_null(value=False).not_())
    if off.height:
        raise ValueError(f"the tokens of {off['source'].unique().to_list()} are not drawn evenly; give random_tokens")
    return rows
