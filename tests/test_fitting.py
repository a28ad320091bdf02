"""Fits against a plain loop, alone and in company."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from inputs import random_ids
from torch import Tensor
from torch.nn import functional

from capacity import fitting, models
from capacity.decoding import decoded_tokens, free_running, teacher_forced
from capacity.fitting import RECIPES, Fit, Recipe, fit, start
from capacity.fitting.crammed import rows_of_ids
from capacity.fitting.losses import LOSSES
from capacity.fitting.slots import bucket_of
from capacity.models import Frozen, ModelError

HINGE = Recipe(loss="hinge", margin=0.05, lr=0.1, steps=1000, patience=500)
FAST = dataclasses.replace(HINGE, steps=40)
SAME = ("status", "steps", "n_correct", "n_scored", "bits_min", "curve")
STILL = Recipe(loss="hinge", margin=0.05, lr=0.0, patience=7)  # never moves


@dataclass
class Trace:
    """What a plain loop saw before each step, and what it kept."""

    nats: list[list[float]] = field(default_factory=list)  # of every token
    n_right: list[int] = field(default_factory=list)  # scored positions
    best: Tensor | None = None
    status: str = "stalled"


def loss_of(recipe: Recipe, logits: Tensor, target: Tensor) -> Tensor:
    if recipe.loss == "cross_entropy":
        return functional.cross_entropy(logits, target, reduction="none")
    others = logits.masked_fill(functional.one_hot(target, logits.shape[-1]).bool(), float("-inf"))
    lack = torch.relu(recipe.margin - logits.gather(-1, target[:, None])[:, 0] + others.amax(-1))
    return {"hinge": lack, "squared_hinge": lack**2 / 2}[recipe.loss]


def plain(frozen: Frozen, ids: list[int], recipe: Recipe, *, n_mem: int, scored_from: int) -> Trace:
    """Return the trace of the published procedure with a recipe's loss and rates: one text, step by step."""
    trace, target = Trace(), torch.tensor(ids)
    mem = start(frozen, ids, n_mem=n_mem, seed=0).requires_grad_()
    optimizer = torch.optim.AdamW([mem], lr=recipe.lr, betas=(0.9, 0.9), weight_decay=0.01)
    text = frozen.model.get_input_embeddings()(target)
    for step in range(recipe.steps + 1):
        logits = frozen.model(inputs_embeds=torch.cat([mem, text]).unsqueeze(0)).logits[0, n_mem - 1 : -1]
        nats = functional.cross_entropy(logits, target, reduction="none")
        n_right = int((logits.argmax(-1) == target)[scored_from:].sum())
        if n_right > max(trace.n_right, default=-1):
            trace.best = mem.detach().clone()
        trace.nats.append(nats.tolist())
        trace.n_right.append(n_right)
        if n_right == len(ids) - scored_from:
            trace.status = "solved"
        if trace.status == "solved" or step == recipe.steps:
            return trace
        optimizer.zero_grad()
        loss_of(recipe, logits, target)[scored_from:].mean().backward()
        optimizer.step()
    raise AssertionError


def check(found: Fit, trace: Trace, *, scored_from: int, atol: float) -> None:
    (curve,) = found.curve
    nats = np.array(trace.nats)[:, scored_from:].sum(axis=1)
    assert len(curve.bits) == len(nats)
    assert np.abs(np.array(curve.bits) * np.log(2) - nats).max() < atol
    assert curve.right == trace.n_right
    assert (found.status, found.steps) == ([trace.status], [len(nats) - 1])
    assert found.n_correct == [max(trace.n_right)]
    torch.testing.assert_close(found.mem[0], trace.best, atol=atol, rtol=0)


