import doctest
import math

import numpy as np
import polars as pl
import pytest
from scipy import stats

from capacity import gains, metrics, theory
from capacity.metrics import intervals

BY = {"model": "m", "source": "s", "n_mem": 1, "recipe": "paper", "scored_from": 1}


def rows(**columns):
    """A frame of rows of one condition; what is not given is the same in all rows."""
    n = max(len(column) for column in columns.values() if isinstance(column, list))
    same = BY | {"seed": 0, "first_correct": False} | columns
    return pl.DataFrame({name: value if isinstance(value, list) else [value] * n for name, value in same.items()})


def scores(table, length_column="length", **columns):
    """Rows of a grid {length: right tokens of each text}, all positions but t1 scored."""
    cells = [(text, length, right) for length, counts in table.items() for text, right in enumerate(counts)]
    texts, lengths, right = (list(column) for column in zip(*cells, strict=True))
    return rows(
        text_id=texts, length=lengths, correct_with=right, n_scored=[length - 1 for length in lengths], **columns
    )


GAINS = rows(
    text_id=[0, 0, 1, 2],
    correct_with=[10, 20, 30, 44],
    correct_without=[1, 3, 5, 3],
    bits_without=[100.0, 110.0, 120.0, 130.0],
    bits_with=[40.0, 30.0, 20.0, 14.0],
    bits_with_min=[38.0, 29.0, 18.0, 14.0],
    d_model=64,
    vocab_size=256,
)


def test_interval_is_students_t_by_scipy():
    values = [1.0, 2.5, 2.5, 4.0, 7.0, 11.0]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = metrics.interval(values)
    assert (found.value, found.n, found.degenerate) == (pytest.approx(28 / 6), 6, False)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_quotients_are_fiellers_by_the_test_that_they_invert():
    rng = np.random.default_rng(2)
    below = rng.gamma(4, 2, 9)
    above = below * rng.gamma(9, 0.3, 9)
    found = metrics.quotient(above, below)
    for end in (found.low, found.high):  # the quotients that a t test of above - R below just refuses
        assert stats.ttest_1samp(above - end * below, 0).pvalue == pytest.approx(0.05)
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(above.mean() / below.mean())
    other = rng.gamma(4, 2, 14)
    found = metrics.quotient(above, other, paired=False)
    assert found.n == 9  # of the smaller sample
    freedom = stats.ttest_ind(above, found.value * other, equal_var=False).df
    for end in (found.low, found.high):
        t = (above.mean() - end * other.mean()) / math.sqrt(above.var(ddof=1) / 9 + end**2 * other.var(ddof=1) / 14)
        assert abs(t) == pytest.approx(stats.t.ppf(0.975, freedom))
    turned = metrics.quotient(above[::-1], below[::-1])
    assert turned == metrics.quotient(above, below)
    with pytest.raises(ValueError, match="9 values over 14; give pairs"):
        metrics.quotient(above, other)


@pytest.mark.parametrize(
    "call",
    [
        metrics.interval,
        lambda v: metrics.difference(v, [0.0] * 9),
        lambda v: metrics.quotient(v, [1.0] * len(v)),
        lambda v: metrics.quotient(v, [1.0] * 9, paired=False),
    ],
)
def test_fewer_than_six_texts_have_no_interval_and_what_does_not_vary_is_flagged(call):
    few, flat = call([1.0, 2.0, 3.0, 4.0, 5.0]), call([3.0] * 6)
    assert (few.value, few.low, few.high, few.degenerate) == (3.0, None, None, True)
    assert (flat.value, flat.low, flat.high, flat.degenerate) == (3.0, 3.0, 3.0, True)
    one = call([1.0, 2.0, 3.0, 4.0, 5.0, 9.0])
    assert one.low < one.value < one.high
    assert not one.degenerate


def test_a_proportion_is_clopper_and_pearsons_and_tells_where_all_agree():
    found = metrics.proportion([True] * 3 + [False] * 7)
    assert (found.value, found.n, found.degenerate) == (0.3, 10, False)
    tails = [stats.binom.sf(2, 10, found.low), stats.binom.cdf(3, 10, found.high)]
    assert tails == pytest.approx([0.025, 0.025])  # as rare as may be, were this the share
    every = metrics.proportion(pl.Series([True] * 8))
    assert (every.low, every.high, every.degenerate) == (pytest.approx(0.025 ** (1 / 8)), 1.0, False)
    assert metrics.proportion([True] * 5).low is None
    with pytest.raises(metrics.NothingFound, match="no texts"):
        metrics.proportion([])


