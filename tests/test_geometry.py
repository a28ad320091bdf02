import doctest
import itertools
import math

import numpy as np
import polars as pl
import pytest
import torch

from capacity import geometry


def test_rows_give_their_vectors_in_order():
    rows = pl.DataFrame({"n_mem": [2, 2], "d_model": [3, 3], "mem": [[1, 2, 3, 4, 5, 6], [7, 8, 9, 0, 1, 2]]},
                        schema_overrides={"mem": pl.List(pl.Float32)})  # fmt: skip
    found = geometry.vectors(rows)
    assert found.dtype == np.float32
    assert found.tolist() == [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [0, 1, 2]]]
    with pytest.raises(ValueError, match="1 of 2 rows hold no"):
        geometry.vectors(rows.with_columns(mem=pl.Series([[1.0] * 6, None], dtype=pl.List(pl.Float32))))
    with pytest.raises(ValueError, match=r"2 shapes \(n_mem, d_model\); one is needed"):
        geometry.vectors(rows.with_columns(n_mem=pl.Series([2, 1])))
    with pytest.raises(ValueError, match="no rows"):
        geometry.vectors(rows.clear())


def test_a_texts_own_cosines_worked_by_hand():
    rows = pl.DataFrame({
        "part": ["p", "p", "p", "q", "q"], "text_id": ["x", "x", "y", "x", "x"], "n_mem": 1, "d_model": 2,
        "mem": [[1, 0], [1, 1], [0, 3], [1, 0], [-1, 0]],
    }, schema_overrides={"mem": pl.List(pl.Float32)})  # fmt: skip
    half = math.sqrt(0.5)
    found = geometry.by_text(rows, above=0.7)
    assert found.select("part", "within", "text").rows() == [
        ("p", False, "x"), ("p", False, "y"), ("p", True, "x"), ("q", True, "x"),
    ]  # fmt: skip
    assert found["cosine"].to_list() == pytest.approx([half / 2, half / 2, half, -1])  # of parts by themselves
    assert found["above"].to_list() == [0.5, 0.5, 1, 0]
    assert found["least"].to_list() == pytest.approx([0, 0, half, -1])
    assert found["most"].to_list() == pytest.approx([half, half, half, -1])


def test_cosines_of_a_case_worked_by_hand():
    mem = np.array([[[1, 0]], [[0, 2]], [[3, 3]], [[-5, 0]]], dtype=np.float32)
    found = geometry.cosines(mem, ["x", "x", "y", "x"])
    half = math.sqrt(0.5)
    assert found.select("text", "other", "within").rows() == [
        ("x", "x", True), ("x", "y", False), ("x", "x", True), ("x", "y", False), ("x", "x", True), ("y", "x", False),
    ]  # fmt: skip
    assert found["cosine"].to_list() == pytest.approx([0, half, -1, half, 0, -half])
    for wrong in (0, math.nan, math.inf):
        with pytest.raises(ValueError, match="zero, or not finite"):
            geometry.cosines(np.full((2, 1, 2), wrong, dtype=np.float32), ["x", "x"])


def test_several_vectors_count_as_one_end_to_end():
    mem = np.array([[[1, 0], [0, 1]], [[1, 0], [1, 0]]], dtype=np.float32)
    assert geometry.cosines(mem, ["x", "y"])["cosine"].to_list() == pytest.approx([0.5])


def test_pairs_never_join_two_texts():
    texts = ["b", "a", "b", "c", "b", "a"]
    assert geometry.pairs(texts) == [(1, 5), (0, 2), (0, 4), (2, 4)]
    assert geometry.pairs(texts, chained=True) == [(1, 5), (0, 2), (2, 4)]
    with pytest.raises(ValueError, match="none of 2 texts has two solutions"):
        geometry.pairs(["a", "b"])


def test_a_spectrum_worked_by_hand():
    cross = np.array([[13.0, -7], [7, -7], [10, -6], [10, -8]])  # squares of 18 and 2 about (10, -7)
    shares = geometry.spectrum(cross)
    assert shares.tolist() == pytest.approx([0.9, 0.1])
    assert [geometry.n_components(shares, share) for share in (0.5, 0.9, 0.95, 1.0)] == [1, 1, 2, 2]
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match="share is"):
            geometry.n_components(shares, share)


def test_a_spectrum_is_that_of_the_covariance():
    points = np.random.default_rng(0).normal(size=(9, 30)) * np.arange(1, 31)
    shares = geometry.spectrum(points)
    values = np.linalg.eigvalsh(np.cov(points.T))[::-1][:8]  # nine points span eight dimensions
    assert shares == pytest.approx(values / values.sum())
    assert geometry.n_components(shares, 1.0) == 8
    with pytest.raises(ValueError, match="do not differ"):
        geometry.spectrum(np.ones((3, 2)))


def test_norms_worked_by_hand():
    rising = np.array([[3.0 * k, 4.0 * k] for k in range(21)])  # 0, 5, ..., 100
    found = geometry.norms({"rising": rising, "one": np.array([[0.0, -2.0]])})
    assert found.rows() == [("rising", 21, 0, 5, 50, 95, 100), ("one", 1, 2, 2, 2, 2, 2)]


def test_token_embeddings_are_what_the_model_reads(frozen):
    found = geometry.token_embeddings(frozen)
    assert found.shape == (frozen.vocab_size, frozen.dim)
    for token in (0, 7, frozen.vocab_size - 1):
        assert found[token].tolist() == frozen.embed(torch.tensor([[token]]))[0, 0].tolist()


def test_examples_in_the_documentation():
    failed, tried = doctest.testmod(geometry, extraglobs={"np": np})
    assert (failed, tried) == (0, 3)


def test_a_chain_reaches_every_solution_of_a_text():
    texts = list("abcabcab")
    parts = {place: {place} for place in range(len(texts))}
    for first, second in geometry.pairs(texts, chained=True):
        joined = parts[first] | parts[second]
        parts |= dict.fromkeys(joined, joined)
    for first, second in itertools.combinations(range(len(texts)), 2):
        assert (parts[first] == parts[second]) == (texts[first] == texts[second])