def test_the_published_recipe() -> None:
    recipe = RECIPES["paper"]
    assert (recipe.loss, recipe.lr, recipe.betas, recipe.weight_decay) == ("cross_entropy", 0.01, (0.9, 0.9), 0.01)
    assert (recipe.steps, recipe.patience) == (5000, 2000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "n_mem", "scored_from", "steps"),
    [
        ("llama", 1, 0, 100), ("llama", 1, 1, 100), ("llama", 2, 0, 100), ("llama", 2, 1, 100),
        ("opt", 1, 1, 20), ("gemma", 1, 0, 20),
    ],
)  # fmt: skip
def test_the_published_recipe_is_a_plain_loop(
    kind: str, n_mem: int, scored_from: int, steps: int, loaded: dict[str, Frozen]
) -> None:
    (ids,) = random_ids(7)
    recipe = dataclasses.replace(RECIPES["paper"], steps=steps)
    trace = plain(loaded[kind], ids, recipe, n_mem=n_mem, scored_from=scored_from)
    assert (len(trace.nats), trace.status) == (steps + 1, "stalled")  # otherwise too easy to show anything
    if kind == "llama":  # the best is not the first
        assert trace.n_right.index(max(trace.n_right)) > 0
    found = fit(loaded[kind], [ids], recipe, n_mem=n_mem, scored_from=scored_from, trace=True)
    check(found, trace, scored_from=scored_from, atol=1e-4)
    assert found.bits_min == [pytest.approx(min(sum(nats[1:]) for nats in trace.nats) / np.log(2), abs=1e-3)]


@pytest.mark.parametrize("scored_from", [0, 1])
def test_it_stops_at_the_first_exact_score_before_a_step(scored_from: int, tiny: Frozen) -> None:
    (ids,) = random_ids(3, seed=1)
    trace = plain(tiny, ids, RECIPES["paper"], n_mem=4, scored_from=scored_from)
    assert trace.status == "solved"
    assert len(trace.nats) > 5
    found = fit(tiny, [ids], RECIPES["paper"], n_mem=4, scored_from=scored_from, trace=True)
    check(found, trace, scored_from=scored_from, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gemma"])
@pytest.mark.parametrize("recipe", [FAST, RECIPES["default"]], ids=["hinge", "default"])
def test_other_recipes_are_a_plain_loop(recipe: Recipe, kind: str, loaded: dict[str, Frozen]) -> None:
    (ids,) = random_ids(5)
    recipe = dataclasses.replace(recipe, steps=15)
    trace = plain(loaded[kind], ids, recipe.scaled_to(loaded[kind]), n_mem=1, scored_from=0)
    found = fit(loaded[kind], [ids], recipe, trace=True)
    check(found, trace, scored_from=0, atol=1e-3)
    assert found.bits_min == [None]


def test_patience_is_counted_from_the_last_rise(tiny: Frozen) -> None:
    ids = random_ids(4, 5)
    found = fit(tiny, ids, STILL)
    assert found.status == ["stalled", "stalled"]
    assert found.steps == [7, 7]
    for text, mem in zip(ids, found.mem, strict=True):
        assert torch.equal(mem, start(tiny, text, n_mem=1, seed=0))


def test_patience_after_a_rise(tiny: Frozen) -> None:
    (ids,) = random_ids(6, seed=1)
    recipe = dataclasses.replace(RECIPES["paper"], steps=200, patience=9)
    found = fit(tiny, [ids], recipe, n_mem=2, trace=True)
    counts = found.curve[0].right
    last_rise = max(step for step, count in enumerate(counts) if count > max(counts[:step], default=-1))
    assert last_rise > 0
    assert (found.status, found.steps) == (["stalled"], [last_rise + 9])


@pytest.mark.parametrize("steps", [0, 3])
def test_steps_are_limited(steps: int, tiny: Frozen) -> None:
    found = fit(tiny, random_ids(4), dataclasses.replace(FAST, steps=steps))
    assert (found.status, found.steps) == (["stalled"], [steps])


def test_the_best_vector_is_kept(tiny: Frozen) -> None:
    ids = random_ids(*[6] * 8, seed=1)
    found = fit(tiny, ids, dataclasses.replace(FAST, lr=0.5), n_mem=2, trace=True)
    counts = [curve.right for curve in found.curve]
    assert any(right[-1] < max(right) for right in counts)  # it was lost again, of some text on every processor
    assert found.n_correct == [max(right) for right in counts]
    for text, mem, n_correct in zip(ids, found.mem, found.n_correct, strict=True):
        assert int(teacher_forced(tiny, mem.unsqueeze(0), torch.tensor([text])).correct.sum()) == n_correct


def test_a_solved_start_is_left_as_it_is(tiny: Frozen) -> None:
    ids = random_ids(3)
    first = fit(tiny, ids, HINGE, n_mem=4)
    assert first.status == ["solved"]
    again = fit(tiny, ids, HINGE, n_mem=4, init=first.mem)
    assert (again.status, again.steps) == (["solved"], [0])
    assert torch.equal(again.mem, first.mem)


@pytest.mark.parametrize(
    ("kind", "scored_from"), [("llama", 0), ("llama", 1), ("neox", 1), ("opt", 0), ("grouped", 1), ("gemma", 0)]
)
def test_what_is_saved_is_what_was_scored(kind: str, scored_from: int, loaded: dict[str, Frozen]) -> None:
    frozen = loaded[kind]
    ids = random_ids(2, 3, 2)
    found = fit(frozen, ids, FAST, n_mem=4, scored_from=scored_from)
    assert "solved" in found.status
    for text, mem, status, n_scored in zip(ids, found.mem, found.status, found.n_scored, strict=True):
        assert n_scored == len(text) - scored_from
        if status == "solved":
            stored = np.frombuffer(mem.numpy().tobytes(), dtype=np.float32).reshape(4, frozen.dim).copy()
            mem = torch.from_numpy(stored)
            assert teacher_forced(frozen, mem.unsqueeze(0), torch.tensor([text])).exact(scored_from=scored_from).all()
            assert decoded_tokens(frozen, mem, text, scored_from=scored_from) == len(text)


def same(one: Fit, other: Fit, pairs: list[tuple[int, int]]) -> bool:
    """Return whether the texts at these places have the same results, bit for bit."""
    return all(
        torch.equal(one.mem[i], other.mem[j]) and all(getattr(one, name)[i] == getattr(other, name)[j] for name in SAME)
        for i, j in pairs
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "recipe", "lengths"),
    [("llama", HINGE, [2, 5, 3, 12, 2, 8, 9, 4]), ("neox", RECIPES["paper"], [2, 5, 2, 12])],
)
def test_company_and_order_change_nothing(
    kind: str, recipe: Recipe, lengths: list[int], loaded: dict[str, Frozen]
) -> None:
    frozen, recipe = loaded[kind], dataclasses.replace(recipe, steps=12, lr=0.1)
    ids = random_ids(*lengths)
    batch = fit(frozen, ids, recipe, n_mem=4, trace=True)
    assert {"solved", "stalled"} == set(batch.status)
    order = [3, 7, 0, 5, 2, 6, 1, 4] if len(ids) == 8 else [3, 0, 2, 1]
    shuffled = fit(frozen, [ids[i] for i in order], recipe, n_mem=4, trace=True)
    assert same(batch, shuffled, [(place, at) for at, place in enumerate(order)])
    for place, text in enumerate(ids):
        assert same(batch, fit(frozen, [text], recipe, n_mem=4, trace=True), [(place, 0)])