def test_interval_does_not_depend_on_order():
    values = np.random.default_rng(1).exponential(size=20)
    assert metrics.interval(values) == metrics.interval(values[::-1]) == metrics.interval(sorted(values))


@pytest.mark.parametrize(
    ("values", "message"), [([], "no texts"), ([1.0, math.nan], "not finite"), ([math.inf], "not")]
)
def test_interval_refuses_nothing_and_what_is_not_finite(values, message):
    with pytest.raises(ValueError, match=message):
        metrics.interval(values)


def test_right_exact_and_accuracy_count_the_first_token_where_it_is_scored():
    frame = rows(
        scored_from=[0, 0, 0, 1, 1, 1],
        correct_with=[3, 3, 2, 3, 2, 0],
        first_correct=[True, False, None, True, True, None],
        n_scored=[4, 4, 4, 3, 3, 0],
    ).select(metrics.n_right(), metrics.exact(), metrics.accuracy())
    assert frame.rows() == [
        (4, True, 1.0),
        (3, False, 0.75),
        (2, False, 0.5),
        (3, True, 1.0),  # t1 is given: that [mem] predicts it adds nothing
        (2, False, pytest.approx(2 / 3)),
        (0, True, 1.0),  # a text of one token, which is given
    ]


def test_accuracy_by_length_worked_by_hand():
    table = metrics.accuracy_by_length(scores({9: [8, 8], 5: [4, 3]}))
    assert table["length"].to_list() == [5, 9]
    assert table["value"].to_list() == [0.875, 1.0]
    assert table.select("low", "high", "n", "degenerate").row(1) == (None, None, 2, True)
    many = metrics.accuracy_by_length(scores({5: [4, 4, 4, 3, 3, 2, 4]}))
    expected = stats.ttest_1samp([1, 1, 1, 0.75, 0.75, 0.5, 1], 0).confidence_interval(0.95)
    assert expected.high > 1
    assert many.select("low", "high", "n").row(0) == (pytest.approx(expected.low), 1.0, 7)  # a share is at most 1


def test_decoding_capacity_is_the_largest_length_that_passes_even_after_one_that_fails():
    found = metrics.decoding_capacity(scores({11: [10, 10], 21: [20, 16], 31: [30, 30], 41: [20, 20]}))
    assert found.select("value", "n", "censored").row(0) == (31.0, 2, "no")


def test_decoding_capacity_passes_at_the_threshold_itself():
    exactly = scores({101: [99], 201: [0]})  # accuracy 0.99
    assert metrics.decoding_capacity(exactly)["value"].item() == 101
    assert metrics.decoding_capacity(exactly, threshold=0.995)["value"].item() == 0
    assert metrics.decoding_capacity(exactly, threshold=1)["value"].item() == 0


@pytest.mark.parametrize(
    ("table", "value", "censored"),
    [
        ({5: [4, 4], 9: [8, 8]}, 9, "above"),
        ({5: [3, 4], 9: [8, 8]}, 9, "above"),
        ({5: [4, 4], 9: [8, 0]}, 5, "no"),
        ({5: [0, 4], 9: [8, 0]}, 0, "below"),
    ],
)
def test_decoding_capacity_says_where_the_grid_ends_too_soon(table, value, censored):
    found = metrics.decoding_capacity(scores(table))
    assert found.select("value", "censored").row(0) == (value, censored)


def test_decoding_capacity_lies_between_the_lengths_whose_accuracy_surely_and_perhaps_passes():
    # At 5 all are right; at 9 one of 8 texts misses 1 of 8 (0.984, its interval reaches 0.99); at 17 none passes.
    table = {5: [4] * 8, 9: [8] * 7 + [7], 17: [8] * 4 + [9] * 4}
    found = metrics.decoding_capacity(scores(table))
    assert found.select("value", "low", "high", "n", "degenerate").row(0) == (5.0, 5.0, 9.0, 8, False)
    found = metrics.decoding_capacity(scores(table), threshold=0.98)
    assert found.select("value", "low", "high").row(0) == (9.0, 5.0, 9.0)
    few = metrics.decoding_capacity(scores({length: right[-4:] for length, right in table.items()}))
    assert few.select("value", "low", "high").row(0) == (5.0, None, None)


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, math.nan])
def test_decoding_capacity_refuses_a_threshold_that_is_no_share(threshold):
    with pytest.raises(ValueError, match=f"threshold is {threshold}"):
        metrics.decoding_capacity(scores({5: [4]}), threshold=threshold)


