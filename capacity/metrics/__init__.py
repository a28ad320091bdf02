"""Rows in, numbers with intervals over texts out: Student's and Welch's t, Fieller's quotients (scipy)."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import polars as pl

from capacity.metrics.intervals import (
    LEAST,
    Interval,
    between,
    difference,
    interval,
    proportion,
    quotient,
    student,
)
from capacity.metrics.pooling import ALIKE, CONDITIONS, UNFINISHED, NothingFound, check_columns, finished, found, pooled

__all__ = [
    "ALIKE", "CONDITIONS", "LEAST", "UNFINISHED", "Interval", "NothingFound", "accuracy", "accuracy_by_length",
    "between", "censored", "check_threshold", "decoding_capacity", "difference", "exact", "exact_length",
    "exact_length_by_cost", "exact_lengths", "finished", "found", "interval", "mean", "n_right", "pooled", "proportion",
    "quotient", "ratio", "summarise",
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


_SCORES = ("correct_with", "first_correct", "scored_from", "n_scored")  # what `accuracy` is made of


def _scored(rows: pl.DataFrame, by: Sequence[str], share: str | None, *names: str) -> pl.DataFrame:
    """Return the rows that may be pooled with a column `accuracy`: that of a column, else made of the scores."""
    check_columns(rows, *by, *names, *([share] if share else _SCORES))
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

    def one(part: pl.DataFrame) -> Interval:
        return interval(part.group_by(text_id).agg(pl.col("accuracy").mean())["accuracy"])

    found = summarise(_scored(rows, by, share, text_id, length), [*by, length], one)
    return found.with_columns(pl.col("low", "high").clip(0, 1))


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

    def one(part: pl.DataFrame) -> dict:
        table = part.pivot(length, index=text_id, values="accuracy", aggregate_function="mean")
        lengths = np.sort(part[length].unique().to_numpy())
        values = table.select([str(tokens) for tokens in lengths]).to_numpy().astype(float)
        if np.isnan(values).any():
            raise NothingFound("some texts miss a length; decoding capacity needs every text at every length")

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

    return summarise(_scored(rows, by, share, text_id, length), by, one)


def censored() -> pl.Expr:
    """Return whether a search may have held more, over all its fits (length, status): an aggregation.

    So it is where no length failed (`stalled`) that is one past the longest solved, or the shortest tried where none
    was solved: budget, memory, a divergence or the text's end came first.
    """
    length, status = pl.col("length"), pl.col("status")
    limit = (length.filter(status == "solved").max() + 1).fill_null(length.min())
    return (~((status == "stalled") & (length == limit)).any()).alias("censored")


def exact_lengths(rows: pl.DataFrame, *, by: Sequence[str] = CONDITIONS) -> pl.DataFrame:
    """Return each text's exact length: *by, text_id, seed, exact_length (tokens), censored.

    The longest prefix decoded free-running; 0 where none was. Where it is `censored`, the true one may be larger. A
    text with no finished fit is left out.
    """
    check_columns(rows, *by, "text_id", "seed", "length", "status", "scored_from", "decoded_tokens")
    return (
        pooled(rows, by)
        .group_by([*by, "text_id", "seed"], maintain_order=True)
        .agg(pl.col("decoded_tokens").max().fill_null(0).alias("exact_length"), censored())
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


def mean(rows: pl.DataFrame, value: pl.Expr, by: Sequence[str], *, text_id: str = "text_id") -> pl.DataFrame:
    """Return the mean of `value` over rows: *by, value, low, high, n, degenerate; its interval is that of `ratio`."""
    rows = rows.with_columns(value.alias("above"), pl.lit(1).alias("below"))
    return ratio(rows, "above", "below", by=by, text_id=text_id)


def ratio(rows: pl.DataFrame, above: str, below: str, *, by: Sequence[str], text_id: str = "text_id") -> pl.DataFrame:
    """Return the sum of one column over the sum of another: *by, value, low, high, n, degenerate.

    The interval is Fieller's over texts, each with the sums of all its rows; a text with 0 in both tells nothing and is
    left out; fits that did not finish are, too, see `pooled`. Where the mean of `below` is not told apart from 0 the
    ratio is not bounded: its low and high are null, and it is flagged as degenerate.

    Raises ValueError for no rows, where `below` sums to 0, and as `pooled`.
    """

    def one(part: pl.DataFrame) -> Interval:
        pairs = part.group_by(text_id, maintain_order=True).agg(pl.col(above, below).sum()).select(above, below)
        pairs = pairs.filter((pl.col(above) != 0) | (pl.col(below) != 0))
        if not pairs[below].sum():
            raise ValueError(f"{below} sums to 0 for {part.select(by).row(0, named=True)}; leave these rows out")
        return quotient(pairs[above], pairs[below])

    check_columns(rows, *by, text_id, above, below)
    if empty := [name for name in (above, below) if pooled(rows, by)[name].null_count()]:
        raise ValueError(f"{' and '.join(empty)} is null in some rows, and no number; leave these rows out")
    return summarise(pooled(rows, by), by, one)


def summarise(
    rows: pl.DataFrame, by: Sequence[str], summary: Callable[[pl.DataFrame], Interval | dict]
) -> pl.DataFrame:
    """Return one row for each group of `rows`: *by, and the fields of what `summary` returns of the group's rows.

    Raises NothingFound for no rows.
    """
    each = []
    for group, part in found(rows).group_by(list(by), maintain_order=True):
        made = summary(part)
        each.append(dict(zip(by, group, strict=True)) | (made if isinstance(made, dict) else asdict(made)))
    made = pl.DataFrame(each, infer_schema_length=None).sort(by)
    return made.with_columns(pl.col(name).cast(pl.Float64) for name in ("low", "high") if name in made.columns)
