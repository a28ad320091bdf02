import math

import polars as pl
import pytest
from scipy import stats

from capacity import gains, metrics

BY = ["model", "source"]


def rows(**columns):
    n = max(len(column) for column in columns.values() if isinstance(column, list))
    same = {"model": "m", "source": "random_tokens:2", "scored_from": 0, "seed": 0, "source_first_bits": 1.0}
    same |= {"source_token_bits": 1.0}
    same |= {"status": "solved"} | columns
    return pl.DataFrame({name: value if isinstance(value, list) else [value] * n for name, value in same.items()})


def test_a_text_of_two_tokens_certifies_a_bit_a_token():
    drawn = rows(text_id=[str(n) for n in range(8)], length=20, source_bits_low=20.0, decoded_tokens=[20] * 8)
    found = gains.certified_at(drawn, by=BY).row(0, named=True)
    assert (found["length"], found["value"], found["high"], found["n"]) == (20, 20.0, 20.0, 8)
    assert found["low"] == pytest.approx(20 + math.log2(0.025 ** (1 / 8)))  # Clopper and Pearson, all of 8
    given = gains.certified_at(drawn.with_columns(scored_from=1), by=BY)
    assert given["value"].item() == 19  # t1 was given


def test_every_drawn_text_counts_at_a_fixed_length():
    back = [20, 20, 7, None, None, None, None, None]
    status = ["solved", "solved", "solved", "budget", "stalled", "diverged", "oom", "budget"]
    drawn = rows(text_id=list("abcdefgh"), length=20, source_bits_low=20.0, decoded_tokens=back, status=status)
    found = gains.certified_at(drawn, by=BY).row(0, named=True)
    assert (found["value"], found["n"], found["n_decoded"]) == (18.0, 8, 2)  # a quarter of them: 2 bits less
    ends = stats.binomtest(2, 8).proportion_ci(method="exact")
    assert (found["low"], found["high"]) == pytest.approx((20 + math.log2(ends.low), 20 + math.log2(ends.high)))
    none = gains.certified_at(drawn.with_columns(decoded_tokens=pl.lit(3)), by=BY).row(0, named=True)
    assert (none["value"], none["low"], none["n_decoded"]) == (None, None, 0)
    assert none["high"] == pytest.approx(20 + math.log2(1 - 0.025 ** (1 / 8)))
    few = gains.certified_at(drawn.head(5), by=BY).row(0, named=True)
    assert (few["value"], few["low"], few["high"]) == (20 + math.log2(2 / 5), None, None)


def test_lengths_that_were_chosen_pay_for_the_choice():
    texts = rows(
        text_id=list("abcdef"), key=list("abcdef"), probe=0, length=[10, 12, 14, 10, 12, 15], limit=31, budget=100,
        decoded_tokens=[10, 12, 14, 10, 12, None], status=["solved"] * 5 + ["diverged"],
        source_bits_low=[10.0, 12, 14, 10, 12, 15],
    )  # fmt: skip
    found = gains.certified_lengths(texts, by=BY).row(0, named=True)
    expected = metrics.interval([length - 5.0 for length in (10, 12, 14, 10, 12, 0)])  # one of 32 lengths: 5 bits
    assert (found["value"], found["low"], found["high"]) == pytest.approx((29 / 3 - 5, expected.low, expected.high))
    assert found["n"] == 6
    assert gains.certified_lengths(texts.head(1), by=BY)["low"].item() is None
    unnamed = texts.with_columns(model=pl.lit(None, pl.String))  # a null is a group like another
    for by, of in ((BY, unnamed), ([], texts)):
        assert gains.certified_lengths(of, by=by)["value"].item() == found["value"]


@pytest.mark.parametrize(("column", "value"), [("limit", None), ("scored_from", None), ("limit", 3.5), ("limit", -1)])
def test_numbers_that_certify_nothing_are_refused_by_name(column, value):
    texts = rows(
        text_id=list("ab"), key=list("ab"), probe=0, length=10, limit=31, budget=100, decoded_tokens=10,
        source_bits_low=10.0,
    ).with_columns(pl.lit(value).alias(column))  # fmt: skip
    with pytest.raises(ValueError, match=f"{column} is {value} in some rows; whole numbers from 0 on are allowed"):
        gains.certified_lengths(texts, by=BY)
    if column == "scored_from":
        with pytest.raises(ValueError, match="scored_from is None in some rows"):
            gains.certified_at(texts, by=BY)


def test_information_is_what_the_source_spent_less_what_is_charged():
    texts = rows(
        text_id=list("abcdef"), length=11, scored_from=1, source_bits_low=11.0, bits_with=[4.0, 4, 4, 4, 4, 10],
        first_bits_with=0.5,
    )  # fmt: skip
    found = gains.certified_information(texts, by=BY).row(0, named=True)
    expected = metrics.interval([6.0] * 5 + [0.0])  # 11 bits, of which t1's 1 was given
    assert (found["value"], found["low"], found["high"]) == pytest.approx((5, expected.low, expected.high))
    predicted = gains.certified_information(texts.with_columns(scored_from=0), by=BY)
    assert predicted["value"].item() == pytest.approx(11 - 5 - 0.5)
    over = gains.certified_information(texts.with_columns(bits_with=pl.lit(30.0)), by=BY)
    assert over["value"].item() == -20  # not clipped