def test_one_call_of_the_model_is_one_step_of_all(tiny: Frozen) -> None:
    ids = random_ids(2, 3, 2, 4, 3, 1, 4, 2)
    assert len({bucket_of(len(text)) for text in ids}) == 1
    fit(tiny, ids, FAST, n_mem=4)  # whether fewer slots give the same bits is tried once
    calls = []
    hook = tiny.model.base_model.register_forward_hook(lambda *_: calls.append(1))
    try:
        found = fit(tiny, ids, FAST, n_mem=4)
    finally:
        hook.remove()
    assert len(set(found.steps)) > 2
    assert len(calls) == max(found.steps) + 1


def test_a_diverged_text_leaves_its_neighbours_alone(tiny: Frozen) -> None:
    ids = random_ids(4, 4, 4, 4)
    ids[2] = [0] * 4  # what the argmax of NaN gives
    init = torch.stack([start(tiny, text, n_mem=2, seed=0) for text in ids])
    healthy = fit(tiny, ids, FAST, n_mem=2, init=init)
    init[2, 0, 5] = float("nan")
    found = fit(tiny, ids, FAST, n_mem=2, init=init)
    assert (found.status[2], found.steps[2], found.n_correct[2]) == ("diverged", 0, 0)
    assert same(found, healthy, [(0, 0), (1, 1), (3, 3)])


