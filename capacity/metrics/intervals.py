"""Numbers over texts with their intervals: bootstraps, and Welch's t where two samples differ (scipy)."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

from capacity.metrics.pooling import NothingFound

_SEED = 0
_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A number and where 95% of its bootstrap replicates lie."""

    value: float
    low: float | None  # None: not bounded
    high: float | None
    n: int  # texts
    degenerate: bool  # one text, no variation, or not bounded: the interval says nothing about the spread


def interval(
    values: Sequence[float] | np.ndarray | pl.Series,
    *,
    statistic: Callable[..., float] = np.mean,
    method: str = "BCa",
    confidence: float = 0.95,
) -> Interval:
    """Return `statistic` of one value a text, with its bootstrap interval.

    values: (n_texts, ...), resampled along the first axis; statistic: takes such an array, returns a number. With one
    text, or the same value for all, the interval is the value itself and flagged. Raises ValueError for no value.

    >>> interval([2.0, 2.0, 2.0])
    Interval(value=2.0, low=2.0, high=2.0, n=3, degenerate=True)
    """
    data = np.asarray(values, dtype=float)
    if not len(data):
        raise NothingFound("no texts to take an interval over; check what the rows were filtered by")
    if not np.isfinite(data).all():
        raise ValueError("a value is not finite; leave out rows that diverged (status) before averaging")
    data = data[np.lexsort(data.reshape(len(data), -1).T)]  # one order, so that the order of rows changes nothing
    value = float(statistic(data))
    if len(data) == 1 or (data == data[0]).all():
        return Interval(value, value, value, len(data), True)
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):  # BCa divides by 0, then says so
        warnings.simplefilter("error", stats.DegenerateDataWarning)
        try:
            low, high = _bootstrap(data, statistic, method, confidence)
        except stats.DegenerateDataWarning:  # BCa has no answer where a replicate never differs
            low, high = _bootstrap(data, statistic, "percentile", confidence)
    return Interval(value, float(low), float(high), len(data), bool(low == high))


def _bootstrap(data: np.ndarray, statistic: Callable, method: str, confidence: float) -> tuple[float, float]:
    found = stats.bootstrap(
        (np.arange(len(data)),), lambda chosen: statistic(data[chosen.astype(int)]), vectorized=False,
        n_resamples=_RESAMPLES, confidence_level=confidence, method=method, rng=np.random.default_rng(_SEED),
    )  # fmt: skip
    return found.confidence_interval


def difference(first: Sequence[float] | pl.Series, second: Sequence[float] | pl.Series) -> Interval:
    """Return the mean of one sample of texts less that of another, whose texts are others, with its interval.

    Welch's t interval (scipy.stats.ttest_ind); n: the texts of both. A sample of one text, or no variation in both, is
    flagged.
    """
    values = [float(value) for sample in (first, second) for value in sample]
    if not len(first) or not len(second):
        raise NothingFound(f"no texts to compare: {len(first)} in the first sample, {len(second)} in the second")
    samples = [np.sort(np.asarray(sample, dtype=float)) for sample in (first, second)]
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite; leave out rows that diverged (status) before averaging")
    value = float(samples[0].mean() - samples[1].mean())
    if all((sample == sample[0]).all() for sample in samples):
        return Interval(value, value, value, len(values), True)
    if min(map(len, samples)) < 2:
        return Interval(value, value, value, len(values), True)
    low, high = stats.ttest_ind(*samples, equal_var=False).confidence_interval()
    return Interval(value, float(low), float(high), len(values), False)
