import doctest
import itertools
from copy import deepcopy

import gguf
import numpy as np
import polars as pl
import pytest
import torch
from readers import fit_rows, reader

from capacity import determinism, ledgers, precision
from capacity.decoding import free_running, teacher_forced
from capacity.determinism import Condition, areas


def test_a_margin_that_predicts_perfectly_and_one_that_predicts_nothing():
    found = determinism.auc([0.1] * 5, [0.2] * 5)
    assert (found.value, found.high, found.n, found.degenerate) == (1.0, 1.0, 10, False)
    assert 0.6 < found.low < 0.7  # (1 - a) mn = z² a (1 + 4 (1 - a) / (2 - a) + 4 a / (1 + a)) at a = 0.645
    a = found.low
    assert (1 - a) * 25 == pytest.approx(1.959964**2 * a * (1 + 4 * (1 - a) / (2 - a) + 4 * a / (1 + a)), rel=1e-4)
    assert determinism.auc([0.2] * 5, [0.1] * 5).value == 0
    ties = determinism.auc([1.0] * 6, [1.0] * 6)
    assert ties.value == 0.5
    assert ties.low == pytest.approx(1 - ties.high)


def test_auc_is_the_share_of_pairs_in_order_and_wants_both_outcomes():
    broken, kept = [0.1, 0.4, 0.35, 0.8, 0.3], [0.9, 0.3, 0.5, 0.6, 0.7, 0.2]
    pairs = [(a < b) + (a == b) / 2 for a, b in itertools.product(broken, kept)]
    found = determinism.auc(broken, kept)
    assert found.value == pytest.approx(sum(pairs) / len(pairs))
    assert found.low < found.value < found.high
    assert determinism.auc(broken[:4], kept).low is None
    assert determinism.auc([], kept).degenerate


def test_q8_0_is_that_of_gguf():
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    weight[0, :32] = 0
    packed = gguf.quants.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q8_0)
    assert np.array_equal(determinism.q8_0(weight), gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0))


def test_rounding_leaves_the_model_and_its_vectors_of_one_axis(tiny):
    before = deepcopy(tiny.model.state_dict())
    for how in determinism.ROUNDINGS:
        other = determinism.rounded(tiny, how)
        assert other.quantisation == how
        assert 0 < determinism.moved(tiny, other) < 0.01
        assert determinism.moved(other, determinism.rounded(other, how)) < 1e-4  # it was in that form already
        assert torch.equal(other.model.model.norm.weight, tiny.model.model.norm.weight)
        assert torch.equal(other.weight, determinism.ROUNDINGS[how](tiny.weight))
    assert determinism.moved(tiny, tiny) == 0
    assert all(torch.equal(own, before[name]) for name, own in tiny.model.state_dict().items())


def test_decoded_again_the_same_is_unchanged_and_another_model_changes(tiny):
    one, other = reader(tiny, {7: 0, 9: 1}), reader(tiny, {9: 0, 7: 1})
    ids = {"a": [9], "b": [9]}
    rows = fit_rows(one, {"a": [0.9, 1.0], "b": [0.2, 1.0]})
    how = {"reference": Condition(frozen=one), "again": Condition(frozen=one, at_once=2, cache=False, threads=2),
           "swapped": Condition(frozen=other)}  # fmt: skip
    threads = torch.get_num_threads()
    found = determinism.again(rows, ids, how)
    assert torch.get_num_threads() == threads
    assert found.select("condition", "decoded_tokens", "unchanged").rows() == [
        ("reference", 1, True), ("reference", 1, True), ("again", 1, True), ("again", 1, True),
        ("swapped", 0, False), ("swapped", 0, False),
    ]  # fmt: skip
    assert found["decoded"].to_list() == [[9]] * 4 + [[7]] * 2
    least = determinism.least_margins(one, rows, ids)["margin"].to_list()
    size = [((0.81 + 1) / 32) ** 0.5, ((0.04 + 1) / 32) ** 0.5]  # of the last norm
    assert least == pytest.approx([0.1 / size[0], 0.8 / size[1]], rel=1e-4)


def test_conditions_begin_with_the_reference_and_its_control(tiny):
    how = determinism.conditions(tiny, tiny)
    assert list(how)[:2] == ["reference", "the same again"]
    assert how["reference"] == how["the same again"]
    assert how["no cache"].cache is False
    assert how["weights rounded to Q8_0"].frozen.quantisation == "Q8_0"


def test_in_every_way_says_what_moved_and_how_large_the_margin_was(tiny):
    frozen, ids = reader(tiny, {7: 0, 9: 1}), {"a": [9], "b": [9]}
    rows = fit_rows(frozen, {"a": [0.9, 1.0], "b": [0.2, 1.0]})
    half = reader(tiny, {7: 1, 9: 0})  # in the place of the model in bfloat16: it decodes to the other token
    found = determinism.in_every_way(frozen, half, rows, ids)
    ways = determinism.conditions(frozen, half)
    assert found["condition"].unique(maintain_order=True).to_list() == list(ways)
    assert found.height == 2 * len(ways)
    alone = determinism.again(rows, ids, ways)
    assert found.select(alone.columns).equals(alone)
    assert found.filter(pl.col("condition").str.starts_with("bfloat16"))["unchanged"].to_list() == [False] * 4
    margins = determinism.least_margins(frozen, rows, ids)["margin"].to_list()
    assert found["margin"].to_list() == margins * len(ways)
    moved = {name: determinism.moved(frozen, way.frozen) for name, way in ways.items()}
    assert dict(found.select("condition", "moved").iter_rows()) == moved
    assert moved["bfloat16"] > 0 == moved["no cache"]


