"""Rows in, numbers with intervals over texts out: Student's and Welch's t, Fieller's quotients (scipy)."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from capacity.metrics.ends import KINDS, limits, median_limit, survival
from capacity.metrics.intervals import LEAST, Interval, between, difference, interval, proportion, quotient, student
from capacity.metrics.means import mean, ratio, summarise
from capacity.metrics.pooling import ALIKE, CONDITIONS, UNFINISHED, NothingFound, check_columns, finished, found, pooled

__all__ = [
    "ALIKE", "CONDITIONS", "KINDS", "LEAST", "UNFINISHED", "Interval", "NothingFound", "accuracy", "accuracy_by_length",
    "between", "bounds", "censored", "check_columns", "check_threshold", "decoding_capacity", "difference", "doubled",
    "exact", "exact_length", "exact_length_by_cost", "exact_lengths", "finished", "found", "impatient", "interval",
    "limits", "mean", "median_limit", "n_right", "pooled", "proportion", "quotient", "ratio", "reached", "summarise",
    "survival",
]  # fmt: skip
__dir__ = __all__.copy  # what completion shows


def n_right() -> pl.Expr:
    """Return the number of scored positions that are right, t1 among them with `scored_from=0`."""
    first = pl.col("first_correct").fill_null(value=False) & (pl.col("scored_from") == 0)
    return (pl.col("correct_with") + first.cast(pl.Int32)).alias("n_right")


def exact() -> pl.Expr:
    """Return whether every scored position's argmax is right, teacher-forced."""
    return (n_right() == pl.col("n_scored")).alias("exact")


def accuracy() -> pl.Expr:
    """Return the share of scored positions that are right, in [0, 1]; a text with none scored counts as 1."""
    scored = pl.col("n_scored")
    return pl.when(scored == 0).then(1.0).otherwise(n_right() / scored).alias("accuracy")


_SCORES = ("correct_with", "first_correct", "scored_from", "n_scored")  # what `accuracy` is made of


def _scored(rows: pl.DataFrame, by: Sequence[str], share: str | None, *names: str) -> pl.DataFrame:
    """Return the rows that may be pooled with a column `accuracy`: that of a column, else made of the scores."""
    check_columns(rows, *names, *([share] if share else _SCORES), by=by)
    if share and not (wrong_rows := rows.filter(~pl.col(share).is_between(0, 1))).is_empty():
        raise ValueError(f"{share} is {wrong_rows[share][0]} in some rows; a share of right tokens is from 0 to 1")
    return pooled(rows, by).with_columns(accuracy() if share is None else pl.col(share).alias("accuracy"))


def accuracy_by_length(
    rows: pl.DataFrame,
    *,
    by: Sequence[str] = CONDITIONS,
    text_id: str = "text_id",
    length: str = "length",
    share: str | None = None,
) -> pl.DataFrame:
    """Return the mean accuracy over texts at each length with its interval: *by, length, value, low, high, n.

    text_id, length: columns that name the text and count its tokens. share: column with the share of right tokens, in
    [0, 1]; None makes it of the scores of our rows. ValueError for a column that is missing, and as `pooled`.

    A frame of anybody's, of which two texts were tried at two lengths:

    >>> theirs = pl.DataFrame({
    ...     "net": ["tiny"] * 4, "doc": ["a", "b", "a", "b"], "tokens": [4, 4, 8, 8], "ok": [1.0, 1.0, 0.5, 0.7]
    ... })
    >>> columns = {"by": ["net"], "text_id": "doc", "length": "tokens", "share": "ok"}
    >>> accuracy_by_length(theirs, **columns).select("net", "tokens", "value", "n").rows()
    [('tiny', 4, 1.0, 2), ('tiny', 8, 0.6, 2)]
    >>> decoding_capacity(theirs, **columns).select("net", "value", "censored").rows()
    [('tiny', 4.0, 'no')]
    >>> mean(theirs, pl.col("ok") * pl.col("tokens"), ["net"], text_id="doc").select("value", "n").row(0)
    (4.4, 2)
    >>> accuracy_by_length(theirs, by=["net"], text_id="text", length="tokens", share="ok")
    Traceback (most recent call last):
    ValueError: the frame has no column text; it has net, doc, tokens, ok. Give the names of yours where the ...
    """

    def interval_of(part: pl.DataFrame) -> Interval:
        return interval(part.group_by(text_id).agg(pl.col("accuracy").mean())["accuracy"])

    table = summarise(_scored(rows, by, share, text_id, length), [*by, length], interval_of)
    return table.with_columns(pl.col("low", "high").clip(0, 1))


