import doctest
import math

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from readers import fit_rows, reader

from capacity import geometry, precision
from capacity.decoding import free_running, teacher_forced
from capacity.metrics import NothingFound
from capacity.precision import quantiser


def sample(n=3, n_mem=2, dim=8, seed=0):
    return np.random.default_rng(seed).standard_normal((n, n_mem, dim)).astype(np.float32)


@pytest.mark.parametrize("by", precision.SCALES)
@pytest.mark.parametrize("bits", [2, 5, 16])
def test_rounding_is_off_by_half_a_step_at_most(bits, by):
    mem = sample()
    found = precision.quantised(mem, bits, by=by)
    step = precision.scales(mem, bits, by=by)
    assert found.dtype == np.float32
    assert step.shape == ((3, 2, 1) if by == "vector" else (1, 2, 8))
    assert (np.abs(found - mem) <= step / 2 * (1 + 1e-4)).all()
    whole = precision.levels(mem, bits, by=by)
    assert np.abs(whole).max() == 2 ** (bits - 1) - 1
    assert np.array_equal(precision.quantised(found, bits, by=by), found)  # what is rounded stays
    assert (np.abs(found - mem) > step / 8).any()  # the bound is not idle


def test_a_vector_of_zeros_stays_and_wrong_bits_are_refused():
    assert not precision.quantised(np.zeros((1, 1, 4), dtype=np.float32), 4).any()
    for bits, by in ((1, "vector"), (17, "vector"), (8, "text")):
        with pytest.raises(ValueError, match="2 to 16"):
            precision.scales(sample(), bits, by=by)


def test_a_text_breaks_at_a_known_step(tiny):
    # Token 9 wins by 1.0 over 0.9; with 3 bits the steps are thirds, 0.9 becomes 1, and the tie goes to token 7.
    frozen = reader(tiny, {7: 0, 9: 1})
    rows, ids = fit_rows(frozen, {"a": [0.9, 1.0], "b": [0.0, 1.0]}), {"a": [9], "b": [9]}
    mem = np.stack([rows["mem"].to_numpy()[at].astype(np.float32)[None] for at in range(2)])
    found = pl.concat([
        precision.tried(frozen, rows, ids, precision.quantised(mem, bits)).with_columns(bits=pl.lit(bits))
        for bits in (8, 5, 4, 3, 2)
    ])  # fmt: skip
    whole = found.filter(text_id="a")
    assert dict(whole.select("bits", "decoded").iter_rows()) == {8: True, 5: True, 4: True, 3: False, 2: False}
    assert whole["decoded_tokens"].to_list() == [1, 1, 1, 0, 0]
    least = precision.last_passed(found, "bits", by=["text_id"], largest_first=True)
    assert least.sort("text_id").rows() == [("a", 4, "no"), ("b", 2, "all")]
    packed = precision.sizes(frozen, rows, ids, mem, [4, None])
    assert packed["came_back"].to_list() == [True, True]
    assert packed["vector_bytes"][0] == len(precision.packed(mem[0], 4)) < packed["vector_bytes"][1] == 32 * 4
    assert not precision.sizes(frozen, rows[:1], ids, mem[:1], [3])["came_back"].item()


def test_what_other_vectors_make_of_rows_is_what_a_plain_loop_says(tiny):
    mem = torch.randn(2, 1, tiny.dim, generator=torch.Generator().manual_seed(3))
    ids = {"a": free_running(tiny, mem[0], 5), "b": [4, 9, 2, 7, 1]}
    rows = pl.concat([
        fit_rows(tiny, {"a": mem[0, 0].tolist()}, length=5), fit_rows(tiny, {"b": mem[1, 0].tolist()}, length=3)
    ])  # fmt: skip
    found = precision.tried(tiny, rows, ids, mem.numpy())
    for row, own in zip(found.iter_rows(named=True), mem, strict=True):
        text = ids[row["key"]][: row["length"]]
        score = teacher_forced(tiny, own.unsqueeze(0), torch.tensor([text]))
        assert row["bits_with"] == pytest.approx(score.bits[0, 1:].sum(), rel=1e-5)
        assert row["first_bits_with"] == pytest.approx(score.bits[0, 0], rel=1e-5)
        assert (row["correct_with"], row["first_correct"]) == (score.correct[0, 1:].sum(), score.correct[0, 0])
    assert found["decoded"].to_list() == [True, False]
    assert "mem" not in found.columns
    with pytest.raises(ValueError, match="scored_from=1"):
        precision.tried(tiny, rows.with_columns(scored_from=pl.lit(1)), ids, mem.numpy())


