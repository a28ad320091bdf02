"""Simulated: the intervals hold the truth about as often as they say, on skewed whole numbers as exact lengths are."""

import numpy as np
import pytest

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
