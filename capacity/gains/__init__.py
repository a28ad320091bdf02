"""What vectors take out of texts: the paper's gain, what of it is about the text, plateaus, bits that are certified.

Past its limit a vector takes the same number of bits out of a text, however long: bits after = bits before - C. C is
the plateau. Bits are those of positions 2..N.
"""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import polars as pl
from scipy import optimize

from capacity.gains.certified import certified_at, certified_information, certified_lengths
from capacity.gains.references import beside, bits_with, by_kind, check, over_first, saved_by, text_specific_gain
from capacity.metrics import (
    CONDITIONS,
    NothingFound,
    accuracy,
    as_numbers,
    check_columns,
    check_decoded,
    check_numbers,
    check_scores,
    exact,
    interval,
    mean,
    pooled,
    quotient,
    summarise,
)

__all__ = [
    "as_published", "beside", "bits_with", "by_kind", "capacities", "certified_at", "certified_information",
    "certified_lengths", "given_back", "information_gain", "over_first", "per_vector", "plateau_of", "plateaus",
    "saved_by", "text_specific_gain", "token_gain", "utilisation",
]  # fmt: skip
__dir__ = __all__.copy  # what completion shows


def token_gain(rows: pl.DataFrame, *, by: Sequence[str] = CONDITIONS) -> pl.DataFrame:
    """Return the mean over rows of (correct with [mem] - correct without), positions 2..N, tokens, and interval.

    Source: Kuratov et al. 2025, section on theoretical capacity; which rows to average (theirs: those that are not
    exact) is the caller's choice. The interval is over texts, each with all its rows. ValueError for a column that is
    missing or holds no numbers, and as `metrics.pooled`.
    """
    check(rows, "correct_with", "correct_without", by=by)
    return mean(rows, pl.col("correct_with") - pl.col("correct_without"), by)


def information_gain(rows: pl.DataFrame, *, by: Sequence[str] = CONDITIONS, least: bool = False) -> pl.DataFrame:
    """Return the mean over rows of (bits without [mem] - bits with), positions 2..N, bits, and interval.

    least: take the least bits over the steps of the fit, as the paper does, not those of the vector kept; then rows
    of a recipe that doesn't follow bits are refused with ValueError, as is what `token_gain` refuses.
    """
    check(rows, "bits_without", "bits_with_min" if least else "bits_with", by=by)
    return mean(rows, pl.col("bits_without") - _bits_with(rows, least=least), by)


def utilisation(
    rows: pl.DataFrame, *, by: Sequence[str] = CONDITIONS, bits: float = 16, least: bool = False
) -> pl.DataFrame:
    """Return gain / capacity, in tokens (the paper's) and in bits: *by, value, low, high, n, degenerate.

    Tokens: token gain / theory.token_capacity, V the rows of the embedding. Bits: information gain /
    theory.bit_capacity. At most about 1, negative where [mem] hurts. Columns end with `unit`. ValueError as
    `token_gain` and `information_gain`.
    """
    with_mem = "bits_with_min" if least else "bits_with"
    check(rows, "n_mem", "d_model", "vocab_size", "correct_with", "correct_without", "bits_without", with_mem, by=by)
    capacity = pl.col("n_mem") * pl.col("d_model") * bits
    shares = {
        "tokens": (pl.col("correct_with") - pl.col("correct_without")) / (capacity / pl.col("vocab_size").log(2)),
        "bits": (pl.col("bits_without") - _bits_with(rows, least=least)) / capacity,
    }
    return pl.concat(mean(rows, share, by).with_columns(unit=pl.lit(unit)) for unit, share in shares.items())


def capacities(facts: pl.DataFrame, *, bits: float = 16) -> pl.DataFrame:
    """Return what one vector could hold at most by Eq. 1: model, d_model, unit (tokens, bits), value.

    facts: model, d_model, vocab_size, of several frames of rows perhaps: each model counts once, sorted by width.
    ValueError for a column that is missing or holds no numbers.
    """
    check_columns(facts, "model", "d_model", "vocab_size", takes=())
    check_numbers(facts, "d_model", "vocab_size", counts=True)
    facts = facts.select("model", "d_model", "vocab_size").unique().sort("d_model", "model")
    width = pl.col("d_model") * float(bits)
    return facts.select(
        "model", "d_model", (width / pl.col("vocab_size").log(2)).alias("tokens"), width.alias("bits")
    ).unpivot(["tokens", "bits"], index=["model", "d_model"], variable_name="unit", value_name="value")


def _bits_with(rows: pl.DataFrame, *, least: bool) -> pl.Expr:
    if least and rows["bits_with_min"].null_count():
        raise ValueError(
            "some rows have no bits_with_min (their loss has no bits); take recipe 'paper', or least=False"
        )
    return pl.col("bits_with_min" if least else "bits_with")


_PASSED = 0.99  # the paper's gains see rows whose accuracy is at most this
_GRID = 200  # places a plateau is looked for at first, evenly from 0 to the most bits of a row


def as_published(rows: pl.DataFrame, *, by: Sequence[str] = CONDITIONS) -> pl.DataFrame:
    """Return the mean gains as the paper averages them: *by, unit (bits, tokens), value, low, high, n, degenerate.

    Over rows whose accuracy is at most 0.99, all lengths together, each row's mean gain of a position times N, of
    which N - 1 are scored: too large by N / (N - 1). n counts texts; groups that lack such rows are left out.

    Raises ValueError if no group has such a row, for a column that is missing or holds no numbers, and as
    `metrics.pooled`.

    Source: Kuratov et al. 2025, Table 1; its repository's notebooks.
    """
    check(rows, "length", "bits_without", "bits_with", "correct_with", "correct_without", by=by)
    check_scores(rows, by=by)
    part = pl.col("length") / (pl.col("length") - 1)
    gains = {
        "bits": (pl.col("bits_without") - bits_with(rows)) * part,
        "tokens": (pl.col("correct_with") - pl.col("correct_without")) * part,
    }
    failed = rows.filter(accuracy() <= _PASSED)
    if failed.is_empty():
        raise NothingFound(f"no fit of {rows.height} failed, so there is no plateau to average; give longer texts")

    return pl.concat(mean(failed, gain, by).with_columns(unit=pl.lit(unit)) for unit, gain in gains.items())


