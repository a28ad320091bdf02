"""Numbers over texts with their 95% intervals: Student's and Welch's t of means, Fieller's of quotients of means.

One value a text: where a text has several, its caller makes them one (a mean, a sum) before. `tests/test_coverage.py`
holds that the intervals cover what they say on skewed whole numbers, which bootstraps of few texts do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import polars as pl
from scipy import stats

from capacity.metrics.pooling import NothingFound

LEAST = 6  # texts; fewer make a number, but no interval
Values = Sequence[float] | np.ndarray | pl.Series


@dataclass(frozen=True)
class Interval:
    """A number and its 95% interval."""

    value: float
    low: float | None  # None: fewer than LEAST texts, or not bounded
    high: float | None
    n: int  # texts; of two samples the smaller one's
    degenerate: bool  # the interval says nothing about the spread: there is none, or no value differs from another


def student(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean of values (n_texts, ...) over texts, and the ends of Student's t interval."""
    mean = values.mean(axis=0)
    reach = _quantile(len(values) - 1) * values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return mean, mean - reach, mean + reach


def welch(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean of one sample (n_texts, ...) less that of another, and the ends of Welch's t interval."""
    first_var, second_var = (sample.var(axis=0, ddof=1) / len(sample) for sample in (first, second))
    value = first.mean(axis=0) - second.mean(axis=0)
    reach = _quantile_of(_freedom(first_var, second_var, len(first), len(second))) * np.sqrt(first_var + second_var)
    return value, value - reach, value + reach


def fieller(above: np.ndarray, below: np.ndarray, *, paired: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean of one sample (n_texts, ...) over that of another, and the ends of Fieller's interval.

    It holds every R for which the mean of above - R below is not told apart from 0. NaN where it is not bounded: the
    denominator itself is not told apart from 0.

    paired: both are of the same texts; else of others, with the degrees of freedom of Welch at the value.

    Source: Fieller 1954, Some problems in interval estimation.
    """
    a, b = above.mean(axis=0), below.mean(axis=0)
    aa, bb = (sample.var(axis=0, ddof=1) / len(sample) for sample in (above, below))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = a / b
        if paired:
            ab = ((above - a) * (below - b)).sum(axis=0) / (len(above) - 1) / len(above)
            reach = np.square(_quantile(len(above) - 1))
        else:
            ab = np.zeros_like(aa)
            reach = np.square(_quantile_of(_freedom(aa, value**2 * bb, len(above), len(below))))
        lead, middle, last = b**2 - reach * bb, a * b - reach * ab, a**2 - reach * aa
        root = np.sqrt(np.maximum(middle**2 - lead * last, 0))
        bounded = lead > 0
        low, high = (np.where(bounded, (middle + sign * root) / lead, np.nan) for sign in (-1, 1))
    return value, low, high


def _freedom(first_var: np.ndarray, second_var: np.ndarray, n_first: int, n_second: int) -> np.ndarray:
    """Return Satterthwaite's degrees of freedom of the sum of two variances of means."""
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = (first_var + second_var) ** 2 / (first_var**2 / (n_first - 1) + second_var**2 / (n_second - 1))
    return np.nan_to_num(freedom, nan=1.0)


@cache
def _quantile(freedom: int) -> float:
    return float(stats.t.ppf(0.975, freedom))


def _quantile_of(freedom: np.ndarray) -> np.ndarray:
    return stats.t.ppf(0.975, freedom)


def interval(values: Values) -> Interval:
    """Return the mean of one value a text with Student's t interval.

    Fewer than LEAST texts make no interval; where all have the same value it is that value, and flagged. Raises
    ValueError for no value, one that is not finite, or what is no list of numbers.

    >>> interval([2.0] * 7)
    Interval(value=2.0, low=2.0, high=2.0, n=7, degenerate=True)
    >>> interval([2.0, 4.0])
    Interval(value=3.0, low=None, high=None, n=2, degenerate=True)
    """
    data = _sample(values)
    if len(data) < LEAST or (data == data[0]).all():
        return _flagged(float(data.mean()), len(data), few=len(data) < LEAST)
    value, low, high = student(data)
    return Interval(float(value), float(low), float(high), len(data), False)


def proportion(flags: Sequence[bool] | pl.Series) -> Interval:
    """Return the share of texts of which something is true, with Clopper and Pearson's interval.

    Unlike a mean's it is not flagged where all texts agree: 8 of 8 may be 0.63 of all. Fewer than LEAST texts make no
    interval. Raises NothingFound for no text, ValueError for what is neither true nor false (1 or 0).

    >>> round(proportion([True] * 8).low, 4) == round(0.025 ** (1 / 8), 4)
    True

    Source: Clopper and Pearson 1934.
    """
    said = truths(flags)
    n, hits = len(said), int(said.sum())
    if not n:
        raise NothingFound("no texts to take a share of; check what the rows were filtered by")
    if n < LEAST:
        return Interval(hits / n, None, None, n, True)
    ends = stats.binomtest(hits, n).proportion_ci(0.95)
    return Interval(hits / n, float(ends.low), float(ends.high), n, False)


def difference(first: Values, second: Values) -> Interval:
    """Return the mean of one sample of texts less that of another, whose texts are others, with Welch's t interval.

    n: the texts of the smaller; fewer than LEAST of them make no interval. Of the same texts take `interval` of the
    differences. Raises ValueError as `interval`.
    """
    sample, other = _sample(first), _sample(second)
    n = min(len(sample), len(other))
    if n < LEAST or ((sample == sample[0]).all() and (other == other[0]).all()):
        return _flagged(float(sample.mean() - other.mean()), n, few=n < LEAST)
    value, low, high = welch(sample, other)
    return Interval(float(value), float(low), float(high), n, False)


def quotient(above: Values, below: Values, *, paired: bool = True) -> Interval:
    """Return the mean of one sample over that of another with Fieller's interval.

    paired: both are of the same texts, in one order. Else n counts those of the smaller sample. Where the denominator
    is not told apart from 0 the quotient is not bounded, and low and high are None.

    Raises ValueError as `interval`, for pairs that are none, or a denominator of 0.

    >>> quotient([2.0, 4.0, 6.0, 2.0, 4.0, 6.0], [1.0, 2.0, 3.0, 1.0, 2.0, 3.0])
    Interval(value=2.0, low=2.0, high=2.0, n=6, degenerate=True)
    """
    over, under = as_numbers(above), as_numbers(below)
    if paired and len(over) != len(under):
        raise ValueError(f"{len(over)} values over {len(under)}; give pairs, or paired=False")
    if paired:
        both = np.column_stack([over, under])
        _sample(both.ravel())
        dividends, divisors = both[np.lexsort(both.T)].T
    else:
        dividends, divisors = _sample(over), _sample(under)
    if not divisors.mean():
        raise ValueError("the denominators' mean is 0; leave these texts out")
    n = min(len(dividends), len(divisors))
    value = float(dividends.sum() / divisors.sum() if paired else dividends.mean() / divisors.mean())
    off = (
        dividends - value * divisors
        if paired
        else np.concatenate([dividends - dividends.mean(), divisors - divisors.mean()])
    )
    if n < LEAST or np.abs(off).max() <= 1e-12 * max(1.0, float(np.abs(dividends).max())):
        return _flagged(value, n, few=n < LEAST)
    _, low, high = (float(end) for end in fieller(dividends, divisors, paired=paired))
    return Interval(value, low, high, n, False) if np.isfinite(low) else Interval(value, None, None, n, True)


def between(low: float | None, high: float | None, *, digits: int = 1) -> str:
    """Return an interval in words: its ends, or that there is none.

    >>> between(1.25, 3), between(None, None)
    ('1.2 to 3.0', 'no interval')
    """
    return "no interval" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"


def as_numbers(values: Values) -> np.ndarray:
    """Return a list of numbers (n_texts,), NaN for None; ValueError for what is none."""
    try:
        data = np.asarray(values)
        if data.ndim != 1 or data.dtype.kind not in "biufO" or any(isinstance(value, str | bytes) for value in data):
            raise TypeError
        return data.astype(float)
    except (TypeError, ValueError):
        raise ValueError(f"{str(values)[:80]!r} is no list of numbers; give one a text, as [2.0, 4.0]") from None


def truths(flags: Sequence[bool] | np.ndarray | pl.Series) -> np.ndarray:
    """Return a list of true and false (n_texts,), given as such or as 1 and 0; ValueError for what is none."""
    data = as_numbers(flags)
    if wrong := [number for number in data if number not in (0, 1)]:
        raise ValueError(f"a flag is {wrong[0]:g}; true or false of each text is allowed: compare first, as values > 1")
    return data.astype(bool)


def _sample(values: Values) -> np.ndarray:
    """Return the values in one order, so that the order of rows changes nothing."""
    data = np.sort(as_numbers(values))
    if not len(data):
        raise NothingFound("no texts to take an interval over; check what the rows were filtered by")
    if not np.isfinite(data).all():
        raise ValueError("a value is not finite; leave out rows that diverged (status) before averaging")
    return data


def _flagged(value: float, n: int, *, few: bool) -> Interval:
    return Interval(value, None, None, n, True) if few else Interval(value, value, value, n, True)
