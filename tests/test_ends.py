"""Why a length ends: the limit, the search, the text's own end; medians where texts end; what a doubling buys."""

import doctest
import math

import numpy as np
import polars as pl
import pytest
from scipy import stats

from capacity import metrics
from capacity.metrics import ends
from tests.test_metrics import rows


def fits(text, *made, **columns):
    """Rows of one text: (search, seed, length, status, decoded tokens or None)."""
    search, seed, length, status, decoded = (list(column) for column in zip(*made, strict=True))
    return rows(
        text_id=text, search=search, seed=seed, length=length, status=status, decoded_tokens=decoded,
        key=[f"{text}-{one[0]}-{one[1]}-{one[2] if one[0] == 'fixed' else ''}" for one in made],
        limit=[None if one == "fixed" else 9 for one in search], steps=500, probe=0, **columns,
    )  # fmt: skip


TWO = [("grow", 0, 3, "solved", 3), ("grow", 1, 4, "solved", 4)]  # two searches: the longest holds 4


@pytest.mark.parametrize(
    ("made", "tokens", "kind"),
    [
        ([("fixed", 8, 5, "stalled", None), ("fixed", 9, 5, "stalled", None)], 4, "limit"),
        ([("fixed", 8, 5, "stalled", None), ("fixed", 9, 5, "solved", 5)], 5, "search-limited"),  # they disagree at 5
        ([("fixed", 8, 5, "stalled", None), ("fixed", 9, 5, "solved", 5), ("fixed", 8, 6, "stalled", None),
          ("fixed", 9, 6, "stalled", None)], 5, "limit"),  # and agree at 6
        ([("fixed", 8, 5, "stalled", None)], 4, "search-limited"),  # one is not two
        ([("fixed", 8, 6, "stalled", None), ("fixed", 9, 6, "stalled", None)], 4, "search-limited"),  # not at 5
        ([("fixed", 8, 5, "stalled", None), ("fixed", 9, 5, "oom", None)], 4, "search-limited"),
        ([("grow", 2, 5, "stalled", None), ("grow", 3, 5, "stalled", None)], 4, "search-limited"),  # not fresh
        ([("fixed", 8, 5, "stalled", None), ("fixed", 9, 5, "stalled", None), ("fixed", 8, 4, "stalled", None),
          ("fixed", 9, 4, "stalled", None)], 4, "search-limited"),  # as they stall where it is held, too
        ([("fixed", 8, 5, "stalled", None), ("fixed", 9, 5, "stalled", None), ("fixed", 8, 4, "stalled", None),
          ("fixed", 9, 4, "solved", 4)], 4, "limit"),
        ([("fixed", 8, 5, "stalled", None)] * 2, 4, "search-limited"),  # one, given twice
        ([("fixed", 8, 5, "stalled", None), ("fixed", 9, 5, "stalled", None), ("fixed", 7, 5, "solved", 3)], 4,
         "search-limited"),  # exact, though it does not decode
        ([("grow", 2, 9, "solved", 9), ("fixed", 8, 5, "stalled", None)], 9, "ended"),  # all that there was
    ],
)  # fmt: skip
def test_a_limit_is_where_two_fresh_fits_stall_one_token_on(made, tokens, kind):
    found = metrics.limits(fits("a", *TWO, *made))
    assert found.select("tokens", "kind").rows() == [(tokens, kind)]


def test_one_search_makes_no_limit_and_steps_used_up_are_no_stall():
    stalled = [("fixed", 8, 5, "stalled", None), ("fixed", 9, 5, "stalled", None)]
    assert metrics.limits(fits("a", TWO[1], *stalled))["kind"].to_list() == ["search-limited"]
    both = fits("a", *TWO, *stalled)
    assert metrics.limits(both, steps=501)["kind"].to_list() == ["limit"]
    assert metrics.limits(both, steps=500).select("kind", "n_beyond", "n_stalled").rows() == [("search-limited", 2, 0)]