def plateau_of(before: Sequence[float] | np.ndarray, after: Sequence[float] | np.ndarray) -> float:
    """Return C of `after = max(before - C, 0)` by least squares, bits, in [0, most of before].

    before, after: bits of rows without and with [mem], of the same length. Rows with fewer bits than C are held to
    be solved and do not move it; what a solved row has left does. The squares may have several valleys: the lowest on
    an even grid is followed down.

    Raises ValueError for no rows, or values that are not finite.

    >>> round(plateau_of([2, 5, 30, 60], [0, 0, 20, 50]), 3)
    10.0
    """
    x, y = as_numbers(before), as_numbers(after)
    if not len(x) or len(x) != len(y) or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"bits of {len(x)} before, of {len(y)} after; give as many finite bits of each, at least one")

    def squares(c: float | np.ndarray) -> float:
        return float(((y - np.clip(x - float(np.squeeze(c)), 0, None)) ** 2).sum())

    if x.max() <= 0:
        return 0.0
    minimum = optimize.brute(squares, ((0.0, x.max()),), Ns=_GRID, finish=optimize.fmin)
    return float(np.clip(np.squeeze(minimum), 0.0, x.max()))


def plateaus(rows: pl.DataFrame, *, by: Sequence[str] = CONDITIONS) -> pl.DataFrame:
    """Return each text's own plateau: *by, text_id, bits, tokens, solved, over all of its lengths and seeds.

    bits: C of `plateau_of`; tokens: mean token gain over its rows with at least as many bits before, positions 2..N;
    solved: every row is exact, so that the plateau is not reached and both are the most that its rows show. ValueError
    for a column that is missing or holds no numbers, and as `metrics.pooled`.
    """
    check(rows, "bits_without", "bits_with", "correct_with", "correct_without", by=by)
    check_scores(rows, by=by)
    made = pooled(rows, by).with_columns(
        bits_with(rows).alias("after"), exact(), (pl.col("correct_with") - pl.col("correct_without")).alias("gain")
    )

    def row_of(part: pl.DataFrame) -> dict:
        if part["exact"].all():
            gained = (part["bits_without"] - part["after"]).max()
            return {"bits": gained, "tokens": float(part["gain"].max()), "solved": True}  # pyright: ignore
        bits = plateau_of(part["bits_without"].to_numpy(), part["after"].to_numpy())
        past = part.filter(pl.col("bits_without") >= bits)
        return {"bits": bits, "tokens": past["gain"].mean(), "solved": False}

    return summarise(made, [*by, "text_id"], row_of)


def given_back(rows: pl.DataFrame, *, by: Sequence[str] = CONDITIONS) -> pl.DataFrame:
    """Return the bits of the longest prefix each text gave back, decoded free-running whole: *by, text_id, bits.

    Bits without [mem] of its positions 2..N: what the vectors had to add for the model to tell it. 0 where nothing
    longer than a token was decoded; over seeds, the mean. ValueError for a column that is missing or holds no numbers,
    and as `metrics.pooled`.
    """
    check(rows, "bits_without", "decoded_tokens", "length", by=by)
    check_columns(rows, "seed", takes=())
    check_decoded(rows, "decoded_tokens", "length")
    whole = pl.col("decoded_tokens") == pl.col("length")
    seeds = (
        pooled(rows, by)
        .group_by([*by, "text_id", "seed"], maintain_order=True)
        .agg(pl.col("bits_without").filter(whole).max().fill_null(0.0).alias("bits"))
    )
    return seeds.group_by([*by, "text_id"], maintain_order=True).agg(pl.col("bits").mean()).sort([*by, "text_id"])


def per_vector(texts: pl.DataFrame, *, by: Sequence[str] = ("model", "source")) -> pl.DataFrame:
    """Return bits a vector by number of vectors, and their share of one vector's.

    Columns: *by, n_mem, value, low, high, n, degenerate, share, share_low, share_high.

    texts: by, n_mem, text_id, bits (of all vectors together), as from `plateaus` and `given_back`. share: mean bits a
    vector over the mean bits of one alone, of the same texts (Fieller's interval); 1 where n vectors hold n times as
    much; null where one alone holds nothing.

    Raises ValueError where one vector was not measured on the same texts, and for a column that is missing or holds no
    numbers.
    """
    check(texts, "n_mem", "bits", by=by)
    alone = texts.filter(n_mem=1).select(*by, "text_id", pl.col("bits").alias("alone"))
    both = texts.join(alone, on=[*by, "text_id"], how="left", maintain_order="left")
    if both["alone"].null_count():
        raise NothingFound("some texts were not measured with one vector; add n_mem 1 for the same texts")

    def row_of(part: pl.DataFrame) -> dict:
        each = part.select(pl.col("bits") / pl.col("n_mem"), "alone").to_numpy()
        shares = dict.fromkeys(("share", "share_low", "share_high"))
        if each[:, 1].any():
            share = quotient(each[:, 0], each[:, 1])
            shares = {"share": share.value, "share_low": share.low, "share_high": share.high}
        return asdict(interval(each[:, 0])) | shares

    return summarise(both, [*by, "n_mem"], row_of).with_columns(
        pl.col("share", "share_low", "share_high").cast(pl.Float64)
    )
