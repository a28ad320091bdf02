"""Laws of known data: exponents, intervals that cover, errors of what was left out."""

import doctest

import numpy as np
import pytest
from scipy import stats

from capacity import scaling

WIDTHS = np.array([32, 64, 128, 192, 256, 512.0])


@pytest.mark.parametrize(("scale", "exponent"), [(0.15, 1.0), (3.0, 0.4), (700.0, -0.5)])
def test_a_law_without_noise_is_found(scale, exponent):
    law = scaling.fit(WIDTHS, scale * WIDTHS**exponent)
    assert (law.scale, law.exponent) == pytest.approx((scale, exponent))
    assert law.low == pytest.approx(law.high)
    assert law.predict(1024) == pytest.approx(scale * 1024**exponent)
    assert scaling.leave_one_out(WIDTHS, scale * WIDTHS**exponent) == pytest.approx(0, abs=1e-9)


def test_a_held_exponent_is_the_mean_quotient_in_logarithms():
    held = np.array([5.0, 9.0, 22.0, 26.0, 40.0, 70.0])
    law = scaling.fit(WIDTHS, held, exponent=1)
    assert law.scale == pytest.approx(stats.gmean(held / WIDTHS))
    assert (law.exponent, law.low, law.high, law.freedom) == (1, 1, 1, 5)
    assert law.spread == pytest.approx(np.log(held / WIDTHS).std(ddof=1))


def test_the_exponents_interval_is_that_of_a_regression():
    held = np.array([5.0, 9.0, 22.0, 26.0, 40.0, 70.0])
    found, law = stats.linregress(np.log(WIDTHS), np.log(held)), scaling.fit(WIDTHS, held)
    reach = stats.t.ppf(0.975, 4) * found.stderr
    assert (law.exponent, law.low, law.high) == pytest.approx((found.slope, found.slope - reach, found.slope + reach))


@pytest.mark.slow
@pytest.mark.parametrize("n", [4, 6, 12])
def test_intervals_cover_what_they_say(n):
    rng, trials = np.random.default_rng(n), 3000
    x = np.geomspace(32, 512, n)
    inside = foretold = 0
    for _ in range(trials):
        law = scaling.fit(x, 0.2 * x**0.7 * np.exp(0.15 * rng.standard_normal(n)))
        inside += law.low <= 0.7 <= law.high
        low, high = law.interval(1024)
        foretold += low <= 0.2 * 1024**0.7 * np.exp(0.15 * rng.standard_normal()) <= high
    assert 0.93 <= inside / trials <= 0.97
    assert 0.93 <= foretold / trials <= 0.97


def test_a_miss_is_counted_in_standard_errors():
    law = scaling.fit(WIDTHS, np.array([5.0, 9.0, 22.0, 26.0, 40.0, 70.0]))
    _, high = law.interval(1024)
    assert law.miss(1024, high) == pytest.approx(stats.t.ppf(0.975, 4))
    assert law.miss(1024, law.predict(1024)) == pytest.approx(0)
    assert law.miss(1024, law.predict(1024) / 2) < 0


def test_rungs_of_one_width_are_left_out_together():
    x = np.array([1.0, 1.0, 2.0, 4.0])
    y = np.array([1.0, 3.0, 2.0, 4.0])
    errors = [
        np.log(1) - np.log(1), np.log(3) - np.log(1),  # of (2, 2), (4, 4): y = x
        np.log(2) - np.log(2 * 3**0.25),  # of (1, sqrt 3) twice and (4, 4): halfway
        np.log(4) - np.log(4 / 3**0.5),  # of (1, sqrt 3) and (2, 2): ln 2 + (ln 2 - ln 3 / 2)
    ]  # fmt: skip
    assert scaling.leave_one_out(x, y) == pytest.approx(np.sqrt(np.mean(np.square(errors))))


def test_two_rungs_show_no_spread():
    law = scaling.fit([1, 2], [1, 2])
    assert law.exponent == pytest.approx(1)
    assert np.isnan(law.spread)
    assert np.isnan(law.interval(4)).all()


def test_the_named_laws_are_fits_of_width_and_parameters():
    parameters, held = WIDTHS**2 * [1, 2, 1, 1, 3, 1], np.array([5.0, 9.0, 22.0, 26.0, 40.0, 70.0])
    found = scaling.named(WIDTHS, parameters, held)
    assert [one.law for one in found.values()] == [
        scaling.fit(WIDTHS, held, exponent=1), scaling.fit(WIDTHS, held), scaling.fit(parameters, held)
    ]  # fmt: skip
    assert [one.of_width for one in found.values()] == [True, True, False]
    assert found["a · parameters^b"].left_out == scaling.leave_one_out(parameters, held)
    # Rungs of one width are left out of all three together, also where their parameters differ.
    width, parameters, held = [1, 1, 2, 4], [1, 3, 9, 27], [1.0, 2.0, 4.0, 8.0]
    left_out = scaling.named(width, parameters, held)["a · parameters^b"].left_out
    two = np.log(scaling.fit([9, 27], [4, 8]).predict(1) / 1), np.log(scaling.fit([9, 27], [4, 8]).predict(3) / 2)
    others = [
        np.log(scaling.fit(np.delete(parameters, at), np.delete(held, at)).predict(parameters[at]) / held[at])
        for at in (2, 3)
    ]
    assert left_out == pytest.approx(np.sqrt(np.mean(np.square([*two, *others]))))
    two = scaling.named([1, 2], [1, 4], [1, 2])
    assert np.isnan(two["a · d_model^b"].left_out)
    assert two["a · d_model"].left_out == pytest.approx(0)


