import doctest
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity import gains, metrics, theory

BY = ["model", "source"]


def rows(**columns):
    """A frame of rows of one model and source; what is not given is the same in all rows."""
    n = max(len(column) for column in columns.values() if isinstance(column, list))
    same = {"model": "m", "source": "s", "n_mem": 1, "recipe": "paper", "scored_from": 1, "seed": 0}
    same |= {"first_correct": False} | columns
    return pl.DataFrame({name: value if isinstance(value, list) else [value] * n for name, value in same.items()})


# Two texts at lengths 3, 5, 9. Text a: 2 bits a position, takes out 6; text b: 5 bits a position, takes out 12.
TWO = rows(
    text_id=["a", "a", "a", "b", "b", "b"],
    length=[3, 5, 9] * 2,
    n_scored=[2, 4, 8] * 2,
    correct_with=[2, 3, 4, 2, 2, 3],
    correct_without=[0, 0, 1, 0, 0, 1],
    bits_without=[4.0, 8.0, 16.0, 10.0, 20.0, 40.0],
    bits_with=[1.0, 3.0, 11.0, 0.5, 9.0, 29.0],
    bits_with_min=[0.0, 2.0, 10.0, 0.0, 8.0, 28.0],
)


def lowest(before, after):
    """C by its definition: every set of rows with most bits is tried, the best of their mean gains is kept."""
    order = sorted(range(len(before)), key=lambda i: -before[i])
    tried = [sum(before[i] - after[i] for i in order[:k]) / k for k in range(1, len(order) + 1)]
    inside = [min(max(c, 0.0), max(before)) for c in tried]
    return min((sum((a - max(b - c, 0)) ** 2 for b, a in zip(before, after, strict=True)), c) for c in inside)


def squares(before, after, c):
    return sum((a - max(b - c, 0)) ** 2 for b, a in zip(before, after, strict=True))


def test_a_plateau_is_found_where_there_is_one():
    before = [1.0, 5, 11, 17, 30, 100]
    for c in (0.0, 0.5, 10, 29, 100):
        assert gains.plateau_of(before, [max(b - c, 0) for b in before]) == pytest.approx(c, abs=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(1, 60), st.floats(0, 1)), min_size=1, max_size=7))
def test_no_set_of_rows_gives_a_better_plateau(drawn):
    before = [bits for bits, _ in drawn]
    after = [bits * share for bits, share in drawn]  # what is left lies between nothing and all
    best, _ = lowest(before, after)
    found = gains.plateau_of(before, after)
    assert 0 <= found <= max(before)
    assert squares(before, after, found) <= best + 0.03 * len(before)  # half a step of the grid away, at most


def test_a_plateau_does_not_move_with_rows_that_are_solved_below_it():
    assert gains.plateau_of([30, 40], [10, 20]) == pytest.approx(20, abs=1e-3)
    assert gains.plateau_of([3, 9, 15, 30, 40], [0, 2, 1, 10, 20]) == pytest.approx(20, abs=1e-3)


@pytest.mark.parametrize(("before", "after"), [([], []), ([1.0], []), ([1.0, math.nan], [0, 0]), ([1.0], [math.inf])])
def test_a_plateau_of_nothing_or_of_what_is_not_finite_is_refused(before, after):
    with pytest.raises(ValueError, match="finite bits"):
        gains.plateau_of(before, after)


def test_no_bits_give_no_plateau():
    assert gains.plateau_of([0.0, 0.0], [0.0, 0.0]) == 0


def test_own_plateaus_worked_by_hand():
    found = gains.plateaus(TWO, by=BY).select("text_id", "bits", "tokens", "solved").rows()
    # Rows with at least C bits: of a those of 8 and 16 bits (3 and 3 tokens), of b those of 20 and 40 (2 and 2).
    assert found == [("a", pytest.approx(6, abs=1e-3), 3.0, False), ("b", pytest.approx(12, abs=1e-3), 2.0, False)]


def test_a_text_that_always_fits_shows_its_most_and_says_so():
    solved = TWO.filter(text_id="a").with_columns(correct_with=pl.col("n_scored"))
    found = gains.plateaus(solved, by=BY)
    assert found.select("bits", "tokens", "solved").row(0) == (6.0, 7.0, True)


