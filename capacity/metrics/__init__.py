"""Rows in, numbers with intervals over texts out: Student's and Welch's t, Fieller's quotients (scipy)."""

from collections.abc import Sequence
from dataclasses import asdict
from numbers import Real

import numpy as np
import polars as pl

from capacity.metrics.costs import by_patience, doubled, exact_length_by_cost, impatient, reached
from capacity.metrics.ends import KINDS, limit_counts, limits, median_limit, survival
from capacity.metrics.intervals import (
    LEAST,
    Interval,
    as_numbers,
    between,
    difference,
    interval,
    proportion,
    quotient,
    student,
)
from capacity.metrics.means import mean, ratio, summarise
from capacity.metrics.pooling import (
    ALIKE,
    CONDITIONS,
    UNFINISHED,
    NothingFound,
    check_columns,
    check_decoded,
    check_numbers,
    finished,
    not_empty,
    pooled,
)
from capacity.metrics.scores import accuracy, check_scores, exact, n_right, scored

__all__ = [
    "ALIKE", "CONDITIONS", "KINDS", "LEAST", "UNFINISHED", "Interval", "NothingFound", "accuracy",
    "accuracy_by_length", "as_numbers", "between", "bounds", "by_patience", "censored", "check_columns",
    "check_decoded", "check_numbers", "check_scores", "check_threshold", "decoding_capacity", "difference",
    "doubled", "exact", "exact_length", "exact_length_by_cost", "exact_lengths", "finished", "impatient",
    "interval", "limit_counts", "limits", "mean", "median_limit", "n_right", "not_empty", "pooled", "proportion",
    "quotient", "ratio", "reached", "summarise", "survival",
]  # fmt: skip
__dir__ = __all__.copy  # what completion shows


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
    [0, 1]; None makes it of the scores of our rows. ValueError for a column that is missing, a length or share that is
    none, and as `pooled`.

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
    ValueError: the frame has no column text; it has net, doc, tokens, ok. Give the names of yours (text_id=...
    """

    def interval_of(part: pl.DataFrame) -> Interval:
        return interval(part.group_by(text_id).agg(pl.col("accuracy").mean())["accuracy"])

    tried = scored(rows, by, share, text_id, length)
    check_numbers(tried, length, counts=True)
    table = summarise(tried, [*by, length], interval_of)
    return table.with_columns(pl.col("low", "high").clip(0, 1))


def check_threshold(threshold: float) -> None:
    """Raise ValueError for a mean accuracy outside (0, 1]; a notebook calls it before it measures."""
    if not isinstance(threshold, Real) or not 0 < threshold <= 1:
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

    Raises ValueError for a threshold outside (0, 1], texts that miss a length, and as `accuracy_by_length`.

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

    tried = scored(rows, by, share, text_id, length)
    check_numbers(tried, length, counts=True)
    if tried[length].null_count():
        raise ValueError(f"{length} is null in some rows; decoding capacity needs it of every row, leave these out")
    return summarise(tried, by, capacity_of)


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
    seed of None takes all fits of a text for one search. ValueError for a column that is missing, where no whole number
    of tokens is decoded or more than the length, and as `pooled`.

    >>> theirs = pl.DataFrame({"net": ["tiny"] * 3, "doc": ["a", "a", "b"], "tokens": [4, 8, 4], "back": [4, 6, 3]})
    >>> columns = {"by": ["net"], "text_id": "doc", "length": "tokens", "decoded": "back", "status": None, "seed": None}
    >>> exact_lengths(theirs, **columns).rows()
    [('tiny', 'a', 6, None), ('tiny', 'b', 3, None)]
    >>> exact_length(theirs, **columns).select("net", "value", "n_censored").rows()
    [('tiny', 4.5, None)]
    """
    names = [text_id, *([seed] if seed is not None else [])]
    takes = ("by", "text_id", "length", "decoded", "status", "seed")
    check_columns(rows, *names, length, decoded, *([status] if status is not None else []), by=by, takes=takes)
    check_decoded(rows, decoded, length)
    end = censored(length, status) if status else pl.lit(None, pl.Boolean).alias("censored")
    return (
        pooled(rows, by)
        .group_by([*by, *names], maintain_order=True)
        .agg(pl.col(decoded).max().fill_null(0).alias("exact_length"), end)
        .sort([*by, *names])
    )


def exact_length(
    rows: pl.DataFrame,
    *,
    by: Sequence[str] = CONDITIONS,
    text_id: str = "text_id",
    length: str = "length",
    decoded: str = "decoded_tokens",
    status: str | None = "status",
    seed: str | None = "seed",
) -> pl.DataFrame:
    """Return the mean exact length over texts, tokens: *by, value, low, high, n, degenerate, n_censored.

    All arguments and errors are those of `exact_lengths`; NothingFound where no text has a finished fit.
    """

    def mean_length_of(part: pl.DataFrame) -> dict:
        texts = part.group_by(text_id).agg(pl.col("exact_length").mean(), pl.col("censored").any(ignore_nulls=False))
        n_censored = None if texts["censored"].null_count() else int(texts["censored"].sum())
        return asdict(interval(texts["exact_length"])) | {"n_censored": n_censored}

    lengths = exact_lengths(rows, by=by, text_id=text_id, length=length, decoded=decoded, status=status, seed=seed)
    return summarise(lengths, by, mean_length_of)


def bounds(table: pl.DataFrame, *, digits: int = 2) -> pl.DataFrame:
    """Return a table of `exact_length` or `decoding_capacity` with a column `tokens`: its value as text, ≥ where it is
    a lower bound (n_censored above 0, censored `above`).

    >>> bounds(pl.DataFrame({"value": [8.0, 27.25], "n_censored": [0, 3]}), digits=1)["tokens"].to_list()
    ['8.0', '≥ 27.2']
    """
    check_columns(table, "value", takes=())
    check_columns(table, "n_censored" if "n_censored" in table.columns else "censored", takes=())
    check_numbers(table, "value")
    lower = pl.col("n_censored") > 0 if "n_censored" in table.columns else pl.col("censored") == "above"
    at_least = pl.when(lower).then(pl.lit("≥ ")).otherwise(pl.lit(""))
    text = pl.col("value").map_elements(lambda value: f"{value:.{digits}f}", return_dtype=pl.String)
    return table.with_columns((at_least + text).alias("tokens"))
