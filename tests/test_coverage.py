"""Simulated: the intervals hold the truth about as often as they say, on skewed whole numbers as exact lengths are."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from capacity import determinism, gains, metrics, precision
from capacity.metrics import intervals

DRAWS = 20_000


def lengths(rng, n, mean):
    """Exact lengths of n texts, (n, DRAWS): whole numbers, skewed as ours (a standard deviation of half their mean)."""
    return np.rint(rng.gamma(4, mean / 4, (n, DRAWS)))


def covered(found, truth):
    _, low, high = found
    return np.mean((low <= truth) & (truth <= high))


@pytest.mark.parametrize("n", [12, 16, 32])
def test_intervals_cover_what_they_say(n):
    rng = np.random.default_rng(n)
    hard = rng.gamma(4, 0.25, (n, DRAWS))  # what one text has in common under two settings
    one, other = (np.rint(hard * rng.gamma(16, mean / 16, (n, DRAWS))) for mean in (9, 6))
    apart = lengths(rng, n, 9), lengths(rng, n, 6)
    much = np.rint(rng.gamma(4, 0.25, 10**6) * rng.gamma(16, 9 / 16, 10**6)).mean()
    little = np.rint(rng.gamma(4, 0.25, 10**6) * rng.gamma(16, 6 / 16, 10**6)).mean()
    longer, shorter = (np.rint(rng.gamma(4, mean / 4, 10**6)).mean() for mean in (9, 6))
    found = {
        "mean": covered(intervals.student(apart[0]), longer),
        "paired difference": covered(intervals.student(one - other), much - little),
        "difference": covered(intervals.welch(*apart), longer - shorter),
        "paired quotient": covered(intervals.fieller(one, other), much / little),
        "quotient": covered(intervals.fieller(*apart, paired=False), longer / shorter),
    }
    assert {name: share for name, share in found.items() if not 0.93 <= share <= 0.97} == {}


@pytest.mark.parametrize("n", [12, 16, 32])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_certified_bits_cover_what_they_say_at_least(n, share):
    """By the chance of each number of texts decoded, no draw needed: Clopper and Pearson's covers 95% or more."""
    facts = {"model": "m", "source": "s", "n_mem": 1, "recipe": "r", "scored_from": 0, "length": 8, "status": "solved"}
    known = {"source_bits_low": 24.0, "source_first_bits": 3.0, "source_token_bits": 3.0}
    covered = 0.0
    for right in range(n + 1):
        rows = [facts | known | {"text_id": i, "decoded_tokens": 8 if i < right else 3} for i in range(n)]
        found = gains.certified_at(pl.DataFrame(rows)).row(0, named=True)
        low = -np.inf if found["low"] is None else found["low"]  # no share is too small
        covered += stats.binom.pmf(right, n, share) * (low <= 24 + np.log2(share) <= found["high"])
    assert 0.95 <= covered < 0.999


@pytest.mark.slow
@pytest.mark.parametrize(("broken", "kept"), [(5, 11), (8, 8), (16, 32)])
@pytest.mark.parametrize("apart", [0, 1, 2])
def test_the_interval_of_an_auc_covers(broken, kept, apart):
    """Normal values, so many standard deviations apart; 1000 draws, whose own error is 0.7%."""
    rng, truth = np.random.default_rng(apart), stats.norm.cdf(apart / np.sqrt(2))
    found = [
        determinism.auc(rng.normal(0, 1, broken).tolist(), rng.normal(apart, 1, kept).tolist()) for _ in range(1000)
    ]
    assert 0.93 <= np.mean([one.low <= truth <= one.high for one in found]) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("n", [12, 16, 32])
def test_intervals_of_medians_cover_at_least_what_they_say(n):
    """By the order alone, which on whole numbers covers more; the second where other ends cut texts short."""
    rng, draws, truth = np.random.default_rng(n), 600, np.rint(stats.gamma.ppf(0.5, 4, scale=9 / 4))
    plain, cut = 0, 0
    for _ in range(draws):
        limits = np.rint(rng.gamma(4, 9 / 4, n)).clip(1)
        found = precision.median(limits.tolist(), none=np.inf)
        plain += found.low <= truth <= found.high
        ends = rng.integers(4, 30, n)
        found = metrics.median_limit(np.minimum(limits, ends), limits > ends)
        low, high = (bound if end is None else end for bound, end in ((-np.inf, found.low), (np.inf, found.high)))
        cut += low <= truth <= high
    assert min(plain, cut) / draws >= 0.95