def check_threshold(threshold: float) -> None:
    """Raise ValueError for a mean accuracy outside (0, 1]; a notebook calls it before it measures."""
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold!r}; above 0 and at most 1 is allowed")


def decoding_capacity(
    rows: pl.DataFrame,
    *,
    by: Sequence[str] = CONDITIONS,
    threshold: float = 0.99,
    text_id: str = "text_id",
    length: str = "length",
    share: str | None = None,
) -> pl.DataFrame:
    """Return the largest length with mean accuracy >= threshold (the paper's decoding capacity), tokens.

    Columns: *by, value (0 where no length reaches the threshold), low, high, n, degenerate, censored: `above` where
    the largest length measured still passes, `below` where the smallest doesn't, else `no`. Lengths need not be
    passed in order, as in the paper. Every text must have every length, `rows` being of one fixed-length grid. low and
    high: the largest lengths at which the mean accuracy's interval lies above the threshold, and reaches it.
    text_id, length, share: columns, see `accuracy_by_length`.

    Raises ValueError for a threshold outside (0, 1], or texts that miss a length.

    Source: Kuratov et al. 2025, Table 1.
    """
    check_threshold(threshold)

    def capacity_of(part: pl.DataFrame) -> dict:
        table = part.pivot(length, index=text_id, values="accuracy", aggregate_function="mean")
        lengths = np.sort(part[length].unique().to_numpy())
        values = table.select([str(tokens) for tokens in lengths]).to_numpy().astype(float)
        if np.isnan(values).any():
            raise NothingFound("some texts miss a length; decoding capacity needs every text at every length")

        def largest(accuracies: np.ndarray) -> float:
            passed = lengths[accuracies >= threshold - 1e-12]
            return float(passed.max()) if len(passed) else 0.0

        means = values.mean(axis=0)
        capacity = Interval(largest(means), None, None, len(values), True)
        if len(values) >= LEAST:
            _, low, high = (largest(ends) for ends in student(values))
            capacity = Interval(capacity.value, low, high, len(values), low == high)
        censored = "above" if capacity.value == lengths[-1] else "below" if capacity.value == 0 else "no"
        return asdict(capacity) | {"censored": censored}

    return summarise(_scored(rows, by, share, text_id, length), by, capacity_of)


def censored(length: str = "length", status: str = "status") -> pl.Expr:
    """Return whether a search may have held more, over all its fits (columns length, status): an aggregation.

    So it is where no length failed (`stalled`) that is one past the longest solved, or the shortest tried where none
    was solved: budget, memory, a divergence or the text's end came first.
    """
    tokens, ended = pl.col(length), pl.col(status)
    limit = (tokens.filter(ended == "solved").max() + 1).fill_null(tokens.min())
    return (~((ended == "stalled") & (tokens == limit)).any()).alias("censored")


def exact_lengths(
    rows: pl.DataFrame,
    *,
    by: Sequence[str] = CONDITIONS,
    text_id: str = "text_id",
    length: str = "length",
    decoded: str = "decoded_tokens",
    status: str | None = "status",
    seed: str | None = "seed",
) -> pl.DataFrame:
    """Return each text's exact length: *by, text_id, seed, exact_length (tokens), censored.

    The longest prefix decoded free-running; 0 where none was. Where it is `censored`, the true one may be larger. A
    text with no finished fit is left out.

    text_id, length, decoded, status, seed: columns that name the text, count its tokens and those decoded before the
    first wrong one, say how a fit ended, and which start of a text it had. A status of None leaves `censored` null; a
    seed of None takes all fits of a text for one search. ValueError for a column that is missing, and as `pooled`.

    >>> theirs = pl.DataFrame({"net": ["tiny"] * 3, "doc": ["a", "a", "b"], "tokens": [4, 8, 4], "back": [4, 6, 3]})
    >>> columns = {"by": ["net"], "text_id": "doc", "length": "tokens", "decoded": "back", "status": None, "seed": None}
    >>> exact_lengths(theirs, **columns).rows()
    [('tiny', 'a', 6, None), ('tiny', 'b', 3, None)]
    >>> exact_length(theirs, **columns).select("net", "value", "n_censored").rows()
    [('tiny', 4.5, None)]
    """
    names = [text_id, *([seed] if seed else [])]
    check_columns(rows, *names, length, decoded, *([status] if status else []), by=by)
    end = censored(length, status) if status else pl.lit(None, pl.Boolean).alias("censored")
    return (
        pooled(rows, by)
        .group_by([*by, *names], maintain_order=True)
        .agg(pl.col(decoded).max().fill_null(0).alias("exact_length"), end)
        .sort([*by, *names])
    )


