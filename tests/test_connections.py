import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import integrate

from capacity import connections, decoding, geometry
from capacity.fitting.recipes import RECIPES
from capacity.models import Frozen

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def solved(tiny):
    """Vectors that are solutions with no fit, and their text: drawn at random, the text is what many decode to."""
    mem = torch.randn(3000, 1, tiny.dim, generator=torch.Generator().manual_seed(0)) * tiny.embedding_std
    with torch.no_grad():
        first = tiny.logits(mem)[:, -1].argmax(-1)
        second = tiny.logits(torch.cat([mem, tiny.embed(first[:, None])], 1))[:, -1].argmax(-1)
    texts, which, counts = torch.stack([first, second], 1).unique(dim=0, return_inverse=True, return_counts=True)
    return mem[which == counts.argmax()][:4], texts[counts.argmax()]


@pytest.fixture(scope="module")
def curves(tiny, solved):
    """Every pair of those solutions, and the curves fitted between them."""
    mem, text = solved
    ends = mem[torch.tensor(geometry.pairs(["a"] * len(mem)))]
    return ends, connections.fit_curves(tiny, ends, text.repeat(len(ends), 1)), text


def test_a_curve_worked_by_hand():
    corner = torch.tensor([[[[0.0, 0.0]], [[1.0, 2.0]], [[2.0, 0.0]]]])  # a parabola with its top at (1, 1)
    at = torch.tensor([0.0, 0.25, 0.5, 1.0])
    assert connections.bezier(corner, at)[0, :, 0].tolist() == [[0, 0], [0.5, 0.75], [1, 1], [2, 0]]
    line = corner[:, [0, 2]]
    assert connections.bezier(line, at)[0, :, 0].tolist() == [[0, 0], [0.5, 0], [1, 0], [2, 0]]
    length, _ = integrate.quad(lambda t: math.hypot(2, 4 - 8 * t), 0, 1)
    assert connections.length_ratios(corner)[0] == pytest.approx(length / 2, rel=1e-5)
    assert connections.length_ratios(line)[0] == pytest.approx(1)
    with pytest.raises(ValueError, match="the same"):
        connections.length_ratios(corner[:, [0, 0]])


@pytest.mark.parametrize("scored_from", [0, 1])
def test_accuracy_along_a_path_is_that_of_each_point_alone(tiny, monkeypatch, scored_from):
    monkeypatch.setattr(connections, "_BATCH", 7)  # batches that end within a path
    generator = torch.Generator().manual_seed(1)
    controls = torch.randn(3, 2, 2, tiny.dim, generator=generator)
    ids = torch.randint(tiny.vocab_size, (3, 3), generator=generator)
    ids[:, 0] = tiny.logits(controls[:, 0])[:, -1].argmax(-1)  # right at one end
    found = connections.accuracy(tiny, controls, ids, points=9, scored_from=scored_from)
    for (first, last), text, row in zip(controls, ids, found, strict=True):
        for k, share in enumerate(row):
            point = first + (last - first) * k / 8
            score = decoding.teacher_forced(tiny, point.unsqueeze(0), text.unsqueeze(0))
            assert share == score.correct[0, scored_from:].mean()
    assert found.any() == (scored_from == 0)
    with pytest.raises(ValueError, match="points is 1"):
        connections.accuracy(tiny, controls, ids, points=1)


def test_a_table_of_paths_has_a_row_a_point():
    found = connections.table("line", [(0, 2), (1, 3)], ["x", "y", "x", "y"], np.array([[1, 0.5, 1], [1, 0, 1]]))
    assert found.rows() == [
        ("x", "line", "0-2", 0.0, 1.0), ("x", "line", "0-2", 0.5, 0.5), ("x", "line", "0-2", 1.0, 1.0),
        ("y", "line", "1-3", 0.0, 1.0), ("y", "line", "1-3", 0.5, 0.0), ("y", "line", "1-3", 1.0, 1.0),
    ]  # fmt: skip


def test_a_fitted_curve_joins_what_a_line_does_not(tiny, curves):
    ends, fitted, text = curves
    ids = text.repeat(len(ends), 1)
    lines = connections.accuracy(tiny, ends, ids, points=97)
    along = connections.accuracy(tiny, fitted, ids, points=97)
    assert lines[:, [0, -1]].min() == 1  # the ends are solutions
    assert lines.min() < 1
    assert along.min() == 1
    assert torch.equal(fitted[:, [0, 2]], ends)
    bent = ~torch.isclose(fitted[:, 1], ends.mean(1)).flatten(1).all(1).numpy()
    assert (bent == (lines.min(1) < 1)).all()  # a line that holds is left as it is
    assert (connections.length_ratios(fitted)[bent] > 1.01).all()