def test_decoding_capacity_refuses_texts_that_miss_a_length():
    whole = scores({5: [4, 4], 9: [8, 8]})
    with pytest.raises(ValueError, match="miss a length"):
        metrics.decoding_capacity(whole.filter((pl.col("text_id") == 0) | (pl.col("length") == 5)))


GROWN = rows(
    text_id=[0, 0, 0, 1, 1, 2, 3],
    length=[2, 3, 4, 2, 6, 2, 2],
    status=["solved", "solved", "stalled", "solved", "solved", "budget", "diverged"],
    decoded_tokens=[None, 3, None, None, 6, None, None],
)


def test_exact_lengths_worked_by_hand():
    found = metrics.exact_lengths(GROWN).select("text_id", "exact_length", "censored")
    # Text 1 ended before it failed, text 2 ran out of budget, 0 failed; 3 diverged and says nothing.
    assert found.rows() == [(0, 3, False), (1, 6, True), (2, 0, True)]


@pytest.mark.parametrize(
    ("scored_from", "probes", "censored"),
    [
        (0, [(1, "stalled")], False),
        (1, [(2, "budget")], True),
        (0, [(1, "solved"), (9, "solved")], True),  # the text ends
        (0, [(1, "solved"), (2, "diverged")], True),  # no result is no failure
        (0, [(1, "solved"), (2, "oom")], True),
        (0, [(1, "solved"), (4, "stalled"), (2, "budget")], True),  # 2 may fit yet
        (0, [(1, "solved"), (4, "stalled"), (2, "solved"), (3, "stalled")], False),
        (0, [(1, "solved"), (4, "stalled"), (2, "solved"), (3, "solved")], False),
        (0, [(1, "solved"), (4, "stalled"), (2, "solved"), (6, "solved")], True),  # what failed at 4 says nothing of 7
    ],
)
def test_a_length_is_censored_where_none_one_longer_failed(scored_from, probes, censored):
    lengths, statuses = (list(column) for column in zip(*probes, strict=True))
    frame = rows(
        text_id=0, length=lengths, status=statuses, scored_from=scored_from, decoded_tokens=[None] * len(probes)
    )
    assert metrics.exact_lengths(frame)["censored"].to_list() == [censored]


def test_exact_length_is_their_mean():
    found = metrics.exact_length(GROWN)
    assert found.select("value", "n", "degenerate", "n_censored").row(0) == (3.0, 3, True, 2)
    more = pl.concat([GROWN.with_columns(pl.col("text_id") + 10 * n) for n in range(3)])
    found, expected = metrics.exact_length(more), metrics.interval([3, 6, 0] * 3)
    assert found.select("value", "low", "high", "n").row(0) == (3.0, expected.low, expected.high, 9)


def test_exact_length_tells_seeds_apart():
    twice = pl.concat([GROWN, GROWN.with_columns(pl.lit(1, pl.Int64).alias("seed"))])
    assert metrics.exact_lengths(twice).height == 6


# Text 0 is exact at 2 and 3, not at 4; text 1 never is. The probes' costs add up to 10, 30 and 130, and to 50.
SEARCHED = rows(
    key=["a", "a", "a", "b"],
    probe=[0, 1, 2, 0],
    text_id=[0, 0, 0, 1],
    length=[2, 3, 4, 2],
    n_scored=[1, 2, 3, 1],
    correct_with=[1, 2, 2, 0],
    token_steps=[10, 20, 100, 50],
    seconds=[1.0, 0.5, 4.0, 0.25],
)


@pytest.mark.parametrize(
    ("cost", "values"),
    [
        ("token_steps", {9: 0.0, 10: 1.0, 29: 1.0, 30: 1.5, 49: 1.5, 130: 1.5, 1e9: 1.5}),
        ("seconds", {0.0: 0.0, 0.9: 0.0, 1.0: 1.0, 1.4: 1.0, 1.5: 1.5, 60.0: 1.5}),
    ],
)
def test_exact_length_by_cost_worked_by_hand(cost, values):
    found = metrics.exact_length_by_cost(SEARCHED, cost=cost, at=list(values))
    assert dict(found.select("spent", "value").rows()) == values
    assert set(found["n"]) == {2}
    assert found.columns == [*BY, "value", "low", "high", "n", "degenerate", "spent"]


