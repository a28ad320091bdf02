"""What of a fit's scored positions is right: counts, shares, and rows that may be pooled with them."""

from collections.abc import Sequence

import polars as pl

from capacity.metrics.pooling import check_columns, check_numbers, pooled


def n_right() -> pl.Expr:
    """Return the number of scored positions that are right, t1 among them with `scored_from=0`."""
    first = pl.col("first_correct").fill_null(value=False) & (pl.col("scored_from") == 0)
    return (pl.col("correct_with") + first.cast(pl.Int32)).alias("n_right")


def exact() -> pl.Expr:
    """Return whether every scored position's argmax is right, teacher-forced."""
    return (n_right() == pl.col("n_scored")).alias("exact")


def accuracy() -> pl.Expr:
    """Return the share of scored positions that are right, in [0, 1]; a text with none scored counts as 1."""
    n_scored = pl.col("n_scored")
    return pl.when(n_scored == 0).then(1.0).otherwise(n_right() / n_scored).alias("accuracy")


_NUMBERS = ("correct_with", "scored_from", "n_scored")  # with `first_correct` what `accuracy` is made of


def check_scores(rows: pl.DataFrame, *names: str, by: Sequence[str] = (), takes: Sequence[str] = ("by",)) -> None:
    """Raise ValueError for columns that `accuracy` is made of, or of `names`, that are missing or hold no such thing.

    by, takes: as of `check_columns`.
    """
    check_columns(rows, *names, *_NUMBERS, "first_correct", by=by, takes=takes)
    check_numbers(rows, *_NUMBERS)
    if (kind := rows.schema["first_correct"]) not in (pl.Boolean, pl.Null):
        raise ValueError(f"first_correct is of type {kind}; true, false or null is allowed: cast it to pl.Boolean")


def scored(rows: pl.DataFrame, by: Sequence[str], share: str | None, *names: str) -> pl.DataFrame:
    """Return the rows that may be pooled with a column `accuracy`: that of a column, else made of the scores.

    ValueError for a column that is missing, scores that are no numbers, or a share outside [0, 1].
    """
    takes = ("by", "text_id", "length", "share")
    if share is None:
        check_scores(rows, *names, by=by, takes=takes)
        return pooled(rows, by).with_columns(accuracy())
    check_columns(rows, *names, share, by=by, takes=takes)
    check_numbers(rows, share)
    if not (wrong_rows := rows.filter(~pl.col(share).is_between(0, 1))).is_empty():
        raise ValueError(f"{share} is {wrong_rows[share][0]} in some rows; a share of right tokens is from 0 to 1")
    return pooled(rows, by).with_columns(pl.col(share).alias("accuracy"))
