"""Gains beside what knows a text's kind alone, part by part, and those of one source over those of another."""

import contextlib
import math
from collections.abc import Iterator, Sequence
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
    interval,
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


_WITHOUT = "none"  # the null that is no vector at all
_BEST = "best"  # of all nulls, no vector among them, that which saves most in the mean


def beside(rows: pl.DataFrame, nulls: pl.DataFrame, *, null: str = "shared") -> pl.DataFrame:
    """Return the rows of texts that a null was scored on, with its bits of positions 2..N as `null_bits`.

    `source_first_bits`, what the source spent on t1, is the nulls' where the rows don't have it.

    null: one of baselines.NULLS; `none`, no vector at all, after which there are `bits_without`; or `best`, for each
    model, source, recipe and length that with the least bits in the mean of those that all texts have, chosen after
    looking and named in the column `null`.

    nulls: of baselines.nulls. Rows of texts that are not in it are left out. Raises ValueError where none is left, for
    rows of a search (a null is scored on whole texts), a null that is not there, and a column that is missing in one of
    both or of another kind.
    """
    same = ["revision", "bos", "dtype", "source", "recipe", "n_mem", "text_digest"]
    check_columns(rows, *same, takes=())
    check_columns(nulls, *same, "null", "null_bits", takes=())
    check_numbers(nulls, "null_bits")
    if "search" in rows.columns and (rows["search"].cast(pl.String) != "fixed").any():
        raise ValueError("a null is scored on whole texts, and rows of a search are of parts; give fixed lengths")
    known = [*nulls["null"].unique().sort(), _WITHOUT, _BEST]
    if nulls.height and null not in known:
        raise ValueError(f"null is {str(null)[:80]!r}; there are {', '.join(known)}")
    if {"length"} <= {*rows.columns} & {*nulls.columns}:
        same.append("length")
    try:
        return _best(rows, nulls) if null == _BEST else _beside(rows, nulls, null, same)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"rows and nulls are of other kinds: {str(error).splitlines()[0]}; cast {same}") from error


def _beside(rows: pl.DataFrame, nulls: pl.DataFrame, null: str, same: list[str]) -> pl.DataFrame:
    kept = [name for name in ("null_bits", "source_first_bits") if name in nulls.columns]
    check_numbers(nulls, *kept)
    scored = nulls.filter(pl.col("null") == null) if null != _WITHOUT else nulls
    if "text_seed" in rows.columns and "text_seed" in nulls.columns:  # each sample has its own shared vector
        same, seed = [*same, "text_seed"], pl.col("text_seed").fill_null(0).cast(pl.Int64)
        rows, scored = rows.with_columns(seed), scored.with_columns(seed)
    scored = scored.unique(same, maintain_order=True) if null == _WITHOUT else scored
    if scored.select(same).is_duplicated().any():
        raise ValueError(f"the null {null!r} is there twice for some texts; give the nulls of one fit a text")
    joined = rows.drop("null_bits", strict=False).join(
        scored.select(*same, *kept), on=same, maintain_order="left", suffix="_kept"
    )
    if "source_first_bits_kept" in joined.columns:  # of rows whose tokenizer is not here
        first = pl.coalesce("source_first_bits", "source_first_bits_kept")
        joined = joined.with_columns(source_first_bits=first).drop("source_first_bits_kept")
    if joined.is_empty():
        raise NothingFound(f"no row of {rows.height} has bits after the null {null!r}; measure it: baselines.nulls")
    return joined.with_columns(null_bits="bits_without") if null == _WITHOUT else joined


def _best(rows: pl.DataFrame, nulls: pl.DataFrame) -> pl.DataFrame:
    """Return `beside` of the null with the least mean bits, by model, source, recipe and length."""
    check(rows, "bits_without", "length", by=["model", "source"])
    group = ["revision", "bos", "dtype", "source", "recipe", "n_mem", "length"]
    each = pl.concat(
        [both.with_columns(null=pl.lit(name)) for name, both in _each(rows, nulls)], how="vertical_relaxed"
    )
    means = each.group_by([*group, "null"], maintain_order=True).agg(pl.col("null_bits").mean(), pl.len().alias("rows"))
    means = means.filter(pl.col("rows") == pl.col("rows").max().over(group))  # of the same texts
    least = means.sort("null_bits", maintain_order=True).unique(group, keep="first", maintain_order=True)
    return each.join(least.select(*group, "null"), on=[*group, "null"], how="semi", maintain_order="left")