@pytest.mark.parametrize(("first", "value"), [(True, 3), (False, 0), (None, 0)])
def test_exact_length_by_cost_asks_for_the_first_token_where_it_is_scored(first, value):
    scored = SEARCHED.filter(text_id=0).with_columns(
        pl.col("n_scored") + 1, scored_from=pl.lit(0), first_correct=pl.lit(first, pl.Boolean)
    )
    assert metrics.exact_length_by_cost(scored, cost="token_steps", at=[1000])["value"].item() == value


def test_exact_length_by_cost_goes_through_probes_in_their_order_and_keeps_the_longest():
    # 4 fails, 8 is exact, 6 is exact later: bisected the wrong way round, with rows out of order.
    bisected = rows(
        key="a", probe=[2, 0, 1], text_id=0, length=[6, 4, 8], n_scored=[5, 3, 7], correct_with=[5, 1, 7],
        token_steps=[1, 2, 4],
    )  # fmt: skip
    found = metrics.exact_length_by_cost(bisected, cost="token_steps", at=[7, 1, 2, 5, 6])
    assert found.select("spent", "value").rows() == [(1, 0), (2, 0), (5, 0), (6, 8), (7, 8)]


def test_exact_length_by_cost_counts_texts_not_searches():
    again = SEARCHED.with_columns(pl.col("key") + "again", seed=pl.lit(1, pl.Int64), token_steps=pl.lit(1, pl.Int64))
    found = metrics.exact_length_by_cost(pl.concat([SEARCHED, again]), cost="token_steps", at=[3, 10])
    # Text 0 holds 3 by seed 1, and nothing, then 2, by seed 0; text 1 nothing.
    assert found.select("value", "n").rows() == [(0.75, 2), (1.25, 2)]


def test_exact_length_by_cost_does_not_mix_conditions_nor_mind_the_order_of_rows():
    def call(frame, **by):
        return metrics.exact_length_by_cost(frame, cost="token_steps", at=[10, 100], **by)

    other = SEARCHED.with_columns(pl.col("key") + "other", model=pl.lit("other"), correct_with=pl.lit(0, pl.Int64))
    both, found = pl.concat([other, SEARCHED]), call(SEARCHED)
    assert call(both).filter(model="m").equals(found)
    assert call(both).filter(model="other")["value"].to_list() == [0, 0]
    assert call(SEARCHED, by=["source"]).drop("source").equals(found.drop(*BY))
    for seed in range(3):
        assert call(both.sample(fraction=1, shuffle=True, seed=seed)).equals(call(both))
    with pytest.raises(ValueError, match="no rows to summarise"):
        call(SEARCHED.clear())


def test_gains_worked_by_hand():
    tokens, bits = gains.token_gain(GAINS), gains.information_gain(GAINS)
    assert tokens["value"].item() == (9 + 17 + 25 + 41) / 4
    assert bits["value"].item() == (60 + 80 + 100 + 116) / 4
    least = gains.information_gain(GAINS, least=True)
    assert least["value"].item() == (62 + 81 + 102 + 116) / 4
    assert tokens["n"].item() == bits["n"].item() == least["n"].item() == 3  # texts, not rows


def test_gains_cluster_by_text():
    # One text has 93 rows of gain 0, seven have one of gain 100: seven of eight texts gain, of 100 rows seven do.
    frame = rows(text_id=[0] * 93 + list(range(1, 8)), correct_with=[0] * 93 + [100] * 7, correct_without=0)
    found = gains.token_gain(frame)
    assert found.select("value", "n").row(0) == (7.0, 8)
    expected = metrics.quotient([0] + [100] * 7, [93] + [1] * 7)
    assert found.select("low", "high").row(0) == (expected.low, expected.high)


def test_information_gain_refuses_the_least_of_a_recipe_that_follows_none():
    frame = GAINS.with_columns(bits_with_min=pl.Series([38.0, None, 18.0, 14.0]))
    assert gains.information_gain(frame)["value"].item() == 89
    for call in (gains.information_gain, gains.utilisation):
        with pytest.raises(ValueError, match="no bits_with_min"):
            call(frame, least=True)