def test_fresh_fits_at_the_longest_length_are_counted_beside():
    made = [*TWO, ("fixed", 8, 4, "solved", 4), ("fixed", 9, 4, "stalled", None), ("fixed", 8, 5, "stalled", None)]
    table = metrics.limits(pl.concat([fits("a", *made), fits("b", ("grow", 0, 1, "budget", None))]))
    counts = ["text_id", "tokens", "n_searches", "n_beyond", "n_stalled", "n_at", "n_held"]
    assert table.select(counts).rows() == [("a", 4, 2, 1, 1, 2, 1), ("b", 0, 1, 0, 0, 0, 0)]
    counted = metrics.limit_counts(table, by=["model"], fits=1).drop("model")
    assert counted.rows() == [(2, 1, 0, 2, 2.0, None, 0.5)]
    known = table.with_columns(kind=pl.Series(["limit", "ended"]))
    assert metrics.limit_counts(known).drop("model").rows() == [(2, 0, 1, 0, 2.0, 4.0, 0.5)]


def test_limits_refuse_texts_of_other_models_in_one_pot():
    both = pl.concat([fits("a", *TWO, dtype="float32"), fits("b", *TWO, dtype="bfloat16")])
    with pytest.raises(ValueError, match="differ in dtype"):
        metrics.limits(both)
    assert metrics.limits(both, by=["model", "source", "dtype"]).height == 2
    with pytest.raises(ValueError, match="fits is 0"):
        metrics.limits(both, by=["model", "source", "dtype"], fits=0)


def test_the_median_of_texts_that_end_is_kaplan_and_meiers():
    # By hand: at 2 one of 6 fails (5/6), 3 ends, at 4 two of 4 fail (5/12).
    tokens, ended = [2, 3, 4, 4, 7, 8], [False, True, False, False, True, True]
    curve = metrics.survival(tokens, ended)
    at = dict(curve.select("tokens", "share").rows())
    assert at == {2: pytest.approx(5 / 6), 3: pytest.approx(5 / 6), 4: pytest.approx(5 / 12), 7: at[4], 8: at[4]}
    # Log-log, by Greenwood's formula at 4: sum of d / (n (n - d)) = 1/30 + 2/8.
    reach = 1.959964 * math.sqrt(1 / 30 + 2 / 8) / math.log(5 / 12)
    found = curve.filter(tokens=4).select("high", "low").row(0)
    assert found == pytest.approx([(5 / 12) ** math.exp(sign * reach) for sign in (1, -1)], rel=1e-5)
    found = metrics.median_limit(tokens, ended)
    assert (found.value, found.low, found.high, found.n, found.degenerate) == (4, 2, None, 6, True)


def test_where_no_text_ends_the_share_is_a_plain_count_and_cut_texts_keep_their_median():
    rng = np.random.default_rng(0)
    limits = rng.integers(3, 30, 400)
    plain = metrics.survival(limits, [False] * 400)
    assert plain.filter(tokens=10)["share"].item() == pytest.approx((limits > 10).mean())
    cuts = rng.integers(2, 40, 400)  # where each text ends, whatever its limit
    cut, ended = np.minimum(limits, cuts), cuts <= limits
    found = metrics.median_limit(cut, ended)
    truth = metrics.median_limit(limits, [False] * 400)
    assert found.low <= truth.value <= found.high
    assert np.median(cut) < found.low  # who takes ends for limits finds less
    assert truth.value == np.sort(limits)[199]


def test_a_text_that_ends_at_a_length_is_none_of_those_that_may_fail_there():
    curve = metrics.survival([3, 3, 5], [False, True, False])
    assert curve.select("tokens", "share").rows() == [(3, pytest.approx(0.5)), (5, 0.0)]  # of the second: 3 or more
    rng = np.random.default_rng(0)
    limits = rng.integers(3, 12, 20_000)
    cuts = rng.integers(2, 16, 20_000)
    shares = dict(metrics.survival(np.minimum(limits, cuts), cuts <= limits).select("tokens", "share").iter_rows())
    assert max(abs(shares[n] - (limits > n).mean()) for n in range(3, 12)) < 0.012


def test_a_median_that_is_not_reached_is_beyond_all():
    found = metrics.median_limit([3, 4, 5, 6, 7, 8], [True] * 6)
    assert (found.value, found.low, found.high) == (math.inf, None, None)
    assert metrics.median_limit([2.0, 4.0, 4.0], [False] * 3).low is None  # too few for an interval
    for wrong in (2.5, -1, math.nan):
        with pytest.raises(ValueError, match="a whole number of tokens"):
            metrics.survival([wrong, 2], [False, False])
    with pytest.raises(metrics.NothingFound, match="no texts"):
        metrics.median_limit([], [])