def test_bits_of_the_vector_kept_stand_in_where_none_were_followed():
    hinge = TWO.with_columns(bits_with_min=pl.lit(None, pl.Float64))
    assert TWO.select(gains.bits_with(TWO)).to_series().to_list() == TWO["bits_with_min"].to_list()
    assert hinge.select(gains.bits_with(hinge)).to_series().to_list() == TWO["bits_with"].to_list()


def test_as_published_worked_by_hand():
    found = {row["unit"]: row for row in gains.as_published(TWO, by=BY).to_dicts()}
    # Failed: a at 5 and 9, b at 5 and 9; each mean gain of a position, times N.
    bits = [6 / 4 * 5, 6 / 8 * 9, 12 / 4 * 5, 12 / 8 * 9]
    tokens = [3 / 4 * 5, 3 / 8 * 9, 2 / 4 * 5, 2 / 8 * 9]
    assert found["bits"]["value"] == pytest.approx(sum(bits) / 4)
    assert found["tokens"]["value"] == pytest.approx(sum(tokens) / 4)
    assert found["bits"]["n"] == found["tokens"]["n"] == 2


def test_as_published_passes_by_accuracy_not_by_exactness():
    long = rows(
        text_id=["a", "b"], length=[201, 201], n_scored=[200, 200], correct_with=[199, 100], correct_without=[0, 0],
        bits_without=[800.0, 800.0], bits_with=[10.0, 400.0], bits_with_min=[10.0, 400.0],
    )  # fmt: skip
    found = gains.as_published(long, by=BY).filter(unit="tokens")
    assert found["value"].item() == pytest.approx(100 / 200 * 201)  # 199 of 200 is above 0.99: not among the failed
    with pytest.raises(ValueError, match="no fit of 1 failed"):
        gains.as_published(long.filter(text_id="a"), by=BY)


def test_given_back_worked_by_hand():
    grown = rows(
        text_id=["a", "a", "a", "b", "c", "c"],
        length=[2, 3, 4, 2, 2, 3],
        decoded_tokens=[2, 3, None, None, 2, 2],
        bits_without=[3.0, 7.0, 9.0, 4.0, 5.0, 11.0],
    )
    # Text b gave nothing back; c's prefix of 3 was decoded to its second token only.
    assert gains.given_back(grown, by=BY).select("text_id", "bits").rows() == [("a", 7.0), ("b", 0.0), ("c", 5.0)]
    twice = pl.concat([grown, grown.with_columns(seed=pl.lit(1, pl.Int64), bits_without=pl.col("bits_without") + 2)])
    assert gains.given_back(twice, by=BY)["bits"].to_list() == [8.0, 0.0, 6.0]


def held(table):
    """Bits held by n vectors {n: bits of each text}."""
    cells = [(n, str(text), bits) for n, every in table.items() for text, bits in enumerate(every)]
    return pl.DataFrame(cells, schema=["n_mem", "text_id", "bits"], orient="row").with_columns(
        model=pl.lit("m"), source=pl.lit("s")
    )


def test_per_vector_worked_by_hand():
    found = gains.per_vector(held({1: [10.0, 20.0], 4: [20.0, 76.0]}))
    assert found.select("n_mem", "value", "share").rows() == [(1, 15.0, 1.0), (4, 12.0, 0.8)]
    assert found["share_low"].to_list() == [None, None]
    one, four = [10.0, 20.0, 15.0, 30.0, 11.0, 25.0], [20.0, 76.0, 60.0, 90.0, 40.0, 88.0]
    found, expected = gains.per_vector(held({1: one, 4: four})), metrics.quotient([bits / 4 for bits in four], one)
    assert found.filter(n_mem=4).select("share_low", "share_high").row(0) == (expected.low, expected.high)
    assert found.filter(n_mem=1).select("share_low", "share_high").row(0) == (1, 1)


def test_vectors_that_hold_n_times_as_much_lose_no_share():
    one = np.random.default_rng(0).uniform(5, 50, 6)
    found = gains.per_vector(held({n: (n * one).tolist() for n in (1, 2, 8)}))
    assert found["share"].to_list() == pytest.approx([1, 1, 1])
    assert found["share_high"].to_list() == pytest.approx([1, 1, 1])
    assert found["value"].to_list() == pytest.approx([one.mean()] * 3)