def test_gains_refuse_rows_that_diverged():
    with pytest.raises(ValueError, match="not finite; leave out rows that diverged"):
        gains.information_gain(GAINS.with_columns(bits_with=pl.Series([40.0, math.nan, 20.0, 14.0])))


@pytest.mark.parametrize(("n_mem", "bits"), [(1, 16), (4, 16), (2, 8.5)])
def test_utilisation_is_gain_over_capacity(n_mem, bits):
    frame = GAINS.with_columns(pl.lit(n_mem).alias("n_mem"))
    found = {line["unit"]: line for line in gains.utilisation(frame, bits=bits).to_dicts()}
    tokens = theory.token_capacity(64, 256, bits=bits, n_mem=n_mem)
    assert found["tokens"]["value"] == pytest.approx(gains.token_gain(frame)["value"].item() / tokens)
    room = theory.bit_capacity(64, bits=bits, n_mem=n_mem)
    assert found["bits"]["value"] == pytest.approx(gains.information_gain(frame)["value"].item() / room)
    least = gains.utilisation(frame, bits=bits, least=True).filter(unit="bits")["value"].item()
    assert least == pytest.approx(gains.information_gain(frame, least=True)["value"].item() / room)
    more = pl.concat([frame.with_columns(pl.col("text_id") + 10 * n) for n in range(2)])
    ends = gains.token_gain(more).select("low", "high").row(0)
    found = gains.utilisation(more, bits=bits).filter(unit="tokens").select("low", "high").row(0)
    assert found == pytest.approx([end / tokens for end in ends])


def test_utilisation_is_negative_where_mem_hurts():
    hurt = GAINS.with_columns(correct_with=pl.lit(0), bits_with=pl.lit(200.0))
    assert (gains.utilisation(hurt)["value"] < 0).all()


GRID = scores({5: [4, 3, 4, 4], 9: [8, 7, 6, 8], 17: [16, 9, 8, 2]})
CALLS = [
    pytest.param(metrics.accuracy_by_length, GRID, id="accuracy_by_length"),
    pytest.param(lambda frame, **by: metrics.decoding_capacity(frame, threshold=0.9, **by), GRID, id="decoding"),
    pytest.param(metrics.exact_length, GROWN, id="exact_length"),
    pytest.param(metrics.exact_lengths, GROWN, id="exact_lengths"),
    pytest.param(gains.token_gain, GAINS, id="token_gain"),
    pytest.param(gains.information_gain, GAINS, id="information_gain"),
    pytest.param(gains.utilisation, GAINS, id="utilisation"),
]


@pytest.mark.parametrize(("call", "frame"), CALLS)
def test_order_of_rows_does_not_matter(call, frame):
    found = call(frame)
    for seed in range(3):
        assert call(frame.sample(fraction=1, shuffle=True, seed=seed)).equals(found)


@pytest.mark.parametrize(("call", "frame"), CALLS)
def test_conditions_do_not_mix(call, frame):
    other = frame.with_columns(pl.lit("other").alias("model"))
    assert call(pl.concat([other, frame])).filter(model="m").equals(call(frame))
    assert call(frame, by=["source"]).drop("source").equals(call(frame).drop(*BY))


@pytest.mark.parametrize(("call", "frame"), CALLS)
def test_texts_that_are_equal_change_no_value(call, frame):
    one = frame.filter(text_id=0)
    both = pl.concat([one, one.with_columns(pl.col("text_id") + 7)])
    values = [call(part).drop("text_id", "n", "n_censored", strict=False).unique() for part in (one, both)]
    assert values[0].sort(pl.all()).equals(values[1].sort(pl.all()))


@pytest.mark.parametrize(("call", "frame"), [case for case in CALLS if case.id != "exact_lengths"])
def test_refuses_to_summarise_no_rows(call, frame):
    with pytest.raises(ValueError, match="no rows to summarise"):
        call(frame.clear())


def test_examples_in_the_documentation():
    failed, tried = doctest.testmod(intervals)
    assert (failed, tried) == (0, 5)