def searched(text, seed, *probes):
    """A search: (length, token_steps, solved)."""
    length, steps, solved = (list(column) for column in zip(*probes, strict=True))
    return rows(
        key=f"{text}{seed}", probe=list(range(len(length))), text_id=text, seed=seed, length=length,
        n_scored=[n - 1 for n in length], token_steps=steps,
        correct_with=[n - 1 if one else 0 for n, one in zip(length, solved, strict=True)],
    )  # fmt: skip


def test_a_doubling_is_paired_by_text_over_the_mean_of_its_seeds():
    table = pl.concat([
        searched("a", 0, (2, 100, True), (3, 80, True), (4, 500, False)),  # 2 at 100, 3 at 200
        searched("a", 1, (2, 50, True), (3, 40, True), (5, 300, True)),  # 3 at 100, 3 at 200
        searched("b", 0, (4, 90, True), (6, 100, True)),  # 4 at 100, 6 at 200
    ])  # fmt: skip
    assert metrics.reached(table, cost="token_steps", at=[100]).sort("text_id", "seed")["value"].to_list() == [2, 3, 4]
    found = metrics.doubled(table, cost="token_steps", at=[100, 200])
    assert found.select("spent", "n").rows() == [(200, 2), (400, 2)]
    # From 100 to 200 a goes from 2.5 to 3, b from 4 to 6; from 200 to 400 a to (3 + 5) / 2, b stays.
    assert found["value"].to_list() == [pytest.approx(9 / 6.5), pytest.approx(10 / 9)]
    assert metrics.doubled(table, cost="token_steps", at=[1, 100])["spent"].to_list() == [200]  # nothing was held at 1


def test_the_interval_of_a_doubling_is_fiellers_over_texts():
    once, twice = [3, 4, 5, 6, 7, 8, 9], [4, 4, 6, 6, 9, 8, 10]
    table = pl.concat(
        searched(str(text), 0, (a, 10, True), (b, 10, True))
        for text, (a, b) in enumerate(zip(once, twice, strict=True))
    )
    found = metrics.doubled(table, cost="token_steps", at=[10]).row(0, named=True)
    for end in (found["low"], found["high"]):
        off = np.array(twice) - end * np.array(once)
        assert stats.ttest_1samp(off, 0).pvalue == pytest.approx(0.05)


def test_who_gives_up_sooner_keeps_what_was_held_before_the_first_slow_length():
    table = pl.concat([searched("a", 0, (2, 20, True), (3, 90, True), (4, 40, True)), searched("b", 0, (2, 80, True))])
    table = table.with_columns(steps=pl.col("token_steps") // pl.col("length"), status=pl.lit("solved"),
                               decoded_tokens=pl.Series([None, None, 4, 2]))  # fmt: skip
    # Steps: 10, 30, 10 of a; 40 of b. Allowed 20, a is cut off at 3 after 60 token-steps, b at 2 after 40.
    cut = metrics.impatient(table, steps=20)
    columns = ["length", "steps", "token_steps", "status", "decoded_tokens"]
    assert cut.filter(text_id="a").select(columns).rows() == [
        (2, 10, 20, "solved", None), (3, 20, 60, "stalled", None)
    ]  # fmt: skip
    held = metrics.reached(cut, cost="token_steps", at=[1e9]).sort("text_id")
    assert held["value"].to_list() == [2, 0]
    assert metrics.impatient(table, steps=40).equals(table.sort("key", "probe"))
    both = metrics.by_patience(table, steps=[20, 40], by=["source"])
    assert both.select("steps", "value", "token_steps").rows() == [(20, 1.0, 60.0), (40, 3.0, 115.0)]
    timed = metrics.impatient(table.with_columns(seconds=pl.col("steps") / 10), steps=20)
    assert timed.filter(text_id="a")["seconds"].to_list() == [1, 2]
    with pytest.raises(ValueError, match="steps is 0"):
        metrics.impatient(table, steps=0)


def test_examples():
    assert doctest.testmod(ends) == (0, 2)
