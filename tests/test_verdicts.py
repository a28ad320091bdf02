import numpy as np
import pytest
from scipy import stats

from capacity import metrics, verdicts
from capacity.metrics import Interval


def interval(low, value, high, *, degenerate=False):
    return Interval(value, low, high, 8, degenerate)


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        ([(0.5, 1, 2), (0.1, 3, 9)], "holds"),
        ([(0.5, 1, 2), (0, 3, 9)], "cannot tell"),  # the bound itself is not above the bound
        ([(0.5, 1, 2), (-1, 3, 9)], "cannot tell"),
        ([(0.5, 1, 2), (-3, -2, -1)], "does not hold"),  # one that is below decides
        ([(-1, 0, 1)], "cannot tell"),
    ],
)
def test_a_claim_holds_where_every_interval_lies_above_and_falls_with_one_below(ends, outcome):
    found = {str(place): interval(*one) for place, one in enumerate(ends)}
    options = {"unit": "tokens", "change": "more texts"}
    assert verdicts.judge("c", found, **options).outcome == outcome
    words = {"holds": "replicated", "does not hold": "not replicated"}
    assert verdicts.judge("c", found, paper=True, **options).outcome == words.get(outcome, outcome)
    moved = {name: Interval(one.value + 7, one.low + 7, one.high + 7, 8, False) for name, one in found.items()}
    assert verdicts.judge("c", moved, above=7, **options).outcome == outcome


def test_one_text_and_a_lower_bound_decide_nothing():
    options = {"unit": "", "change": "more texts"}
    assert verdicts.judge("c", {"x": interval(1, 1, 1, degenerate=True)}, **options).outcome == "cannot tell"
    below = {"x": interval(0.5, 0.7, 0.8)}
    assert verdicts.judge("c", below, above=0.9, **options).outcome == "does not hold"
    assert verdicts.judge("c", below, above=0.9, floor=True, **options).outcome == "cannot tell"
    assert verdicts.judge("c", below, above=0.4, floor=True, **options).outcome == "holds"


def test_a_verdict_says_its_number_and_travels_as_data():
    verdict = verdicts.judge("it grows", {"growth": interval(-0.5, 0.25, 1)}, unit="tokens", change="more texts")
    assert verdict.text == (
        "**Verdict: cannot tell.** *it grows*: growth 0.25 tokens (-0.50 to 1.00), the bound is 0. "
        "It would change with more texts."
    )
    data = verdict._repr_mimebundle_()
    assert verdicts.Verdict(**data[verdicts.MIMETYPE]) == verdict
    assert data["text/markdown"] == verdict.text
    many = {"a": interval(1, 2, 3), "b": interval(-1, 0, 1), "c": interval(-3, -2, -1)}
    assert "of 3 intervals 1 lie above 0 bits, 1 below, 1 on both sides; the numbers go from -2.00 to 2.00" in (
        verdicts.judge("c", many, unit="bits", change="x").number
    )
    assert verdicts.measured("Five tokens").text == "**Measured.** Five tokens."


def test_what_is_no_outcome_is_refused():
    with pytest.raises(ValueError, match="'maybe'; choose one of holds"):
        verdicts.Verdict(outcome="maybe", claim="", number="")


def test_no_number_decides_nothing():
    for none in (verdicts.judge("c", {}, unit="", change="x"), verdicts.within("c", {}, low=0.0, high=1.0, change="x")):
        assert none.outcome == "cannot tell"
        assert none.text.endswith("nothing that could be compared is there. It would change with x.")


def test_the_difference_of_two_samples_is_welchs():
    first, second = [3.0, 5.0, 4.0, 9.0, 6.0, 5.0, 3.0], [2.0, 2.0, 4.0, 1.0, 3.0, 0.0]
    found = metrics.difference(first, second)
    parts = [np.var(sample, ddof=1) / len(sample) for sample in (first, second)]
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(sample) - 1) for part, sample in zip(parts, (first, second), strict=True)
    )
    reach = stats.t.ppf(0.975, freedom) * sum(parts) ** 0.5
    assert (found.value, found.low, found.high) == pytest.approx((3, 3 - reach, 3 + reach))
    assert (found.n, found.degenerate) == (6, False)
    turned = metrics.difference(second, first)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    assert metrics.difference(first[::-1], second) == found
    for one in (metrics.difference([2.0, 2.0], [1.0]), metrics.difference([2.0, 3.0], [1.0])):
        assert one.degenerate
    with pytest.raises(ValueError, match="no texts"):
        metrics.difference([], second)


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        ([(0.85, 1, 1.2), (0.8, 1, 1.25)], "holds"),
        ([(0.85, 1, 1.2), (0.7, 1, 1.2)], "cannot tell"),
        ([(0.85, 1, 1.2), (1.3, 2, 3)], "does not hold"),
        ([(0.1, 0.2, 0.79)], "does not hold"),
        ([(0.5, 1, 2)], "cannot tell"),
    ],
)
def test_a_claim_of_a_range_holds_where_every_interval_lies_within(ends, outcome):
    found = {str(place): interval(*one) for place, one in enumerate(ends)}
    assert verdicts.within("c", found, low=0.8, high=1.25, change="x").outcome == outcome
    found["few texts"] = Interval(1, None, None, 3, True)
    without = "cannot tell" if outcome == "holds" else outcome
    assert verdicts.within("c", found, low=0.8, high=1.25, change="x").outcome == without


def test_a_range_is_not_held_by_many_texts_beside_few():
    """26 texts of one source and 6 of another are not 16 of each."""
    first, second = list(np.linspace(9.8, 10.2, 26)), list(np.linspace(9.9, 10.1, 6))
    found = {"quotient": metrics.quotient(first, second, paired=False)}
    assert verdicts.within("c", found, low=0.8, high=1.25, change="x").outcome == "holds"
    assert verdicts.within("c", found, low=0.8, high=1.25, change="x", least=16).outcome == "cannot tell"
    few = verdicts.within("c", found, low=0.8, high=1.25, change="x", least=16)
    assert "0 across an end, 1 have no interval of 16 texts" in few.number


def test_a_quotient_that_cannot_be_leaves_the_others_their_numbers():
    both = {"none": Interval(float("nan"), None, None, 16, True), "one": interval(0.9, 1.0, 1.1)}
    for found in (
        verdicts.within("c", both, low=0.8, high=1.25, change="x"),
        verdicts.judge("c", both, above=0.5, unit="", change="x"),
    ):
        assert (found.outcome, "nan" in found.text) == ("cannot tell", False)
        assert "go from 1.00 to 1.00" in found.number


def test_what_was_not_measured_has_no_number():
    nothing = {"share": Interval(float("nan"), None, None, 0, True)}
    for found in (
        verdicts.judge("c", nothing, above=0.9, unit="", change=""),
        verdicts.within("c", nothing, low=0, high=1, change=""),
    ):
        assert found.outcome == "cannot tell"
        assert found.number.startswith("share not measured")
        assert "nan" not in found.text
