"""Gains beside what knows a text's kind alone, part by part, and those of one source over those of another."""

import math
from collections.abc import Sequence
from dataclasses import asdict

import polars as pl

from capacity.gains.certified import certified_information
from capacity.metrics import (
    CONDITIONS,
    Interval,
    NothingFound,
    check_columns,
    check_numbers,
    difference,
    mean,
    quotient,
    summarise,
)


def check(rows: pl.DataFrame, *names: str, by: Sequence[str]) -> None:
    """Raise ValueError for columns that rows lack or that hold no numbers; those of `by` and text_id belong to them."""
    check_columns(rows, "text_id", *names, by=by, takes=("by",))
    check_numbers(rows, *names)


def bits_with(rows: pl.DataFrame) -> pl.Expr:
    """Return the bits of positions 2..N with [mem]: the least over the steps, as in the paper, where they are known.

    Where a recipe does not follow bits (its loss has none), the vector's own. ValueError without `bits_with`.
    """
    check_columns(rows, "bits_with", takes=())
    return pl.coalesce("bits_with_min", "bits_with") if "bits_with_min" in rows.columns else pl.col("bits_with")


def beside(rows: pl.DataFrame, nulls: pl.DataFrame, *, null: str = "shared") -> pl.DataFrame:
    """Return the rows of texts that a null was scored on, with its bits of positions 2..N as `null_bits`.

    `source_first_bits`, what the source spent on t1, is the nulls' where the rows don't have it.

    nulls: of baselines.nulls. Rows of texts that are not in it are left out. Raises ValueError where none is left, and
    for a column that is missing in one of both.
    """
    same = ["revision", "bos", "dtype", "source", "recipe", "n_mem", "text_digest"]
    check_columns(rows, *same, takes=())
    check_columns(nulls, *same, "null", "null_bits", takes=())
    check_numbers(nulls, "null_bits")
    kept = [name for name in ("null_bits", "source_first_bits") if name in nulls.columns]
    of_null = nulls.filter(pl.col("null") == null)
    if "text_seed" in rows.columns and "text_seed" in nulls.columns:  # each sample has its own shared vector
        same, seed = [*same, "text_seed"], pl.col("text_seed").fill_null(0).cast(pl.Int64)
        rows, of_null = rows.with_columns(seed), of_null.with_columns(seed)
    if of_null.select(same).is_duplicated().any():
        raise ValueError(f"the null {null!r} is there twice for some texts; give the nulls of one fit a text")
    joined = rows.drop("null_bits", strict=False).join(
        of_null.select(*same, *kept), on=same, maintain_order="left", suffix="_kept"
    )
    if "source_first_bits_kept" in joined.columns:  # of rows whose tokenizer is not here
        first = pl.coalesce("source_first_bits", "source_first_bits_kept")
        joined = joined.with_columns(source_first_bits=first).drop("source_first_bits_kept")
    if joined.is_empty():
        raise NothingFound(f"no row of {rows.height} has bits after the null {null!r}; measure it: baselines.nulls")
    return joined


def text_specific_gain(
    rows: pl.DataFrame, nulls: pl.DataFrame, *, by: Sequence[str] = CONDITIONS, null: str = "shared"
) -> pl.DataFrame:
    """Return the mean over rows of (own gain - the gain of a null), bits: *by, value, low, high, n, degenerate.

    What a text's own vector saves beyond one that knows its kind alone: (bits without - bits with) - (bits without -
    bits after the null). A null that could be better makes it a ceiling. Bits are those of `bits_with`; rows without
    the null are left out, see `beside`, whose errors and those of `token_gain` are raised.
    """
    check(rows, "bits_with", by=by)
    both = beside(rows, nulls, null=null)
    return mean(both, pl.col("null_bits") - bits_with(both), by)


def by_kind(rows: pl.DataFrame, nulls: pl.DataFrame, *, by: Sequence[str] = CONDITIONS) -> pl.DataFrame:
    """Return what vectors save, part by part, bits of positions 2..N: *by, kind, value, low, high, n, degenerate.

    Kinds: `published gain`, bits without - bits with; `shared vector's`, bits without - bits after one vector fitted to
    other texts; `text-specific gain`, their difference text by text; and, of sources whose own bits are known (see
    sweep.with_source_bits), `certified`, see certified_information. Rows without the null are left out, see `beside`,
    whose errors and those of `token_gain` are raised.
    """
    check(rows, "bits_without", "bits_with", by=by)
    both = beside(rows, nulls)
    kinds = {
        "published gain": mean(both, pl.col("bits_without") - bits_with(both), by),
        "shared vector's": mean(both, pl.col("bits_without") - pl.col("null_bits"), by),
        "text-specific gain": mean(both, pl.col("null_bits") - bits_with(both), by),
    }
    of_source = ["source_bits_low", "source_first_bits"]
    if set(of_source) <= set(both.columns) and (known := both.drop_nulls(of_source)).height:
        kinds["certified"] = certified_information(known, by=by)
    tables = [table.select(*by, pl.lit(kind).alias("kind"), pl.exclude(by)) for kind, table in kinds.items()]
    return pl.concat(tables)


def over_first(
    taken: pl.DataFrame, value: str, first: str, *, by: Sequence[str] = ("model",), source: str = "source"
) -> pl.DataFrame:
    """Return what each source's texts have on average over what those of the first source have, bits.

    Columns: *by, source, value, low, high, n, degenerate (the quotient, Fieller's interval of two samples; n: texts of
    the smaller sample), apart, apart_low, apart_high (the difference, Welch's). Where the first source's mean is not
    above 0 there is nothing to be a multiple of: the quotient is NaN, without an interval. Groups without texts of the
    first source are left out; the table is empty where no group has two sources.

    Args:
        taken: a row a text.
        value: the column of what a vector takes out of the text, bits.
        first: the source that others are measured by.
        by: what quotients are told apart by.
        source: the column of sources.

    Raises ValueError for a column that is missing, or a value that is no finite number.
    """
    check_columns(taken, value, source, by=by, takes=("by", "value", "source"))
    check_numbers(taken, value)

    def compared(part: pl.DataFrame) -> dict:
        mine, theirs = part[value], part["over"][0]
        quotients = quotient(mine, theirs, paired=False) if theirs.mean() > 0 else None
        apart = difference(mine, theirs)
        none = Interval(math.nan, None, None, min(len(mine), len(theirs)), True)
        ends = {"apart": apart.value, "apart_low": apart.low, "apart_high": apart.high}
        return asdict(quotients or none) | ends

    on = [*by, "every"]  # so that there may be no column to tell them apart by
    taken = taken.with_columns(every=pl.lit(0))
    base = taken.filter(pl.col(source) == first).group_by(on).agg(pl.col(value).alias("over"))
    others = taken.filter(pl.col(source) != first).join(base, on=on, nulls_equal=True, maintain_order="left")
    ends = ["low", "high", "apart_low", "apart_high"]
    if others.is_empty():
        numbers = pl.Schema({"value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64})
        differences = dict.fromkeys(("apart", "apart_low", "apart_high"), pl.Float64)
        return others.select(*by, source).hstack(
            pl.DataFrame(schema=numbers | {"degenerate": pl.Boolean} | differences)
        )
    return summarise(others, [*by, source], compared).with_columns(pl.col(ends).cast(pl.Float64))
