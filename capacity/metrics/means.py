"""Means and ratios over texts with their intervals, a group of rows each."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

import polars as pl

from capacity.metrics.intervals import Interval, quotient
from capacity.metrics.pooling import check_columns, check_numbers, not_empty, pooled

_VALUE, _ONE = "the value of a row", "one a row"  # names of columns that no frame has


def mean(rows: pl.DataFrame, value: pl.Expr | str, by: Sequence[str], *, text_id: str = "text_id") -> pl.DataFrame:
    """Return the mean of `value` over rows: *by, value, low, high, n, degenerate; its interval is that of `ratio`.

    value: a column, or an expression of columns. Raises ValueError for a column that is missing or holds no numbers,
    and as `ratio`.
    """
    value = pl.col(value) if isinstance(value, str) else value
    if not isinstance(value, pl.Expr):
        raise ValueError(f"value is {str(value)[:80]!r}; give a column's name, or an expression, as pl.col('length')")
    check_columns(rows, text_id, *value.meta.root_names(), by=by)
    name = value.meta.output_name(raise_if_undetermined=False) or "value"
    try:
        check_numbers(rows.select(value.alias(name)), name)
    except pl.exceptions.PolarsError as error:
        types = ", ".join(f"{column} of {rows.schema[column]}" for column in dict.fromkeys(value.meta.root_names()))
        raise ValueError(f"no mean of {types} as given: {str(error).splitlines()[0]}; cast what is text") from error
    rows = rows.with_columns(value.alias(_VALUE), pl.lit(1).alias(_ONE))
    if pooled(rows, by)[_VALUE].null_count():
        columns = ", ".join(dict.fromkeys(value.meta.root_names()))
        raise ValueError(f"what a mean is asked of ({columns}) is null in some rows, and no number; leave them out")
    return ratio(rows, _VALUE, _ONE, by=by, text_id=text_id)


def ratio(rows: pl.DataFrame, above: str, below: str, *, by: Sequence[str], text_id: str = "text_id") -> pl.DataFrame:
    """Return the sum of one column over the sum of another: *by, value, low, high, n, degenerate.

    The interval is Fieller's over texts, each with the sums of all its rows; a text with 0 in both tells nothing and is
    left out; fits that did not finish are, too, see `pooled`. Where the mean of `below` is not told apart from 0 the
    ratio is not bounded: its low and high are null, and it is flagged as degenerate.

    Raises ValueError for no rows, a column that is missing, holds no numbers or a null, where `below` sums to 0, and as
    `pooled`.
    """

    def quotient_of(part: pl.DataFrame) -> Interval:
        of_text = part.group_by(text_id, maintain_order=True)
        pairs = of_text.agg(pl.col(above).sum().alias("_above"), pl.col(below).sum().alias("_below"))
        pairs = pairs.filter((pl.col("_above") != 0) | (pl.col("_below") != 0))
        if not pairs["_below"].sum():
            raise ValueError(f"{below} sums to 0 for {part.select(by).row(0, named=True)}; leave these rows out")
        return quotient(pairs["_above"], pairs["_below"])

    check_columns(rows, text_id, above, below, by=by)
    check_numbers(rows, above, below)
    if empty := [name for name in (above, below) if pooled(rows, by)[name].null_count()]:
        raise ValueError(f"{' and '.join(empty)} is null in some rows, and no number; leave these rows out")
    return summarise(pooled(rows, by), by, quotient_of)


def summarise(
    rows: pl.DataFrame, by: Sequence[str], summary: Callable[[pl.DataFrame], Interval | dict]
) -> pl.DataFrame:
    """Return one row for each group of `rows`: *by, and the fields of what `summary` returns of the group's rows.

    No column in `by` makes one group of all rows. A column without a value in any row is of numbers. Raises
    NothingFound for no rows, ValueError for a column that is missing, or a summary that is neither an Interval nor a
    dict.
    """
    check_columns(rows, by=by, takes=("by",))
    each = []
    for group, part in not_empty(rows).group_by(list(by), maintain_order=True) if by else [((), not_empty(rows))]:
        made = summary(part)
        if not isinstance(made, dict | Interval):
            raise ValueError(f"the summary of a group is {str(made)[:80]!r}; return an Interval, or a dict of columns")
        fields = made if isinstance(made, dict) else asdict(made)
        if twice := [name for name in by if name in fields]:
            raise ValueError(f"by names {', '.join(twice)}, which the result has as columns of its own; rename yours")
        each.append(dict(zip(by, group, strict=True)) | fields)
    made = pl.DataFrame(each, infer_schema_length=None)
    made = made.sort(by) if by else made
    empty = {name: rows.schema[name] if name in by else pl.Int64 if name.startswith("n_") else pl.Float64
             for name, kind in made.schema.items() if kind == pl.Null}  # fmt: skip
    return made.cast(empty).with_columns(pl.col("^(low|high)$").cast(pl.Float64))  # pyright: ignore