def test_a_ratio_is_of_sums_and_texts_keep_their_rows_together():
    above, below = [1.0, 2.0, 7.0, 2.0, 4.0, 3.0, 5.0], [1.0, 1.0, 3.0, 1.0, 2.0, 1.0, 3.0]
    rows = pl.DataFrame({"k": "x", "text_id": list("aabcdef"), "above": above, "below": below})
    found = metrics.ratio(rows, "above", "below", by=["k"]).row(0, named=True)
    assert (found["k"], found["value"], found["n"]) == ("x", 2.0, 6)
    expected = metrics.quotient([3.0, *above[2:]], [2.0, *below[2:]])
    assert (found["low"], found["high"]) == (expected.low, expected.high)
    one = metrics.ratio(rows.filter(text_id="a"), "above", "below", by=["k"]).row(0, named=True)
    assert (one["value"], one["low"], one["high"], one["degenerate"]) == (1.5, None, None, True)


def test_a_text_with_nothing_in_both_is_left_out_of_a_ratio():
    some = {"k": "x", "text_id": ["a", "b", "c"], "above": [3.0, 7.0, 5.0], "below": [1.0, 3.0, 2.0]}
    none = {"k": "x", "text_id": ["d", "e"], "above": [0.0, 0.0], "below": [0.0, 0.0]}
    rows = pl.concat([pl.DataFrame(none), pl.DataFrame(some)])
    found = metrics.ratio(rows, "above", "below", by=["k"])
    assert found.equals(metrics.ratio(pl.DataFrame(some), "above", "below", by=["k"]))
    assert metrics.ratio(rows.filter(pl.col("text_id") >= "c"), "above", "below", by=["k"])["value"].item() == 2.5
    assert found["n"].item() == 3


def test_a_ratio_to_nothing_is_refused():
    rows = pl.DataFrame({"k": "x", "text_id": ["a"], "above": [1.0], "below": [0.0]})
    with pytest.raises(ValueError, match=r"below sums to 0 for \{'k': 'x'\}"):
        metrics.ratio(rows, "above", "below", by=["k"])
    with pytest.raises(ValueError, match="no rows to summarise"):
        metrics.ratio(rows.head(0), "above", "below", by=["k"])


def test_a_ratio_whose_denominator_may_be_nothing_has_no_bounds():
    below = [3.0, -2.0, 1.0, -1.0, 2.0, -2.0]  # a mean of 1/6, not told apart from 0
    table = pl.DataFrame({"g": 1, "text_id": list("abcdef"), "above": 10.0, "below": below})
    found = metrics.ratio(table, "above", "below", by=["g"])
    assert found.row(0) == (1, 60.0, None, None, 6, True)
    assert found.schema["low"] == pl.Float64


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("bos", ["none", "before_mem"]), ("dtype", ["float32", "bfloat16"]), ("budget", [3000, 4000]),
        ("limit", [40, 80]), ("text_seed", [0, None]), ("quantisation", [None, "Q8_0"]), ("revision", ["a", "b"]),
        ("attention", ["sdpa", "eager"]), ("search", ["fixed", "grow"]), ("recipe", ["paper", "default"]),
    ],
)  # fmt: skip
def test_rows_that_differ_in_a_setting_are_not_pooled(column, values):
    table = GAINS.with_columns(
        pl.Series("x", [values[0]] * 3 + [values[1]]).alias(column), status=pl.lit("stalled"), n_scored=60
    )
    by = ["model", "source"]
    for figure in (gains.token_gain, gains.plateaus, gains.information_gain, gains.utilisation):
        with pytest.raises(ValueError, match=f"differ in {column} .*filter them to one value, or add"):
            figure(table, by=by)
    assert gains.token_gain(table, by=[*by, column]).height == 2


def test_cells_alike_in_every_setting_are_not_pooled():
    table = GAINS.head(2).with_columns(length=8, probe=0, key=pl.Series(["a", "b"]))
    with pytest.raises(ValueError, match=r"1 fit is there twice, .*'text_id': 0"):
        gains.token_gain(table)
    assert gains.token_gain(table.with_columns(seed=pl.Series([0, 1])))["value"].item() == 13.0


def test_fits_that_did_not_finish_are_in_no_mean():
    table = GAINS.with_columns(status=pl.Series(["stalled", "diverged", "oom", "solved"]))
    assert gains.token_gain(table)["value"].item() == 25.0  # of 9 and 41
    assert metrics.finished(table)["text_id"].to_list() == [0, 2]


def test_a_frame_that_is_not_ours_has_its_own_columns():
    failed, tried = doctest.testmod(metrics, optionflags=doctest.ELLIPSIS)
    assert (failed, tried) == (0, 11)