def test_what_is_not_known_or_not_drawn_evenly_is_refused():
    texts = rows(text_id=list("ab"), length=4, source_bits_low=[4.0, None], decoded_tokens=4, bits_with=1.0)
    for call in (gains.certified_at, gains.certified_information):
        with pytest.raises(
            ValueError, match=r"\['source_bits_low'\] are not known of all rows of \['random_tokens:2'\]"
        ):
            call(texts, by=BY)
    with pytest.raises(ValueError, match="are not drawn evenly; give random_tokens"):
        gains.certified_at(texts.head(1).with_columns(source_bits_low=pl.lit(3.5)), by=BY)


def test_a_bos_that_is_the_texts_own_holds_nothing():
    """Of 9 tokens that come back 8 were drawn, whether the first is given or not."""
    led = rows(
        text_id=list("abcdef"), key=list("abcdef"), probe=0, length=9, limit=15, budget=100, decoded_tokens=9,
        bos="after_mem", source_bits_low=8.0, source_first_bits=0.0, bits_with=2.0, first_bits_with=0.5,
    )  # fmt: skip
    for scored_from, charged in ((0, 2.5), (1, 2.0)):
        of = led.with_columns(scored_from=pl.lit(scored_from))
        assert gains.certified_at(of, by=BY)["value"].item() == 8
        assert gains.certified_lengths(of, by=BY)["value"].item() == 8 - 4
        assert gains.certified_information(of, by=BY)["value"].item() == 8 - charged


def test_a_search_that_tried_more_than_its_most_or_ended_unknown_is_refused():
    texts = rows(
        text_id=list("ab"), key=list("ab"), probe=0, length=10, limit=31, budget=100, decoded_tokens=10,
        source_bits_low=10.0,
    )  # fmt: skip
    with pytest.raises(ValueError, match="length is 10 where limit is 9"):
        gains.certified_lengths(texts.with_columns(limit=pl.lit(9)), by=BY)
    with pytest.raises(ValueError, match="status is null in some rows"):
        gains.certified_lengths(texts.with_columns(status=pl.lit(None, pl.String)), by=BY)
    at = gains.certified_at(texts, by=[*BY, "length"])
    assert at.columns[:3] == [*BY, "length"]
    with pytest.raises(ValueError, match="the column source_first_bits is of type String"):
        gains.certified_at(texts.with_columns(source_first_bits=pl.lit("1")), by=BY)
    with pytest.raises(ValueError, match="are not drawn evenly"):  # words, even of a token each
        gains.certified_at(texts.with_columns(source_token_bits=pl.lit(None, pl.Float64)), by=BY)


def test_what_did_not_finish_is_of_the_same_source_or_refused():
    """Their tokens' bits would be taken for those of the texts that came back."""
    two = rows(text_id=list("abcdef"), length=20, source_bits_low=20.0, decoded_tokens=[20] * 6)
    big = two.with_columns(
        source=pl.lit("random_tokens:64"), source_bits_low=pl.lit(120.0), status=pl.lit("oom"),
        source_token_bits=pl.lit(6.0), source_first_bits=pl.lit(6.0), decoded_tokens=pl.lit(None, pl.Int64),
    )  # fmt: skip
    with pytest.raises(ValueError, match="rows to be pooled differ in source"):
        gains.certified_at(pl.concat([big, two]), by=["model"])


def test_lengths_and_groups_that_were_chosen_after_looking_certify_nothing():
    texts = rows(
        text_id=list("abcdef"), key=list("abcdef"), probe=0, length=[5, 7, 9, 11, 30, 30], limit=31, budget=100,
        decoded_tokens=[5, 7, 9, 11, 30, 30], source_bits_low=[5.0, 7, 9, 11, 30, 30], bits_with=0.0,
        first_bits_with=0.0,
    )  # fmt: skip
    for by in (BY, []):
        with pytest.raises(metrics.NothingFound, match="lengths have other texts"):
            gains.certified_at(texts, by=by)
    with pytest.raises(ValueError, match="lengths that a search chose are no fixed ones"):
        gains.certified_information(texts.with_columns(search=pl.lit("grow")), by=BY)
    for call in (gains.certified_at, gains.certified_lengths, gains.certified_information):
        for name in ("status", "decoded_tokens"):
            with pytest.raises(ValueError, match=f"by names {name}, known only after a fit"):
                call(texts, by=[*BY, name])
    with pytest.raises(ValueError, match="by names length, known only after a fit"):
        gains.certified_lengths(texts, by=[*BY, "length"])
    with pytest.raises(ValueError, match="the column status is of type Int"):
        gains.certified_lengths(texts.with_columns(status=pl.lit(1)), by=BY)