@pytest.mark.parametrize("loss", ["hinge", "cross_entropy"])
def test_a_text_that_diverges_keeps_its_last_finite_vector(loss: str, tiny: Frozen) -> None:
    found = fit(tiny, random_ids(4), Recipe(loss=loss, margin=0.05, lr=1e37))
    assert found.status == ["diverged"]
    assert 0 < found.steps[0] < 20
    assert torch.isfinite(found.mem).all()
    score = teacher_forced(tiny, found.mem, torch.tensor(random_ids(4)))
    assert found.n_correct == [int(score.correct.sum())]


def test_the_start_follows_from_seed_and_text(tiny: Frozen) -> None:
    one, other = random_ids(4, 4)
    first = start(tiny, one, n_mem=2, seed=0)
    assert first.shape == (2, 32)
    assert torch.equal(first, start(tiny, one, n_mem=2, seed=0))
    for ids, seed in [(one, 1), (one, -1), (other, 0), (one[:3], 0)]:
        assert not torch.equal(first, start(tiny, ids, n_mem=2, seed=seed))
    many = start(tiny, one, n_mem=500, seed=0)  # 16,000 draws: the standard error is 0.6%
    assert many.std().item() == pytest.approx(tiny.embedding_std, rel=0.03)
    assert abs(many.mean().item()) < 0.03 * tiny.embedding_std


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_solves_what_is_easy(loss: str, tiny: Frozen) -> None:
    mem = start(tiny, [1], n_mem=2, seed=5)
    ids = free_running(tiny, mem, 4)  # it fits, and the start is not far from where
    ids = [ids, *random_ids(2, 2, 3)]
    init = torch.stack([0.9 * mem, *(start(tiny, text, n_mem=2, seed=0) for text in ids[1:])])
    found = fit(tiny, ids, Recipe(loss=loss, margin=0.05, lr=0.1, steps=40), n_mem=2, init=init)
    assert "solved" in found.status
    for text, one, status in zip(ids, found.mem, found.status, strict=True):
        if status == "solved":
            assert decoded_tokens(tiny, one, text) == len(text)


@pytest.mark.slow
def test_a_compiled_fit_is_the_same(tiny: Frozen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)  # as it was traced
    ids, recipe = random_ids(4, 2, 6, 3), dataclasses.replace(FAST, steps=10)
    plain, traced = (fit(tiny, ids, recipe, n_mem=2, trace=True, compile=how) for how in (False, True))
    torch.testing.assert_close(traced.mem, plain.mem, atol=1e-5, rtol=0)
    assert (traced.status, traced.steps, traced.n_correct) == (plain.status, plain.steps, plain.n_correct)
    assert [curve.right for curve in traced.curve] == [curve.right for curve in plain.curve]


def test_seeds(tiny: Frozen) -> None:
    (ids,) = random_ids(4)
    recipe = dataclasses.replace(FAST, steps=5)
    found = fit(tiny, [ids, ids, ids], recipe, seed=[0, 1, 0])
    assert same(found, found, [(0, 2)])
    assert not torch.equal(found.mem[0], found.mem[1])
    assert same(found, fit(tiny, [ids], recipe), [(0, 0)])
    assert same(found, fit(tiny, [ids], recipe, seed=1), [(1, 0)])


def test_ids_may_be_a_tensor(tiny: Frozen) -> None:
    ids, recipe = random_ids(4, 4), dataclasses.replace(FAST, steps=2)
    assert same(fit(tiny, torch.tensor(ids), recipe), fit(tiny, ids, recipe), [(0, 0), (1, 1)])


def test_nothing_to_score_and_nothing_to_fit(tiny: Frozen) -> None:
    found = fit(tiny, [[5]], FAST, scored_from=1)
    assert (found.status, found.steps, found.n_scored, found.n_correct) == (["solved"], [0], [0], [0])
    nothing = fit(tiny, [], FAST, n_mem=3)
    assert nothing.mem.shape == (0, 3, 32)
    assert nothing.status == []


