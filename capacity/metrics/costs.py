"""What searches have reached after a cost, and what twice the cost adds."""

import math
from collections.abc import Sequence

import polars as pl

from capacity.metrics.intervals import as_numbers, quotient
from capacity.metrics.means import mean, summarise
from capacity.metrics.pooling import CONDITIONS, check_columns, check_numbers, not_empty
from capacity.metrics.scores import check_scores, scored


def reached(
    rows: pl.DataFrame,
    *,
    cost: str,
    at: Sequence[float],
    by: Sequence[str] = CONDITIONS,
    text_id: str = "text_id",
    length: str = "length",
    share: str | None = None,
    order: Sequence[str] = ("seed", "probe"),
) -> pl.DataFrame:
    """Return the longest exact prefix that each search had reached, tokens: *by, text_id, *order[:-1], spent, value.

    cost: `token_steps` or `seconds` of a search, its probes summed in their order; at: values of it. Exact is
    teacher-forced, alone, from the stored vector. Searches that ended earlier keep what they had.

    text_id, length, share: columns, see `accuracy_by_length`. order: columns that tell the searches of a text apart,
    the last one the order of a search's fits. ValueError as `accuracy_by_length`, and for costs that are no numbers.
    """
    takes = ("by", "text_id", "length", "share", "cost", "order")
    check_columns(rows, text_id, length, cost, *order, by=by, takes=takes)
    tried = scored(rows, by, share, text_id, length, cost, *order)
    check_numbers(tried, length, cost, counts=True)
    as_numbers(at)
    search = [*by, text_id, *order[:-1]]
    each = tried.sort(*search, order[-1]).with_columns(
        pl.col(cost).cum_sum().over(search).alias("spent_then"),
        pl.when(pl.col("accuracy") >= 1).then(length).otherwise(0).alias("reached"),
    )
    tables = []
    for spent in at:
        then = pl.col("reached").filter(pl.col("spent_then") <= spent).max().fill_null(0).alias("value")
        tables.append(each.group_by(search, maintain_order=True).agg(pl.lit(float(spent)).alias("spent"), then))
    return pl.concat(tables)


def impatient(rows: pl.DataFrame, *, steps: int) -> pl.DataFrame:
    """Return the rows of searches as if each had given up at its first length that took more than so many steps.

    That fit is cut off there and was not exact, what came after it is gone. For searches that end at a length that
    fails, as `grow`. It is what a *patience* of so many steps without progress reaches at least. Of its seconds the cut
    fit has the share of its steps. ValueError for a column that is missing, or fewer steps than 1.
    """
    if steps < 1 or steps % 1:
        raise ValueError(f"steps is {steps}; give a whole number from 1 on")
    check_columns(rows, "key", "probe", "length", "steps", takes=())
    late = (pl.col("steps") > steps).cast(pl.Int32).cum_sum().over("key")
    kept = rows.sort("key", "probe").with_columns(late.alias("late")).filter(
        (pl.col("late") == 0) | ((pl.col("late") == 1) & (pl.col("steps") > steps))
    )  # fmt: skip
    cut = {"seconds": pl.col("seconds") * steps / pl.col("steps") if "seconds" in rows.columns else None,
           "steps": steps, "token_steps": pl.col("length") * steps, "status": pl.lit("stalled"), "correct_with": 0,
           "first_correct": pl.lit(False), "decoded_tokens": None}  # fmt: skip
    return kept.with_columns(
        pl.when(pl.col("late") == 1).then(value).otherwise(name).cast(rows.schema[name]).alias(name)
        for name, value in cut.items() if name in rows.columns
    ).drop("late")  # fmt: skip


def by_patience(rows: pl.DataFrame, *, steps: Sequence[int], by: Sequence[str] = ("model",)) -> pl.DataFrame:
    """Return what searches hold with less patience, and its cost: *by, steps, value, low, high, n, token_steps.

    value: mean over texts of the longest exact prefix where each search is `impatient` by so many steps; token_steps:
    mean of a search. Raises as `impatient` and `reached`.
    """
    tried = [impatient(rows, steps=n).with_columns(allowed=pl.lit(n, pl.Int64)) for n in steps]
    every = pl.concat(tried).with_columns(key=pl.format("{} {}", "key", "allowed"))
    held = reached(every, cost="token_steps", at=[math.inf], by=[*by, "allowed"])
    cost = every.group_by(*by, "allowed").agg(token_steps=pl.col("token_steps").sum() / pl.col("key").n_unique())
    means = mean(held, pl.col("value"), [*by, "allowed"]).drop("degenerate")
    return means.join(cost, on=[*by, "allowed"]).sort(*by, "allowed").rename({"allowed": "steps"})


def exact_length_by_cost(
    rows: pl.DataFrame,
    *,
    cost: str,
    at: Sequence[float],
    by: Sequence[str] = CONDITIONS,
    text_id: str = "text_id",
    length: str = "length",
    share: str | None = None,
    order: Sequence[str] = ("seed", "probe"),
) -> pl.DataFrame:
    """Return the mean of `reached`, whose arguments and errors it has: *by, value, low, high, n, degenerate, spent."""
    each = reached(rows, cost=cost, at=at, by=by, text_id=text_id, length=length, share=share, order=order)
    return mean(each, pl.col("value"), [*by, "spent"], text_id=text_id).select(pl.exclude("spent"), "spent")


def doubled(rows: pl.DataFrame, *, cost: str, at: Sequence[float], by: Sequence[str] = CONDITIONS) -> pl.DataFrame:
    """Return what twice the cost reaches over what once does, same texts: *by, spent, value, low, high, n, degenerate.

    spent: the doubled cost, 2 x each of `at`; a text with several seeds counts with their mean, and cost and at are as
    of `reached`. Where nothing was reached at the smaller cost there is no quotient, and no row.
    ValueError as `reached`.
    """
    check_scores(rows, "text_id", "length", cost, "seed", "probe", by=by, takes=("by", "cost"))
    ends = [*at, *(2 * spent for spent in at)]
    texts = reached(rows, cost=cost, at=sorted({*ends}), by=by).group_by(*by, "text_id", "spent").agg(
        pl.col("value").mean()
    )  # fmt: skip
    before = texts.filter(pl.col("spent").is_in([float(spent) for spent in at])).with_columns(pl.col("spent") * 2)
    pairs = before.rename({"value": "once"}).join(texts, on=[*by, "text_id", "spent"])
    pairs = pairs.filter(pl.col("once").sum().over(*by, "spent") > 0)
    if pairs.is_empty():
        not_empty(rows)
        numbers = {"value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64, "degenerate": pl.Boolean}
        return pairs.select(*by, "spent", *(pl.lit(None, kind).alias(name) for name, kind in numbers.items()))
    return summarise(pairs, [*by, "spent"], lambda part: quotient(part["value"], part["once"]))