def test_per_vector_where_one_vector_holds_nothing_of_some_texts_or_of_all():
    some = gains.per_vector(held({1: [0.0, 0.0, 0.0, 8.0], 2: [4.0, 4.0, 4.0, 16.0]})).filter(n_mem=2)
    assert some["share"].item() == pytest.approx(3.5 / 2)
    nothing = gains.per_vector(held({1: [0.0, 0.0], 2: [4.0, 6.0]})).filter(n_mem=2)
    assert nothing.schema == some.schema
    assert nothing.select("value", "share", "share_low").row(0) == (2.5, None, None)


def test_per_vector_needs_one_vector_on_the_same_texts():
    table = held({1: [10.0], 2: [20.0, 30.0]})
    with pytest.raises(ValueError, match="add n_mem 1"):
        gains.per_vector(table)


CALLS = [gains.as_published, gains.plateaus]


@pytest.mark.parametrize("call", CALLS)
def test_order_of_rows_does_not_matter_and_conditions_do_not_mix(call):
    found = call(TWO, by=BY)
    assert call(TWO.sample(fraction=1, shuffle=True, seed=1), by=BY).equals(found)
    other = TWO.with_columns(model=pl.lit("other"), bits_with_min=pl.col("bits_with_min") / 2)
    assert call(pl.concat([other, TWO]), by=BY).filter(model="m").equals(found)


def test_examples_in_the_documentation():
    failed, tried = doctest.testmod(gains)
    assert (failed, tried) == (0, 1)


def test_capacities_are_those_of_the_theory_each_model_once():
    facts = pl.DataFrame({"model": ["b", "a", "b"], "d_model": [768, 64, 768], "vocab_size": [50304, 512, 50304]})
    found = gains.capacities(facts, bits=8)
    assert found["model"].to_list() == ["a", "b", "a", "b"]
    assert found["unit"].to_list() == ["tokens"] * 2 + ["bits"] * 2
    tokens = [theory.token_capacity(64, 512, bits=8), theory.token_capacity(768, 50304, bits=8)]
    assert found["value"].to_list() == pytest.approx([*tokens, 512, 6144])


@pytest.mark.parametrize(
    ("call", "column"),
    [
        (lambda rows: gains.as_published(rows, by=BY), "length"),
        (lambda rows: gains.plateaus(rows, by=BY), "bits_without"),
        (lambda rows: gains.plateaus(rows, by=BY), "n_scored"),
        (lambda rows: gains.token_gain(rows, by=BY), "correct_with"),
        (lambda rows: gains.information_gain(rows, by=BY, least=True), "bits_with_min"),
    ],
)
def test_rows_without_a_column_or_with_text_in_it_are_refused_in_one_sentence(call, column):
    call(TWO)
    with pytest.raises(ValueError, match=rf"the frame has no column {column}; it has .*\. Rename yours, or add them$"):
        call(TWO.drop(column))
    with pytest.raises(ValueError, match=f"the column {column} is of type String, not of numbers; cast it"):
        call(TWO.with_columns(pl.col(column).cast(pl.String)))


def test_capacities_need_numbers_of_each_model():
    facts = pl.DataFrame({"model": ["a"], "d_model": [64], "vocab_size": ["512"]})
    with pytest.raises(ValueError, match="the column vocab_size is of type String"):
        gains.capacities(facts)
    with pytest.raises(ValueError, match="the frame has no column d_model; it has model, vocab_size"):
        gains.capacities(facts.drop("d_model"))


def test_a_source_over_another_is_fiellers_quotient_and_welchs_difference():
    natural, words = [4.0, 6.0, 5.0, 5.0, 3.0, 7.0, 5.0], [8.0, 12.0, 10.0, 9.0, 11.0, 10.0]
    taken = pl.DataFrame({
        "model": ["m"] * 13, "source": ["embedded"] * 7 + ["words"] * 6, "bits": natural + words,
        "text_id": [f"e{n}" for n in range(7)] + [f"w{n}" for n in range(6)],
    })  # fmt: skip
    expected, apart = metrics.quotient(words, natural, paired=False), metrics.difference(words, natural)
    for by in (["model"], []):
        row = gains.over_first(taken, "bits", "embedded", by=by).row(0, named=True)
        assert (row["source"], row["value"], row["n"]) == ("words", expected.value, 6)
        assert (row["low"], row["high"]) == (expected.low, expected.high)
        assert (row["apart"], row["apart_low"], row["apart_high"]) == (apart.value, apart.low, apart.high)
    assert gains.over_first(taken, "bits", "words").row(0, named=True)["source"] == "embedded"
    nobody = gains.over_first(taken, "bits", "books")
    assert (nobody.height, nobody.columns) == (0, gains.over_first(taken, "bits", "embedded").columns)
    unnamed = taken.with_columns(model=pl.lit(None, pl.String))  # a null is a group like another
    assert gains.over_first(unnamed, "bits", "embedded").height == 1