@pytest.mark.parametrize("function", [metrics.accuracy_by_length, metrics.decoding_capacity, metrics.exact_lengths])
def test_a_missing_column_is_one_sentence(function):
    with pytest.raises(ValueError, match=r"the frame has no column (text_id|length).*; it has model, tokens\. Give"):
        function(pl.DataFrame({"model": ["a"], "tokens": [3]}), by=["model"])
    with pytest.raises(ValueError, match=r"no column source, n_mem"):
        function(pl.DataFrame({"model": ["a"]}))
    with pytest.raises(ValueError, match=r"the frame has no column wit; it has net, doc"):
        metrics.mean(pl.DataFrame({"net": ["a"], "doc": ["b"]}), pl.col("wit") + 1, ["net"], text_id="doc")
    with pytest.raises(ValueError, match=r"the frame has no column wit; it has net"):
        metrics.summarise(pl.DataFrame({"net": ["a"]}), ["wit"], dict)


def test_exact_length_by_cost_of_a_frame_that_is_not_ours():
    """Two fits a text: after a cost of 4 one text has 4 tokens and the other none, after 9 they have 8 and 2."""
    theirs = pl.DataFrame({
        "net": ["tiny"] * 4, "doc": ["a", "a", "b", "b"], "tokens": [4, 8, 2, 4], "ok": [1.0, 1.0, 1.0, 0.5],
        "paid": [4, 5, 6, 3], "round": [0, 1, 0, 1],
    })  # fmt: skip
    found = metrics.exact_length_by_cost(
        theirs, cost="paid", at=[4, 9], by=["net"], text_id="doc", length="tokens", share="ok", order=["round"]
    )
    assert found.select("spent", "value", "n").rows() == [(4.0, 2.0, 2), (9.0, 5.0, 2)]


def test_a_proportion_has_the_ends_of_two_binomials():
    found = metrics.proportion([True] * 8 + [False] * 2)
    assert (found.value, found.n, found.degenerate) == (0.8, 10, False)
    assert stats.binom.sf(7, 10, found.low) == pytest.approx(0.025)  # 8 or more of 10
    assert stats.binom.cdf(8, 10, found.high) == pytest.approx(0.025)
    assert metrics.proportion([True] * 96).low == pytest.approx(0.025 ** (1 / 96))
    assert metrics.proportion([False, True]).low is None
    with pytest.raises(metrics.NothingFound, match="no texts"):
        metrics.proportion([])


@pytest.mark.parametrize("wrong", [65.7, -0.1])
def test_shares_are_from_0_to_1(wrong):
    theirs = pl.DataFrame({"net": ["a"] * 2, "doc": [0, 1], "tokens": [4, 4], "ok": [1.0, wrong]})
    for function in (metrics.accuracy_by_length, metrics.decoding_capacity):
        with pytest.raises(ValueError, match=rf"ok is {wrong} in some rows; a share of right tokens is from 0 to 1"):
            function(theirs, by=["net"], text_id="doc", length="tokens", share="ok")


OWN = pl.DataFrame({
    "net": ["tiny"] * 4, "doc": ["a", "a", "b", "b"], "tokens": [4, 8, 4, 8], "back": [4, 6, 3, None],
    "ok": [1.0, 0.5, 1.0, 0.7], "cost": [1.0, 2.5, 1.0, 2.5], "round": [0, 1, 0, 1],
})  # fmt: skip
NAMES = {"by": ["net"], "text_id": "doc", "length": "tokens"}
TABLES = {
    "accuracy_by_length": lambda frame: metrics.accuracy_by_length(frame, **NAMES, share="ok"),
    "decoding_capacity": lambda frame: metrics.decoding_capacity(frame, **NAMES, share="ok"),
    "exact_length": lambda frame: metrics.exact_length(frame, **NAMES, decoded="back", status=None, seed=None),
    "exact_length_by_cost": lambda frame: metrics.exact_length_by_cost(
        frame, **NAMES, share="ok", cost="cost", at=[2], order=["round"]
    ),
    "mean": lambda frame: metrics.mean(frame, "ok", ["net"], text_id="doc"),
    "mean of two": lambda frame: metrics.mean(frame, pl.col("tokens") - pl.col("ok"), ["net"], text_id="doc"),
    "ratio": lambda frame: metrics.ratio(frame, "ok", "tokens", by=["net"], text_id="doc"),
}
USED = [
    ("accuracy_by_length", "ok"), ("accuracy_by_length", "tokens"), ("decoding_capacity", "ok"),
    ("decoding_capacity", "tokens"), ("exact_length", "back"), ("exact_length", "tokens"),
    ("exact_length_by_cost", "cost"), ("exact_length_by_cost", "tokens"), ("mean", "ok"), ("mean of two", "ok"),
    ("ratio", "tokens"), ("ratio", "ok"),
]  # fmt: skip