def test_rungs_of_one_width_may_count_as_one():
    width, parameters, y = [32, 64, 64, 128], [1, 2, 3, 4], [1.0, 2.0, 8.0, 16.0]
    found = scaling.named(width, parameters, y, by_width=True)
    assert found["a · d_model^b"].law == scaling.fit([32, 64, 128], [1, 4, 16])
    assert found["a · d_model"].law == scaling.fit([32, 64, 128], [1, 4, 16], exponent=1)
    assert found["a · parameters^b"].law == scaling.fit(parameters, y)
    with pytest.raises(ValueError, match="give a number for each of 4 rungs"):
        scaling.leave_one_out(width, y, together=[1, 2])


def test_a_trend_by_hand():
    found = scaling.trend([1, 1, 4], np.exp([1.0, 3.0, 4.0]))
    assert found.exponent == found.means.exponent == pytest.approx(2 / np.log(4))  # 2 and 4, between them ln 4
    assert (found.n, found.over_trainings) == (2, False)
    assert np.isnan([found.low, found.high]).all()  # two rungs show no spread
    assert found.rise == pytest.approx(2)
    assert found.seeds == pytest.approx(np.sqrt(2))
    alone = scaling.trend([1, 2, 4], [1, 2, 5])
    assert np.isnan(alone.seeds)
    law = scaling.fit([1, 2, 4], [1, 2, 5])
    assert (alone.low, alone.high) == pytest.approx((law.low, law.high))


def test_trainings_at_several_x_have_an_exponent_each():
    x, training = [1, 1, 1, 2, 2, 2], ["a", "b", "c", "a", "b", "c"]
    found = scaling.trend(x, np.exp([1.0, 2.0, 3.0, 1.0 + np.log(2), 2.0 + 2 * np.log(2), 3.0 + 3 * np.log(2)]),
                          training=training)  # fmt: skip
    assert (found.n, found.over_trainings) == (3, True)
    assert found.exponent == pytest.approx(2)
    assert found.high - 2 == pytest.approx(stats.t.ppf(0.975, 2) / np.sqrt(3))
    assert scaling.trend(x, [1, 2, 3, 4, 5, 6], training=range(6)).over_trainings is False
    first = scaling.trend([1, 2], [1, 3], training=["a", "a"])
    assert first.n == 1
    assert np.isnan(first.low)


@pytest.mark.parametrize(
    ("y", "seen"),
    [
        ([2.0, 2.1, 3.0, 3.1, 4.4, 4.5], 1),
        ([4.4, 4.5, 3.0, 3.1, 2.0, 2.1], -1),
        ([2.0, 4.0, 3.0, 2.0, 2.5, 4.0], 0),  # seeds differ by more
        ([2.0, 2.0, 3.0, 3.0, 2.0, 2.0], 0),  # up and down again
        ([2.0, 2.1, 4.0, 4.1, 4.4, 4.5], 0),  # up, but by no law that three rungs show
    ],
)
def test_no_trend_is_seen_that_seeds_might_make(y, seen):
    assert scaling.trend([1, 1, 2, 2, 4, 4], y).seen == seen


@pytest.mark.slow
@pytest.mark.parametrize(("shared", "power"), [(0.0, 0.9), (0.1, 0.6), (0.2, 0.3)])  # what trainings of a rung share
def test_trends_of_nothing_are_rarely_seen(shared, power):
    rng, trials, widths = np.random.default_rng(0), 2000, np.array([32, 64, 128, 192])
    x = np.repeat(widths, 3)

    def noise():
        return np.exp(np.repeat(shared * rng.standard_normal(4), 3) + 0.1 * rng.standard_normal(12))

    seen = sum(scaling.trend(x, noise()).seen != 0 for _ in range(trials))
    assert seen / trials <= 0.06
    grown = sum(scaling.trend(x, x**0.5 * noise()).seen == 1 for _ in range(200))
    assert grown / 200 > power


@pytest.mark.slow
def test_trends_along_checkpoints_of_nothing_are_rarely_seen():
    rng, trials, x = np.random.default_rng(0), 2000, np.tile([1, 2, 5], 3)
    training = np.repeat([0, 1, 2], 3)
    seen = 0
    for _ in range(trials):
        slopes = np.repeat(0.1 * rng.standard_normal(3), 3)  # a training's own
        seen += scaling.trend(x, x**slopes * np.exp(0.03 * rng.standard_normal(9)), training=training).seen != 0
    assert seen / trials <= 0.06


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2], [1, 0], r"\[0.0\] are not finite and above 0"),
        ([1, float("nan")], [1, 2], "not finite and above 0"),
        ([1, 2], [1], "one number of each"),
        ([2, 2], [1, 3], "1 different x among 2 rungs"),
    ],
)
def test_what_has_no_law_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        scaling.fit(x, y)


def test_examples_in_the_documentation():
    assert doctest.testmod(scaling).attempted == 4
    assert doctest.testmod(scaling).failed == 0