@pytest.mark.parametrize("natural", [[-4.0, -6.0, -5.0, -5.0, -3.0, -7.0], [0.0] * 6, [-1.0, 1.0] * 3])
def test_nothing_is_a_multiple_of_what_is_not_above_0(natural):
    taken = pl.DataFrame({"model": "m", "source": ["a"] * 6 + ["b"] * 6, "bits": natural + [-5.0, -6.0] * 3})
    taken = taken.with_row_index("text_id")
    row = gains.over_first(taken, "bits", "a").row(0, named=True)
    assert math.isnan(row["value"])
    assert (row["low"], row["high"], row["degenerate"]) == (None, None, True)
    assert row["apart"] == pytest.approx(-5.5 - sum(natural) / 6)


def test_sources_of_the_same_texts_are_paired_and_a_text_counts_once():
    """The words of a text in another order are no other sample; two starts of a text are no two texts."""
    own, other = [4.0, 6.0, 5.0, 5.0, 3.0, 7.0], [8.0, 12.0, 10.5, 9.5, 6.0, 14.5]
    ids = list("abcdef")
    taken = pl.DataFrame({
        "source": ["embedded"] * 6 + ["shuffled:embedded"] * 6, "bits": own + other[::-1], "text_id": ids + ids[::-1],
    })  # fmt: skip
    row = gains.over_first(taken, "bits", "embedded", by=[]).row(0, named=True)
    paired = metrics.quotient(other, own)
    assert (row["value"], row["low"], row["high"], row["n"]) == (paired.value, paired.low, paired.high, 6)
    apart = metrics.interval([a - b for a, b in zip(other, own, strict=True)])
    assert (row["apart"], row["apart_low"], row["apart_high"]) == (apart.value, apart.low, apart.high)
    less = gains.over_first(taken[:-1], "bits", "embedded", by=[]).row(0, named=True)  # of one text a fit diverged
    assert less["n"] == 5
    assert less["value"] == pytest.approx(sum(other[1:]) / sum(own[1:]))
    two = pl.concat([taken.with_columns(pl.col("bits") + 1), taken.with_columns(pl.col("bits") - 1)])
    assert gains.over_first(two, "bits", "embedded", by=[]).row(0, named=True) == pytest.approx(row)


def test_columns_of_any_name_are_compared_and_what_cannot_be_is_said():
    taken = pl.DataFrame({
        "over": "m", "every": ["a"] * 6 + ["b"] * 6, "bits": [1.0, 2, 3, 4, 5, 6] * 2, "doc": range(12)
    })  # fmt: skip
    columns = {"by": ["over"], "source": "every", "text_id": "doc"}
    assert gains.over_first(taken, "bits", "a", **columns)["value"].item() == 1
    unknown = taken.with_columns(every=pl.when(pl.col("every") == "b").then(pl.lit(None)).otherwise("every"))
    assert gains.over_first(unknown, "bits", "a", **columns)["every"].to_list() == [None]  # a source like another
    nothing = taken.with_columns(bits=pl.when(pl.col("every") == "b").then("bits"))
    for wrong, says, changes in (
        (nothing, "bits is no finite number in some rows", {}),
        (taken.with_columns(bits=pl.lit(math.inf)), "bits is no finite number in some rows", {}),
        (taken, "name one column twice", {"by": ["bits"]}),
        (taken, "name one column twice", {"by": ["every"]}),
        (taken.rename({"over": "n"}), "by names n, which the result has as columns of its own", {"by": ["n"]}),
    ):
        with pytest.raises(ValueError, match=says):
            gains.over_first(wrong, "bits", "a", **columns | changes)


def test_a_mean_of_nothing_names_the_columns_it_is_of():
    rows = pl.DataFrame({"text_id": ["a", "b"], "bits_with": [1.0, None], "status": ["solved", None]})
    with pytest.raises(ValueError, match=r"what a mean is asked of \(bits_with\) is null in some rows"):
        metrics.mean(rows, pl.col("bits_with") * 2, [])
    filled = rows.with_columns(pl.col("bits_with").fill_null(3.0))
    assert metrics.mean(filled, "bits_with", [])["value"].item() == 2  # how a fit ended may be unknown