@pytest.mark.parametrize(("table", "column"), USED)
def test_numbers_that_are_text_are_refused_whatever_the_kind_of_number(table, column):
    with pytest.raises(ValueError, match=rf"{column} (is of type|of) String.*; cast"):
        TABLES[table](OWN.with_columns(pl.col(column).cast(pl.String)))
    known = TABLES[table](OWN)
    for kind in (pl.Float64, pl.Float32) if column in ("ok", "cost") else (pl.Int16, pl.Int32, pl.Float64):
        found = TABLES[table](OWN.with_columns(pl.col(column).cast(kind)))
        assert found["value"].to_list() == pytest.approx(known["value"].to_list())


@pytest.mark.parametrize(
    ("back", "message"),
    [(-3, "back is -3 in some rows; numbers from 0 on"), (100, "back is 100 where tokens is 4; whole numbers from 0"),
     (2.5, "back is 2.5 where tokens"), (math.nan, "back is nan in some rows"), (math.inf, "back is inf in some rows")],
)  # fmt: skip
def test_what_is_decoded_is_a_whole_number_of_the_tokens_there(back, message):
    with pytest.raises(ValueError, match=message):
        TABLES["exact_length"](OWN.with_columns(back=back))


def test_tables_have_typed_columns_where_nothing_is_known():
    few = TABLES["exact_length"](OWN)
    assert few.select("low", "high", "n_censored").row(0) == (None, None, None)
    assert list(few.schema.items())[1:] == list(metrics.exact_length(GROWN, by=["model"]).schema.items())[1:]
    untold = OWN.with_columns(kind=pl.lit(None, pl.String))
    made = metrics.summarise(untold, ["kind"], lambda _: {"x": None, "n_x": None})
    assert made.schema == {"kind": pl.String, "x": pl.Float64, "n_x": pl.Int64}


def test_a_missing_column_is_named_once_with_what_may_be_given_instead():
    for call, message in {
        lambda: metrics.accuracy_by_length(OWN, **NAMES): (
            r"no column correct_with, scored_from, n_scored, first_correct; .*\(text_id=..., length=..., share=...\)"
        ),
        lambda: metrics.accuracy_by_length(OWN): r"no column model, source, n_mem, recipe, scored_from, text_id",
        lambda: gains.per_vector(OWN, by=["n_mem"]): r"no column n_mem, text_id, bits; .* yours \(by=\[...\]\), or",
        lambda: metrics.limits(OWN, by=["net"]): r"no column text_id, key, .* Rename yours, or add them$",
        lambda: gains.as_published(OWN, by=["net"]): r"no column text_id, length, bits_.*\. Rename yours, or add them$",
    }.items():
        with pytest.raises(ValueError, match=message) as refused:
            call()
        missing = str(refused.value).partition("no column ")[2].partition(";")[0].split(", ")
        assert len({*missing}) == len(missing)


def test_an_argument_that_is_none_is_refused_by_the_function_called():
    with pytest.raises(TypeError, match=r"^exact_length\(\) got an unexpected keyword argument 'lenght'"):
        metrics.exact_length(OWN, lenght="tokens")  # pyright: ignore
    with pytest.raises(TypeError, match=r"^exact_length_by_cost\(\) got an unexpected"):
        metrics.exact_length_by_cost(OWN, cost="cost", at=[1], lenght="tokens")  # pyright: ignore


def test_a_flag_is_true_or_false():
    assert metrics.proportion([1, 0, True]) == metrics.proportion([True, False, True])
    with pytest.raises(ValueError, match="a flag is 3; true or false of each text is allowed"):
        metrics.proportion([1, 0, 3])
    with pytest.raises(ValueError, match="a flag is nan"):
        metrics.proportion(pl.Series([True, None]))


def test_a_length_that_is_null_has_no_decoding_capacity():
    with pytest.raises(ValueError, match="tokens is null in some rows"):
        TABLES["decoding_capacity"](OWN.with_columns(tokens=pl.Series([4, None, 4, 8])))
