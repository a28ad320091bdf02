"""Rows in, numbers with intervals over texts out: Student's and Welch's t, Fieller's quotients (scipy)."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import polars as pl

from capacity.metrics.intervals import LEAST, Interval, between, difference, interval, quotient, student
from capacity.metrics.pooling import ALIKE, CONDITIONS, UNFINISHED, finished, pooled

__all__ = [
    "ALIKE", "CONDITIONS", "LEAST", "UNFINISHED", "Interval", "accuracy", "accuracy_by_length", "between",
    "check_threshold", "decoding_capacity", "difference", "exact", "exact_length", "exact_length_by_cost",
    "exact_lengths", "finished", "interval", "mean", "n_right", "pooled", "quotient", "ratio", "summarise",
]  # fmt: skip


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


def accuracy_by_length(rows: pl.DataFrame, *, by: Sequence[str] = CONDITIONS) -> pl.DataFrame:
    """Return the mean accuracy over texts at each length with its interval: *by, length, value, low, high, n."""

    def one(part: pl.DataFrame) -> Interval:
        return interval(part.group_by("text_id").agg(pl.col("accuracy").mean())["accuracy"])

    found = summarise(pooled(rows, by).with_columns(accuracy()), [*by, "length"], one)
    return found.with_columns(pl.col("low", "high").clip(0, 1))


def check_threshold(threshold: float) -> None:
    """Raise ValueError for a mean accuracy outside (0, 1]; a notebook calls it before it measures."""
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold!r}; above 0 and at most 1 is allowed")


def decoding_capacity(rows: pl.DataFrame, *, by: Sequence[str] = CONDITIONS, threshold: float = 0.99) -> pl.DataFrame:
    """Return the largest length with mean accuracy >= threshold (the paper's decoding capacity), tokens.

    Columns: *by, value (0 where no length reaches the threshold), low, high, n, degenerate, censored: `above` where
    the largest length measured still passes, `below` where the smallest doesn't, else `no`. Lengths need not be
    passed in order, as in the paper. Every text must have every length, `rows` being of one fixed-length grid. low and
    high: the largest lengths at which the mean accuracy's interval lies above the threshold, and reaches it.

    Raises ValueError for a threshold outside (0, 1], or texts that miss a length.

    Source: Kuratov et al. 2025, Table 1.
    """
    check_threshold(threshold)

    def one(part: pl.DataFrame) -> dict:
        table = part.pivot("length", index="text_id", values="accuracy", aggregate_function="mean")
        lengths = np.sort(part["length"].unique().to_numpy())
        values = table.select([str(length) for length in lengths]).to_numpy().astype(float)
        if np.isnan(values).any():
            raise ValueError("some texts miss a length; decoding capacity needs every text at every length")

        def largest(accuracies: np.ndarray) -> float:
            passed = lengths[accuracies >= threshold - 1e-12]
            return float(passed.max()) if len(passed) else 0.0

        means = values.mean(axis=0)
        found = Interval(largest(means), None, None, len(values), True)
        if len(values) >= LEAST:
            _, low, high = (largest(ends) for ends in student(values))
            found = Interval(found.value, low, high, len(values), low == high)
        censored = "above" if found.value == lengths[-1] else "below" if found.value == 0 else "no"
        return asdict(found) | {"censored": censored}

    return summarise(pooled(rows, by).with_columns(accuracy()), by, one)


def exact_lengths(rows: pl.DataFrame, *, by: Sequence[str] = CONDITIONS) -> pl.DataFrame:
    """Return each text's exact length: *by, text_id, seed, exact_length (tokens), censored.

    The longest prefix decoded free-running; 0 where none was. Censored: the budget, the text's end, or a fit without
    a result came before a length that fails, so the true one may be larger. A text with no finished fit is left out.
    """
    exact = pl.col("length").filter(pl.col("status") == "solved").max()
    limit = exact.fill_null(pl.col("scored_from").first()) + 1
    failed = (pl.col("status") == "stalled") & (pl.col("length") == limit)
    return (
        pooled(rows, by)
        .group_by([*by, "text_id", "seed"], maintain_order=True)
        .agg(
            pl.col("decoded_tokens").max().fill_null(0).alias("exact_length"),
            (~failed.any()).alias("censored"),
        )
        .sort([*by, "text_id", "seed"])
    )


def exact_length(rows: pl.DataFrame, *, by: Sequence[str] = CONDITIONS) -> pl.DataFrame:
    """Return the mean exact length over texts, tokens: *by, value, low, high, n, degenerate, n_censored."""

    def one(part: pl.DataFrame) -> dict:
        texts = part.group_by("text_id").agg(pl.col("exact_length").mean(), pl.col("censored").any())
        return asdict(interval(texts["exact_length"])) | {"n_censored": int(texts["censored"].sum())}

    return summarise(exact_lengths(rows, by=by), by, one)


def exact_length_by_cost(
    rows: pl.DataFrame, *, cost: str, at: Sequence[float], by: Sequence[str] = CONDITIONS
) -> pl.DataFrame:
    """Return the mean longest exact prefix that searches had reached: *by, spent, value, low, high, n, degenerate.

    cost: `token_steps` or `seconds` of a search, its probes summed in their order; at: values of it. Exact is
    teacher-forced, alone, from the stored vector. Searches that ended earlier keep what they had.
    """
    each = (
        pooled(rows, by)
        .sort("key", "probe")
        .with_columns(
            pl.col(cost).cum_sum().over("key").alias("spent_then"),
            pl.when(exact()).then("length").otherwise(0).alias("reached"),
        )
    )
    tables = []
    for spent in at:
        reached = pl.col("reached").filter(pl.col("spent_then") <= spent).max().fill_null(0)
        texts = each.group_by([*by, "text_id", "seed"], maintain_order=True).agg(reached.alias("value"))
        tables.append(mean(texts, pl.col("value"), by).with_columns(pl.lit(float(spent)).alias("spent")))
    return pl.concat(tables).sort([*by, "spent"])


def mean(rows: pl.DataFrame, value: pl.Expr, by: Sequence[str]) -> pl.DataFrame:
    """Return the mean of `value` over rows: *by, value, low, high, n, degenerate; its interval is that of `ratio`."""
    return ratio(rows.with_columns(value.alias("above"), pl.lit(1).alias("below")), "above", "below", by=by)


def ratio(rows: pl.DataFrame, above: str, below: str, *, by: Sequence[str]) -> pl.DataFrame:
    """Return the sum of one column over the sum of another: *by, value, low, high, n, degenerate.

    The interval is Fieller's over texts, each with the sums of all its rows; a text with 0 in both tells nothing and is
    left out; fits that did not finish are, too, see `pooled`. Where the mean of `below` is not told apart from 0 the
    ratio is not bounded: its low and high are null, and it is flagged as degenerate.

    Raises ValueError for no rows, where `below` sums to 0, and as `pooled`.
    """

    def one(part: pl.DataFrame) -> Interval:
        pairs = part.group_by("text_id", maintain_order=True).agg(pl.col(above, below).sum()).select(above, below)
        pairs = pairs.filter((pl.col(above) != 0) | (pl.col(below) != 0))
        if not pairs[below].sum():
            raise ValueError(f"{below} sums to 0 for {part.select(by).row(0, named=True)}; leave these rows out")
        return quotient(pairs[above], pairs[below])

    return summarise(pooled(rows, by), by, one)


def summarise(
    rows: pl.DataFrame, by: Sequence[str], summary: Callable[[pl.DataFrame], Interval | dict]
) -> pl.DataFrame:
    """Return one row for each group of `rows`: *by, and the fields of what `summary` returns of the group's rows.

    Raises ValueError for no rows.
    """
    found = []
    for group, part in rows.group_by(list(by), maintain_order=True):
        made = summary(part)
        found.append(dict(zip(by, group, strict=True)) | (made if isinstance(made, dict) else asdict(made)))
    if not found:
        raise ValueError("no rows to summarise; check what they were filtered by")
    made = pl.DataFrame(found, infer_schema_length=None).sort(by)
    return made.with_columns(pl.col(name).cast(pl.Float64) for name in ("low", "high") if name in made.columns)