def exact_length(
    rows: pl.DataFrame, *, by: Sequence[str] = CONDITIONS, text_id: str = "text_id", **columns: Any
) -> pl.DataFrame:
    """Return the mean exact length over texts, tokens: *by, value, low, high, n, degenerate, n_censored.

    text_id, columns: see `exact_lengths`.
    """

    def mean_length_of(part: pl.DataFrame) -> dict:
        texts = part.group_by(text_id).agg(pl.col("exact_length").mean(), pl.col("censored").any(ignore_nulls=False))
        n_censored = None if texts["censored"].null_count() else int(texts["censored"].sum())
        return asdict(interval(texts["exact_length"])) | {"n_censored": n_censored}

    return summarise(exact_lengths(rows, by=by, text_id=text_id, **columns), by, mean_length_of)


def bounds(table: pl.DataFrame, *, digits: int = 2) -> pl.DataFrame:
    """Return a table of `exact_length` or `decoding_capacity` with a column `tokens`: its value as text, ≥ where it is
    a lower bound (n_censored above 0, censored `above`).

    >>> bounds(pl.DataFrame({"value": [8.0, 27.25], "n_censored": [0, 3]}), digits=1)["tokens"].to_list()
    ['8.0', '≥ 27.2']
    """
    check_columns(table, "value")
    lower = pl.col("n_censored") > 0 if "n_censored" in table.columns else pl.col("censored") == "above"
    at_least = pl.when(lower).then(pl.lit("≥ ")).otherwise(pl.lit(""))
    text = pl.col("value").map_elements(lambda value: f"{value:.{digits}f}", return_dtype=pl.String)
    return table.with_columns((at_least + text).alias("tokens"))


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
    the last one the order of a search's fits.
    """
    scored = _scored(rows, by, share, text_id, length, cost, *order)
    search = [*by, text_id, *order[:-1]]
    each = scored.sort(*search, order[-1]).with_columns(
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
    fails, as `grow`. It is what a *patience* of so many steps without progress reaches at least.
    """
    late = (pl.col("steps") > steps).cast(pl.Int32).cum_sum().over("key")
    kept = rows.sort("key", "probe").with_columns(late.alias("late")).filter(
        (pl.col("late") == 0) | ((pl.col("late") == 1) & (pl.col("steps") > steps))
    )  # fmt: skip
    cut = {"steps": steps, "token_steps": pl.col("length") * steps, "status": pl.lit("stalled"), "correct_with": 0,
           "first_correct": pl.lit(False), "decoded_tokens": None}  # fmt: skip
    return kept.with_columns(
        pl.when(pl.col("late") == 1).then(value).otherwise(name).cast(rows.schema[name]).alias(name)
        for name, value in cut.items() if name in rows.columns
    ).drop("late")  # fmt: skip


def exact_length_by_cost(
    rows: pl.DataFrame,
    *,
    cost: str,
    at: Sequence[float],
    by: Sequence[str] = CONDITIONS,
    text_id: str = "text_id",
    **columns: Any,
) -> pl.DataFrame:
    """Return the mean of `reached`, whose arguments it takes: *by, value, low, high, n, degenerate, spent."""
    each = reached(rows, cost=cost, at=at, by=by, text_id=text_id, **columns)
    return mean(each, pl.col("value"), [*by, "spent"], text_id=text_id).select(pl.exclude("spent"), "spent")


def doubled(rows: pl.DataFrame, *, cost: str, at: Sequence[float], by: Sequence[str] = CONDITIONS) -> pl.DataFrame:
    """Return what twice the cost reaches over what once does, same texts: *by, spent, value, low, high, n, degenerate.

    spent: the doubled cost, 2 x each of `at`; a text with several seeds counts with their mean, and cost and at are as
    of `reached`. Where nothing was reached at the smaller cost there is no quotient, and no row.
    """
    ends = [*at, *(2 * spent for spent in at)]
    texts = reached(rows, cost=cost, at=sorted({*ends}), by=by).group_by(*by, "text_id", "spent").agg(
        pl.col("value").mean()
    )  # fmt: skip
    before = texts.filter(pl.col("spent").is_in([float(spent) for spent in at])).with_columns(pl.col("spent") * 2)
    pairs = before.rename({"value": "once"}).join(texts, on=[*by, "text_id", "spent"])
    pairs = pairs.filter(pl.col("once").sum().over(*by, "spent") > 0)
    if pairs.is_empty() and not found(rows).is_empty():
        numbers = {"value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64, "degenerate": pl.Boolean}
        return pairs.select(*by, "spent", *(pl.lit(None, kind).alias(name) for name, kind in numbers.items()))
    return summarise(pairs, [*by, "spent"], lambda part: quotient(part["value"], part["once"]))