def _each(rows: pl.DataFrame, nulls: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield the nulls that these rows have by name, no vector last, and `beside` of each; NothingFound for none."""
    for name in nulls["null"].unique().sort():
        with contextlib.suppress(NothingFound):  # of other rows, as `bos` where only other models have one
            yield name, beside(rows, nulls, null=name)
    yield _WITHOUT, beside(rows, nulls, null=_WITHOUT)


def text_specific_gain(
    rows: pl.DataFrame, nulls: pl.DataFrame, *, by: Sequence[str] = CONDITIONS, null: str = "shared"
) -> pl.DataFrame:
    """Return the mean over rows of (own gain - the gain of a null), bits: *by, value, low, high, n, degenerate.

    What a text's own vector saves beyond one that knows its kind alone: (bits without - bits with) - (bits without -
    bits after the null). A null that could be better makes it a ceiling. Bits are those of `bits_with`; rows without
    the null are left out, see `beside`, whose nulls there are and whose errors and those of `token_gain` are raised.
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
    _check_name("kind", by)
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


def _check_name(name: str, by: Sequence[str]) -> None:
    if name in by:
        raise ValueError(f"by names {name}, which the result has as a column of its own; rename yours")


def saved_by(rows: pl.DataFrame, nulls: pl.DataFrame, *, by: Sequence[str] = CONDITIONS) -> pl.DataFrame:
    """Return the bits that each null saves of the texts, the mean: *by, null, value, low, high, n, degenerate.

    Of all in `nulls`, and `none`, no vector at all, which saves 0. Errors are those of `beside` and `token_gain`.
    """
    check(rows, "bits_without", by=by)
    _check_name("null", by)
    check_columns(nulls, "null", takes=())
    parts = []
    for null, both in _each(rows, nulls):
        saved = mean(both, pl.col("bits_without") - pl.col("null_bits"), by)
        parts.append(saved.select(*by, pl.lit(null).alias("null"), pl.exclude(by)))
    return pl.concat(parts)


def over_first(
    taken: pl.DataFrame, value: str, first: str, *, by: Sequence[str] = ("model",), source: str = "source",
    text_id: str = "text_id",
) -> pl.DataFrame:  # fmt: skip
    """Return what each source's texts have on average over what those of the first source have, bits.

    Columns: *by, source, value, low, high, n, degenerate (the quotient), apart, apart_low, apart_high (the difference).
    The sources' texts are others: Fieller's interval of two samples, Welch's, and n counts the smaller. Where at least
    half of the smaller's are the other's, as of a source and its `shuffled:` one, these are paired and alone. A text
    that is there several times counts once, with its mean. Where the first source's mean is not above 0 there is
    nothing to be a multiple of: the quotient is NaN, without an interval. Groups without texts of the first source are
    left out; the table is empty where no group has two sources.

    Args:
        taken: a row a text and start.
        value: the column of what a vector takes out of the text, bits.
        first: the source that others are measured by.
        by: what quotients are told apart by.
        source: the column of sources.
        text_id: the column that names the text.

    Raises ValueError for a column that is missing or named twice, or a value that is no finite number.
    """
    check_columns(taken, value, source, text_id, by=by, takes=("by", "value", "source", "text_id"))
    check_numbers(taken, value)
    if len({value, source, text_id, *by}) < 3 + len(by):
        raise ValueError(
            f"by {[*by]}, value {value!r}, source {source!r} and text_id {text_id!r} name one column twice"
        )
    if not taken[value].cast(pl.Float64).is_finite().fill_null(value=False).all():
        raise ValueError(f"{value} is no finite number in some rows; leave these out")
    texts = taken.group_by([*by, source, text_id], maintain_order=True).agg(pl.col(value).cast(pl.Float64).mean())
    groups = {at: part.drop(*by, source) for at, part in texts.group_by([*by, source], maintain_order=True)}

    def compared(part: pl.DataFrame) -> dict:
        mine, theirs = part.drop(*by, source), groups[*part.select(by).row(0), first] if by else groups[(first,)]
        same = mine.join(theirs, on=text_id, suffix="_over")
        paired = 2 * same.height >= min(mine.height, theirs.height)
        if paired:
            mine, theirs = same.select(value), same.select(pl.col(f"{value}_over").alias(value))
        above, below = mine[value], theirs[value]
        apart = interval(above - below) if paired else difference(above, below)
        none = Interval(math.nan, None, None, apart.n, True)
        quotients = quotient(above, below, paired=paired) if below.mean() > 0 else none  # pyright: ignore
        return asdict(quotients) | {"apart": apart.value, "apart_low": apart.low, "apart_high": apart.high}

    with_first = [at for at in groups if (*at[:-1], first) in groups and at[-1] != first]
    here = pl.DataFrame(with_first, {name: texts.schema[name] for name in (*by, source)}, orient="row")
    others = texts.join(here, on=[*by, source], how="semi", nulls_equal=True, maintain_order="left")
    ends = ["value", "low", "high", "apart", "apart_low", "apart_high"]
    if others.is_empty():
        floats = dict.fromkeys(ends, pl.Float64)
        made = pl.DataFrame(schema=floats | {"n": pl.Int64, "degenerate": pl.Boolean})
        return others.select(*by, source).hstack(made.select(*ends[:3], "n", "degenerate", *ends[3:]))
    return summarise(others, [*by, source], compared).with_columns(pl.col(ends).cast(pl.Float64))