@pytest.mark.parametrize("begin", [0, 1])
def test_tokens_right_by_three_counts(tiny, begin):
    mem = torch.randn(1, tiny.dim, generator=torch.Generator().manual_seed(3))
    text = free_running(tiny, mem, 6, given=[5][:begin])
    text[3] = (text[3] + 1) % 300
    rows = fit_rows(tiny, {"a": mem[0].tolist()}, length=6, scored_from=begin)
    score = teacher_forced(tiny, mem.unsqueeze(0), torch.tensor([text]))
    found = determinism.freely(tiny, rows, {"a": [*text, 1]}).row(0, named=True)
    assert (found["n_scored"], found["leading"], found["in_place"]) == (6 - begin, 3 - begin, 5 - begin)
    assert found["forced"] == score.correct[0, begin:].sum()
    counts = {token: 10 + place for place, token in enumerate(text)}
    tokens = determinism.errors(tiny, rows, {"a": text}, counts)
    assert tokens["position"].to_list() == list(range(1 + begin, 7))
    assert tokens["wrong"].to_list() == (~score.correct[0, begin:]).tolist()
    assert tokens["frequency"].to_list() == [counts[token] for token in text[begin:]]
    alone = teacher_forced(tiny, None, torch.tensor([text])).bits[0, begin:]
    assert np.allclose(tokens["surprisal_bits"].cast(float).to_numpy(), alone, rtol=1e-5, equal_nan=True)
    assert tokens["surprisal_bits"].null_count() == 1 - begin
    margins = determinism.margins(tiny, rows, {"a": text})[0]
    assert ((margins > 0) == score.correct[0, begin:]).all()


def test_errors_within_a_text_are_compared_with_its_own_right_tokens():
    place = {"model": "m", "source": "s", "scored_from": 0, "length": 4}
    wrong = {"a": [False, True, False, True], "b": [True] * 4, "c": [True, False, False, False]}
    tokens = pl.DataFrame([
        place | {"text_id": text, "position": at + 1, "wrong": own[at], "surprisal_bits": [None, 5.0, 1.0, 2.0][at]}
        for text, own in wrong.items() for at in range(4)
    ]).select(*determinism.PLACE, "position", "wrong", "surprisal_bits")  # fmt: skip
    found = determinism.auc_within(tokens, "position")
    assert dict(found.select("text_id", "value").iter_rows()) == {"a": 3 / 4, "c": 0.0}
    found = determinism.auc_within(tokens, "surprisal_bits")  # t1, which has none, was the only wrong one of c
    assert dict(found.select("text_id", "value").iter_rows()) == {"a": 1.0}
    assert determinism.auc_within(tokens.clear(), "position").is_empty()


def test_the_longest_that_decodes_and_the_last_that_failed():
    rows = pl.DataFrame({
        "key": ["b", "a", "a", "a", "a"], "probe": [0, 0, 1, 2, 3], "length": [1, 1, 2, 3, 4],
        "decoded_tokens": [None, 1, 2, 2, None], "status": ["diverged", "solved", "solved", "solved", "stalled"],
        "n_scored": [1, 1, 2, 3, 4], "correct_with": [0, 0, 1, 2, 2], "first_correct": [None, True, True, True, True],
        "scored_from": [0] * 5,
    })  # fmt: skip
    assert determinism.longest(rows).select("key", "length").rows() == [("a", 2)]
    assert determinism.last_exact(rows).select("key", "length").rows() == [("a", 3)]
    assert determinism.last_failed(rows).select("key", "length").rows() == [("a", 4)]


def test_rows_given_and_predicted_are_not_mixed(tiny):
    both = pl.concat([fit_rows(tiny, {"a": [0.0] * 32}, scored_from=begin) for begin in (0, 1)])
    with pytest.raises(ValueError, match="some rows have t1 given"):
        determinism.freely(tiny, both, {"a": [1, 2]})
    with pytest.raises(ValueError, match="no rows"):
        determinism.freely(tiny, both.clear(), {})


def test_vectors_are_decoded_by_the_model_that_they_were_fitted_to_as_it_reads(tiny):
    rows, ids = fit_rows(tiny, {"a": [0.5] * 32}).with_columns(bits_without=0.0), {"a": [1]}
    own = rows.with_columns(bos=pl.lit(tiny.bos), revision=pl.lit(tiny.revision))
    assert determinism.freely(tiny, own, ids).height == 1
    for column, value in (("bos", "before_mem"), ("revision", "another")):
        other = own.with_columns(pl.lit(value).alias(column))
        for look in (
            lambda rows: determinism.freely(tiny, rows, ids), lambda rows: determinism.margins(tiny, rows, ids),
            lambda rows: determinism.errors(tiny, rows, ids, {}),
            lambda rows: determinism.again(rows, ids, {"reference": Condition(frozen=tiny)}),
            lambda rows: determinism.in_every_way(tiny, tiny, rows, ids),
            lambda rows: precision.disturbed(tiny, rows, ids, bits=[8]),
            lambda rows: ledgers.held(tiny, rows.with_columns(decoded_tokens=1, text_index=0)),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=f"has {column} .*fitted with '{value}'; load the model as the rows"):
                look(other)
        some = pl.concat([own, other.with_columns(pl.lit(None, pl.String).alias(column))])  # nobody knows of which
        with pytest.raises(ValueError, match=f"has {column} .*fitted with None"):
            determinism.margins(tiny, some, ids)


def test_a_number_that_is_none_tells_nothing_apart():
    with pytest.raises(ValueError, match="NaN"):
        determinism.auc([1.0, float("nan")], [2.0])


def test_doctests():
    assert doctest.testmod(areas) == (0, 1)