def test_a_curve_does_not_depend_on_its_company(tiny, curves):
    ends, fitted, text = curves
    alone = connections.fit_curves(tiny, ends[3:4], text.repeat(1, 1))
    assert torch.equal(alone[0], fitted[3])


def test_a_step_descends_the_loss_as_a_plain_loop_does(frozen):
    recipe = RECIPES["paper"]
    generator = torch.Generator().manual_seed(2)
    ends = torch.randn(1, 2, 2, frozen.dim, generator=generator) * frozen.embedding_std
    ids = torch.randint(frozen.vocab_size, (1, 4), generator=generator)
    *_, found = connections._descend(frozen, ends, ids, recipe, steps=2, scored_from=1, seed=5)
    unit = torch.sqrt(torch.mean((ends[0, 1] - ends[0, 0]) ** 2))
    offset = torch.zeros(1, 2, frozen.dim, requires_grad=True)
    adam = torch.optim.Adam([offset], lr=0.03)
    draws = torch.Generator().manual_seed(5)
    for _ in range(2):
        middle = (ends[:, 0] + ends[:, 1]) / 2 + unit * offset
        shift, loss = torch.rand(1, generator=draws), torch.zeros(())
        for k in range(8):
            t = (k + shift) / 8
            mem = (1 - t) ** 2 * ends[:, 0] + 2 * t * (1 - t) * middle + t**2 * ends[:, 1]
            embeds = torch.cat([mem, frozen.embed(ids)], 1)
            logits = frozen.model(inputs_embeds=embeds).logits[0, 2:-1]  # those that predict t2 to t4
            loss = loss + torch.nn.functional.cross_entropy(logits, ids[0, 1:]) / 8
        adam.zero_grad()
        loss.backward()
        adam.step()
    middle = (ends[:, 0] + ends[:, 1]) / 2 + unit * offset
    assert torch.allclose(found, middle, atol=1e-5)


def test_a_relative_recipe_is_taken_in_units_of_the_model(tiny, curves):
    ends, _, text = curves
    recipe = RECIPES["default"]
    assert recipe.relative
    first, second = (
        connections.fit_curves(tiny, ends[3:4], text.repeat(1, 1), recipe=one, steps=10)
        for one in (recipe, recipe.scaled_to(tiny))
    )
    assert torch.equal(first, second)


def test_a_curve_with_no_steps_is_the_line(tiny, solved):
    mem, text = solved
    ends = mem[:2].unsqueeze(0)
    fitted = connections.fit_curves(tiny, ends, text.unsqueeze(0), steps=0)
    assert torch.equal(fitted[0, 1], (mem[0] + mem[1]) / 2)
    assert connections.length_ratios(fitted)[0] == pytest.approx(1)


def test_curves_where_memory_is_short_are_the_curves(tiny, curves, monkeypatch):
    ends, fitted, text = curves
    ids = text.repeat(len(ends), 1)
    whole = connections.fit_curves(tiny, ends, ids, steps=10)
    monkeypatch.setattr(connections, "rows_of_chunk", lambda frozen: 3 * ids.shape[1])  # three inputs' logits at a time
    torch.testing.assert_close(connections.fit_curves(tiny, ends, ids, steps=10), whole, atol=1e-4, rtol=0)
    sizes, hidden = [], Frozen.hidden

    def limited(self, embeds):
        if embeds.requires_grad:
            sizes.append(len(embeds))
            if len(embeds) > 2 * connections._DRAWS:
                raise RuntimeError("CUDA error: out of memory")
        return hidden(self, embeds)

    monkeypatch.setattr(Frozen, "hidden", limited)
    found = connections.fit_curves(tiny, ends, ids, steps=10)
    assert found.shape == fitted.shape
    assert sizes[0] > 16
    assert sizes[-1] <= 16
    torch.testing.assert_close(found, whole, atol=1e-4, rtol=0)


def test_texts_of_several_lengths_have_what_each_has_alone(loaded):
    frozen, ids = loaded["llama"], [[5, 6, 7], [8, 9], [10, 11, 12], [13, 14]]
    controls = torch.randn(4, 2, 1, frozen.dim, generator=torch.Generator().manual_seed(0)) * frozen.embedding_std
    score = partial(connections.accuracy, frozen, points=5)
    found = connections.by_length(score, controls, ids)
    for place, text in enumerate(ids):
        assert found[place].tolist() == score(controls[place : place + 1], torch.tensor([text]))[0].tolist()
    bent = connections.by_length(partial(connections.fit_curves, frozen, steps=1), controls, ids)
    assert torch.equal(torch.stack(bent)[:, [0, 2]], controls)
