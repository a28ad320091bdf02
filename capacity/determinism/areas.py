"""How well a number tells two outcomes apart: the area under its ROC curve."""

import math
from collections.abc import Sequence
from typing import Any

import polars as pl
from scipy import optimize, stats

from capacity.metrics import Interval

LEAST_OUTCOMES = 5  # texts that break and that don't, each; fewer say nothing about a predictor
PLACE = ("model", "source", "text_id", "scored_from", "length")  # columns that name a fit
Values = Sequence[float | int] | pl.Series


def auc(broken: Values, kept: Values) -> Interval:
    """Return the chance that of two texts the one that breaks has the lower value, ties counted half.

    1: the value tells all of them apart; 0.5: nothing. The interval is Newcombe's fifth, which does not shrink to
    nothing at 1; it, and the answer, are None where an outcome occurs fewer than LEAST_OUTCOMES times.

    >>> auc([0.1, 0.2, 0.3, 0.4, 0.5], [0.6, 0.7, 0.8, 0.9, 1.0]).value
    1.0

    Raises ValueError for NaN.

    Source: Mann and Whitney 1947; Newcombe 2006, Statistics in Medicine 25, 559-573, method 5.
    """
    if any(math.isnan(value) for value in [*broken, *kept]):
        raise ValueError("a value is NaN, which is neither more nor less; leave it out")
    m, n = len(broken), len(kept)
    if not m or not n:
        return Interval(float("nan"), None, None, m + n, True)
    value = _below(broken, kept)
    if min(m, n) < LEAST_OUTCOMES:
        return Interval(value, None, None, m + n, True)
    reach, half = float(stats.norm.ppf(0.975)) ** 2, (m + n) / 2 - 1

    def off(at: float) -> float:
        spread = at * (1 - at) * (1 + half * (1 - at) / (2 - at) + half * at / (1 + at)) / (m * n)
        return (value - at) ** 2 - reach * spread

    near = 1e-9  # off its value itself, where a value of 0 or 1 has a root that is no end
    low = optimize.root_scalar(off, bracket=(0, value - near)).root if value > 0 else 0.0
    high = optimize.root_scalar(off, bracket=(value + near, 1)).root if value < 1 else 1.0
    return Interval(value, float(low), float(high), m + n, False)


def _below(values: Values, other: Values) -> float:
    """Return the chance that one of `values` is below one of `other`, ties counted half."""
    return float(stats.mannwhitneyu(other, values).statistic / (len(values) * len(other)))


def auc_within(tokens: pl.DataFrame, by: str) -> pl.DataFrame:
    """Return for each fit the chance that a wrong token has more of `by` than a right one: model ... length, value.

    0.5 where errors don't care. Fits whose tokens are all right or all wrong say nothing and are left out; so are
    tokens of which `by` is null. tokens: from `errors`.
    """
    fits = []
    for group, part in tokens.drop_nulls(by).group_by(PLACE, maintain_order=True):
        wrong, right = (part.filter(wrong=which)[by].to_list() for which in (True, False))
        if wrong and right:
            fits.append(dict(zip(PLACE, group, strict=True)) | {"value": _below(right, wrong)})
    kinds: dict[str, Any] = {name: tokens.schema[name] for name in PLACE}
    return pl.DataFrame(fits, schema=kinds | {"value": pl.Float64})
