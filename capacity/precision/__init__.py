"""How many bits does a dimension carry? Vectors rounded, blurred and packed, until they decode no more."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from scipy import stats

from capacity import geometry
from capacity.decoding import check_rows, scored_together, together
from capacity.metrics import Interval, NothingFound
from capacity.models import Frozen
from capacity.precision.packing import packed, unpacked
from capacity.precision.quantiser import SCALES, levels, quantised, scales
from capacity.texts import token_bytes

__all__ = [
    "SCALES", "blurred", "disturbed", "last_passed", "levels", "median", "packed", "quantised", "scales", "sizes",
    "snr_bits", "tried", "unpacked",
]  # fmt: skip
__dir__ = __all__.copy  # what completion shows


def blurred(
    mem: Float[np.ndarray, "texts n_mem dim"], relative: float | int, *, seed: int = 0
) -> Float[np.ndarray, "texts n_mem dim"]:
    """Return vectors with Gaussian noise, `relative` times the root mean square of each text's entries, float32.

    One text's noise does not depend on which texts stand beside it, but on its place.
    """
    size = np.sqrt(np.square(mem.astype(float)).mean(axis=(1, 2), keepdims=True))
    draws = [np.random.default_rng([seed, place]).standard_normal(mem.shape[1:]) for place in range(len(mem))]
    return (mem + relative * size * np.stack(draws)).astype(np.float32)


def snr_bits(relative: float | int) -> float:
    """Return the bits a dimension of a Gaussian channel whose noise is `relative` times its signal: ½ log2(1 + SNR).

    SNR is 1 / relative². What a vector of that size could tell at most where all that is nearer than the noise decodes
    alike. Raises ValueError for noise that is not above 0.

    >>> snr_bits(1)
    0.5

    Source: Shannon 1948, theorem 17.
    """
    if not relative > 0:
        raise ValueError(f"relative is {relative!r}; noise above 0 is needed")
    return math.log2(1 + relative**-2) / 2


def tried(
    frozen: Frozen,
    rows: pl.DataFrame,
    ids: Mapping[str, Sequence[int]],
    mem: Float[np.ndarray, "texts n_mem dim"],
    *,
    at_once: int = 64,
) -> pl.DataFrame:
    """Return the rows as other vectors in place of the stored ones make them, with a column `decoded`.

    decoded_tokens, correct_with, bits_with, first_bits_with and first_correct are new, `mem` is left out; decoded: the
    whole text came back. Decoded freely in batches, `at_once` at a time (see decoding.together).

    Args:
        frozen: the model of the rows.
        rows: of the store, all with t1 predicted (`scored_from=0`).
        ids: tokens of each row's text, by its key; the first `length` count.
        mem: a text's vectors for each row.

    Raises ValueError for rows with t1 given, and as `decoding.check_rows`.
    """
    check_rows(frozen, rows)
    if (rows["scored_from"] != 0).any():
        raise ValueError("some rows have scored_from=1: their t1 would have to be kept beside the vector; give 0")
    texts = [list(ids[key][:length]) for key, length in rows.select("key", "length").iter_rows()]
    vectors = torch.from_numpy(np.ascontiguousarray(mem, dtype=np.float32))
    decoded = together(frozen, vectors, [len(text) for text in texts], at_once=at_once)
    counts = [
        {
            "correct_with": int(score.correct[0, 1:].sum()), "bits_with": float(score.bits[0, 1:].sum()),
            "first_bits_with": float(score.bits[0, 0]), "first_correct": bool(score.correct[0, 0]),
        }
        for score in scored_together(frozen, vectors, texts, at_once=at_once)
    ]  # fmt: skip
    same = [[a == b for a, b in zip(*pair, strict=True)] for pair in zip(decoded, texts, strict=True)]
    right = pl.Series([own.index(False) if False in own else len(own) for own in same], dtype=pl.Int32)
    made = pl.DataFrame(counts).with_columns(decoded_tokens=right)
    kept = rows.drop("mem").with_columns(made.get_columns())
    return kept.with_columns(decoded=pl.col("decoded_tokens") == pl.col("length"))


def disturbed(
    frozen: Frozen,
    rows: pl.DataFrame,
    ids: Mapping[str, Sequence[int]],
    *,
    bits: Sequence[int] = (),
    by: Sequence[str] = SCALES,
    noises: Sequence[float] = (),
    draws: int = 1,
) -> pl.DataFrame:
    """Return what rounded and blurred vectors do: the columns of `tried`, and of each its bits, scale, noise and draw.

    Of what is rounded noise and draw are null, of what is blurred bits and scale. Raises ValueError as `quantised` and
    `tried`.

    Args:
        frozen, rows, ids: as of `tried`.
        bits: a dimension, each by each of the scales `by`.
        by: of SCALES.
        noises: relative, see `blurred`; `draws` of each.
        draws: seeds 0, 1, 2, ...
    """
    mem = geometry.vectors(rows)
    changed = {(n, f"a scale a {scale}", None, None): quantised(mem, n, by=scale) for scale in by for n in bits}
    changed |= {(None, None, x, seed): blurred(mem, x, seed=seed) for x in noises for seed in range(draws)}
    kinds = {"bits": pl.Int64, "scale": pl.String, "noise": pl.Float64, "draw": pl.Int64}
    return pl.concat([
        tried(frozen, rows, ids, vectors).with_columns(
            pl.lit(value, kind).alias(name) for (name, kind), value in zip(kinds.items(), how, strict=True)
        )
        for how, vectors in changed.items()
    ])  # fmt: skip


def last_passed(table: pl.DataFrame, at: str, *, by: Sequence[str], largest_first: bool = False) -> pl.DataFrame:
    """Return how far each group got before its first failure: *by, value (of `at`; null: nowhere), censored.

    `at` goes up, or down from the largest (as bits do). All rows of one value of `at` have to pass (`decoded`).
    censored: `none` where the first value failed already, `all` where none failed, so that more was not tried; else
    `no`. What passes again after a failure does not count. Raises ValueError where `decoded` is not known.
    """
    if unknown := table["decoded"].null_count():
        raise ValueError(f"decoded is null in {unknown} rows, so that it is not known how far they got; leave them out")
    steps = table.group_by([*by, at], maintain_order=True).agg(pl.col("decoded").all())
    steps = steps.sort(at, descending=largest_first, maintain_order=True)
    reached = pl.col("decoded").cast(pl.Int8).cum_min().cast(pl.Boolean)
    groups = steps.group_by(list(by), maintain_order=True).agg(
        pl.col(at).filter(reached).last().alias("value"), n_passed=reached.sum(), n=pl.len()
    )
    ends = pl.when(pl.col("n_passed") == 0).then(pl.lit("none")).when(pl.col("n_passed") == pl.col("n"))
    return groups.with_columns(censored=ends.then(pl.lit("all")).otherwise(pl.lit("no"))).drop("n_passed", "n")


def median(values: Sequence[float | int | None] | pl.Series, *, none: float) -> Interval:
    """Return the median of one value a text with its 95% interval, which takes the order of the values alone.

    So a censored value counts where it lies beyond all others; where an end is one of these, it is no end but a bound.

    none: what stands for a null, as `math.inf`. Raises NothingFound for no values. Source: scipy.stats.quantile_test.
    """
    if not len(values):
        raise NothingFound("no values, and so no median; give one a text")
    data = np.sort([none if value is None else float(value) for value in values])
    middle = float(np.median(data)) if np.isfinite(data).all() else float(data[(len(data) - 1) // 2])
    if len(data) < 6:  # no interval of order statistics covers 95%
        return Interval(middle, None, None, len(data), True)
    ends = stats.quantile_test(data, p=0.5).confidence_interval()
    return Interval(middle, float(ends.low), float(ends.high), len(data), False)


def sizes(
    frozen: Frozen,
    rows: pl.DataFrame,
    ids: Mapping[str, Sequence[int]],
    mem: Float[np.ndarray, "texts n_mem dim"],
    bits: Sequence[int | None],
) -> pl.DataFrame:
    """Return the bytes of vectors and of the texts that they hold: model, source, text_id, length, bits ... came_back.

    vector_bytes: packed at so many bits; at float32 where `bits` is None, since no rounding that was tried decodes.
    text_bytes: what the tokens stand for. came_back: unpacked again, the vector decodes to its text, in a batch of
    one. Arguments as of `tried`; bits: of each row.
    """
    read, kept = [], []
    for own, n in zip(mem, bits, strict=True):
        data = None if n is None else packed(own, n)
        kept.append(own.size * 4 if data is None else len(data))
        read.append(own if data is None else unpacked(data, own.shape))
    words = [len(token_bytes(frozen.tokenizer, ids[key][:n])) for key, n in rows.select("key", "length").iter_rows()]
    return rows.select("model", "source", "text_id", "n_mem", "length").with_columns(
        bits=pl.Series(bits, dtype=pl.Int64), vector_bytes=pl.Series(kept, dtype=pl.Float64),
        text_bytes=pl.Series(words, dtype=pl.Float64),
        came_back=tried(frozen, rows, ids, np.stack(read), at_once=1)["decoded"],
    )  # fmt: skip