def test_what_is_disturbed_is_tried_with_each_way(tiny):
    frozen, ids = reader(tiny, {7: 0, 9: 1}), {"a": [9], "b": [9]}
    rows = fit_rows(frozen, {"a": [0.9, 1.0], "b": [0.2, 1.0]})
    found = precision.disturbed(frozen, rows, ids, bits=[8, 2], by=["vector"], noises=[0.001, 9.0], draws=3)
    ways = [(8, "a scale a vector", None, None), (2, "a scale a vector", None, None)]
    ways += [(None, None, noise, draw) for noise in (0.001, 9.0) for draw in range(3)]
    assert found.select("bits", "scale", "noise", "draw").unique(maintain_order=True).rows() == ways
    mem = geometry.vectors(rows)
    for (n, _, noise, draw), own in found.group_by("bits", "scale", "noise", "draw", maintain_order=True):
        other = precision.quantised(mem, n) if n else precision.blurred(mem, noise, seed=draw)
        tried = precision.tried(frozen, rows, ids, other)
        assert own.select(tried.columns).equals(tried)
    assert found.filter(bits=8)["decoded"].to_list() == [True, True]
    assert found.filter(bits=2)["decoded"].to_list() == [False, True]  # 0.9 becomes 1: a tie, which the first wins


def test_noise_has_its_size_and_its_seed():
    mem = 3 * sample(n=2, n_mem=1, dim=4096)
    found = precision.blurred(mem, 0.1, seed=5)
    for own, noise in zip(mem, found - mem, strict=True):
        assert noise.std() == pytest.approx(0.1 * np.sqrt(np.square(own).mean()), rel=0.05)
    assert np.array_equal(precision.blurred(mem[:1], 0.1, seed=5), found[:1])
    assert not np.array_equal(precision.blurred(mem, 0.1, seed=6), found)
    assert np.array_equal(precision.blurred(mem, 0), mem)


def test_the_channel_worked_by_hand():
    assert precision.snr_bits(1) == 0.5
    assert precision.snr_bits(1 / math.sqrt(15)) == pytest.approx(2)  # SNR 15: ½ log2 16
    assert precision.snr_bits(2**-10) == pytest.approx(10, abs=1e-6)
    for noise in (0, -1, math.nan):
        with pytest.raises(ValueError, match="noise above 0"):
            precision.snr_bits(noise)


def test_the_first_failure_ends_it_and_censoring_is_named():
    passed = {"a": [True, True, False, True], "b": [False, True, True, True], "c": [True] * 4}
    table = pl.DataFrame([
        {"text": text, "noise": noise, "decoded": flag} for text, flags in passed.items()
        for noise, flag in zip([1, 2, 3, 4], flags, strict=True)
    ])  # fmt: skip
    found = precision.last_passed(table.sample(fraction=1, shuffle=True, seed=1), "noise", by=["text"]).sort("text")
    assert found.rows() == [("a", 2, "no"), ("b", None, "none"), ("c", 4, "all")]
    found = precision.last_passed(table, "noise", by=["text"], largest_first=True).sort("text")
    assert found.rows() == [("a", 4, "no"), ("b", 2, "no"), ("c", 1, "all")]
    two = pl.concat([table.filter(text="c"), table.filter(text="c").with_columns(decoded=pl.col("noise") < 3)])
    assert precision.last_passed(two, "noise", by=["text"]).rows() == [("c", 2, "no")]  # every draw has to decode


def test_a_median_takes_the_order_alone():
    found = precision.median([5, 6, 7, None, 6, 6, 5, None, 7], none=math.inf)
    assert (found.value, found.n, found.degenerate) == (6, 9, False)  # 5 5 6 6 6 7 7 inf inf
    assert found.low == 5
    assert found.high == math.inf  # the second from either end: 0.96 of the binomial lies between
    assert precision.median([5, None], none=math.inf).low is None
    assert precision.median([None, None, None], none=math.inf).value == math.inf


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 16), st.integers(0, 99), st.floats(1e-3, 1e3))
def test_packed_vectors_come_back_as_they_were_rounded(bits, seed, size):
    mem = (size * sample(n=1, seed=seed)[0]).astype(np.float32)
    data = precision.packed(mem, bits)
    flat = mem.reshape(1, 1, -1)
    assert np.array_equal(precision.unpacked(data, mem.shape), precision.quantised(flat, bits).reshape(mem.shape))
    assert (len(data) - 7) % 4 == 0


def test_packed_numbers_take_about_their_entropy():
    mem = sample(n=1, n_mem=1, dim=4096)[0]
    whole = precision.levels(mem[None], 6)
    _, counts = np.unique(whole, return_counts=True)
    shares = counts / counts.sum()
    entropy = -(shares * np.log2(shares)).sum() * whole.size / 8
    assert entropy < len(precision.packed(mem, 6)) < 1.02 * entropy + 11 < 6 * whole.size / 8


def test_what_is_not_known_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        precision.quantised(np.array([[[1, math.nan]]], dtype=np.float32), 4)
    with pytest.raises(ValueError, match="decoded is null in 1 rows"):
        precision.last_passed(pl.DataFrame({"text": "a", "bits": [4, 2], "decoded": [True, None]}), "bits", by=["text"])
    with pytest.raises(NothingFound, match="no values"):
        precision.median([], none=math.inf)


def test_doctests():
    assert [doctest.testmod(module).failed for module in (precision, quantiser)] == [0, 0]
    assert doctest.testmod(quantiser).attempted