def test_wrong_input_is_refused(tiny: Frozen) -> None:
    with pytest.raises(ValueError, match="token ids reach from 3 to 300; 0 to 299 are allowed"):
        fit(tiny, [[3, 300]], FAST)
    with pytest.raises(ValueError, match="token ids reach from -1 to 3"):
        fit(tiny, [[3, -1]], FAST)
    with pytest.raises(ValueError, match=r"init has shape \(1, 2, 32\); \(2, 2, 32\) is needed"):
        fit(tiny, [[1, 2], [3, 4]], FAST, n_mem=2, init=torch.zeros(1, 2, 32))
    with pytest.raises(ValueError, match=r"scored_from is 2; 0 \(all tokens\) and 1 \(t1 given\) are allowed"):
        fit(tiny, [[1, 2]], FAST, scored_from=2)
    with pytest.raises(ValueError, match="2 seeds for 1 texts"):
        fit(tiny, [[1, 2]], FAST, seed=[0, 1])
    with pytest.raises(ModelError, match="the text is empty"):
        fit(tiny, [[1], []], FAST)
    with pytest.raises(ModelError, match="past the context"):
        fit(tiny, [[1] * 64], FAST)
    with pytest.raises(ValueError, match="n_mem is 0; give a whole number from 1 on"):
        fit(tiny, [[1]], FAST, n_mem=0)
    with pytest.raises(ValueError, match=r"unknown recipe 'papr'; known are paper, .*default"):
        fitting.recipe("papr")
    with pytest.raises(ValueError, match=r"unknown loss 'huber'; known are cross_entropy, .*hinge"):
        Recipe(loss="huber", lr=0.1)


def test_half_precision_is_scored_as_it_was_fitted(folders: dict[str, Path]) -> None:
    # eager: where AVX2 is asked for of a processor that has AVX-512, torch's attention in bfloat16 raises
    frozen = models.load(str(folders["llama"]), device="cpu", dtype="bfloat16", attention="eager")
    ids = random_ids(2, 2, 3)
    found = fit(frozen, ids, FAST, n_mem=4)
    assert "solved" in found.status
    for text, mem, n_correct in zip(ids, found.mem, found.n_correct, strict=True):
        score = teacher_forced(frozen, mem.unsqueeze(0), torch.tensor([text]))
        assert int(score.correct.sum()) == n_correct


def test_a_margin_that_rounding_hides_is_said(folders: dict[str, Path]) -> None:
    folder, ids = str(folders["llama"]), random_ids(3, 3)
    half, whole = (
        models.load(folder, device="cpu", dtype=dtype, attention="eager") for dtype in ("bfloat16", "float32")
    )
    with torch.no_grad():
        top = half.logits(half.embed(torch.arange(0, half.vocab_size, half.vocab_size // 64)[None, :64])).amax(-1).abs()
    apart = (torch.nextafter(top, torch.full_like(top, float("inf"))) - top).float().mean().item()
    assert half.logit_resolution == pytest.approx(apart)
    small, large = (Recipe(loss="hinge", margin=size * apart, lr=0.1, steps=2) for size in (0.9, 1.1))
    with pytest.warns(UserWarning, match="bfloat16: neighbouring logits are .* apart, .* take dtype float32"):
        fit(half, ids, small)
    for frozen, recipe in (
        (half, large),
        (whole, small),
        (half, dataclasses.replace(large, loss="cross_entropy", margin=0.0)),
    ):
        fit(frozen, ids, recipe)  # a warning would be an error


@pytest.mark.slow
def test_a_recipe_may_be_named_and_results_are_one_line(tiny):
    ids = random_ids(3, 3)
    by_name, by_value = fitting.fit(tiny, ids, "default"), fitting.fit(tiny, ids, fitting.RECIPES["default"])
    assert torch.equal(by_name.mem, by_value.mem)
    assert repr(by_name) == f"Fit(2 texts in 1 vector of {tiny.dim} numbers each: 2 {by_name.status[0]})"
    assert repr(tiny).startswith(f"Frozen({tiny.name!r}, LlamaForCausalLM, ")
    assert len(repr(tiny)) < 200 + len(tiny.name)
    with pytest.raises(ValueError, match="unknown recipe 'magic'; known are paper"):
        fitting.fit(tiny, ids, "magic")


@pytest.mark.parametrize("ids", ["a text", ["a text"], [1, 2, 3]])
def test_what_is_no_rows_of_ids_is_refused_in_words(ids):
    with pytest.raises(ValueError, match=r"in place of token ids; fitting\.cram|one row a text, \[\[1, 2, 3\]\]"):
        rows_of_ids(ids)
