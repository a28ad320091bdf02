"""Recipes in the model's own units: by another computation, and that they mean what they say."""

import copy
import dataclasses
import math

import pytest
import torch

from capacity import fitting, models
from capacity.fitting import slots
from capacity.fitting.recipes import RECIPES, Recipe, recipe
from capacity.models import Frozen

pytestmark = pytest.mark.slow

RELATIVE = Recipe(loss="squared_hinge", margin=0.2, lr=0.5, steps=60, patience=40, relative=True)


@pytest.fixture(autouse=True)
def few_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a batch be small, so that its steps are quick."""
    monkeypatch.setitem(slots.SLOTS, "cpu", 2)


@torch.no_grad()
def test_the_scale_of_logits_by_another_computation(frozen: Frozen) -> None:
    ids = [place * (frozen.vocab_size // 64) for place in range(64)]
    logits = frozen.model(input_ids=torch.tensor([ids])).logits[0].double()
    spread = ((logits**2).mean(-1) - logits.mean(-1) ** 2).sqrt()
    assert spread.max() > 1.1 * spread.min()  # their mean is another than that of all logits
    assert frozen.logit_std == pytest.approx(spread.mean().item(), rel=2 / frozen.vocab_size)


def test_a_relative_recipe_is_scaled_by_the_model(frozen: Frozen) -> None:
    table = frozen.model.get_input_embeddings()(torch.arange(frozen.vocab_size)).double()
    spread = math.sqrt(((table - table.mean()) ** 2).mean().item())
    found = RELATIVE.scaled_to(frozen)
    assert found.lr == pytest.approx(0.5 * spread, rel=1e-5)
    assert found.margin == pytest.approx(0.2 * frozen.logit_std)
    assert not found.relative
    assert found == dataclasses.replace(RELATIVE, relative=False, lr=found.lr, margin=found.margin)
    assert found.scaled_to(frozen) is found
    assert RELATIVE.relative  # as it was


def test_an_absolute_recipe_is_left_as_it_is(tiny: Frozen) -> None:
    for name in ("paper", "progressive"):
        assert recipe(name).scaled_to(tiny) is RECIPES[name]
    default = recipe("default")
    assert default.scaled_to(tiny) != default
    assert default.loss == "squared_hinge"


@pytest.mark.parametrize(("kind", "how"), [("llama", "grow"), ("gemma", "bracket")])
def test_a_search_is_the_same_bits_in_relative_and_absolute_units(
    kind: str, how: str, loaded: dict[str, Frozen]
) -> None:
    frozen = loaded[kind]
    ids = [[7, 250, 3], [140, 9]]
    one, other = (
        fitting.exact_length(frozen, ids, units, n_mem=4, budget=50, search=how)
        for units in (RELATIVE, RELATIVE.scaled_to(frozen))
    )
    assert [found.length for found in one] == [found.length for found in other] > [0, 0]
    for relative, absolute in zip(one, other, strict=True):
        assert len(relative.probes) == len(absolute.probes)
        for a, b in zip(relative.probes, absolute.probes, strict=True):
            assert torch.equal(a.mem, b.mem)
            assert (a.length, a.status, a.steps, a.n_correct) == (b.length, b.status, b.steps, b.n_correct)


def test_a_relative_recipe_does_not_see_the_scale_of_the_logits(tiny: Frozen) -> None:
    model = copy.deepcopy(tiny.model)
    model.get_parameter("lm_head.weight").mul_(4)  # exact in floating point
    louder = models.freeze(model, tiny.tokenizer, name="louder", revision="0" * 16)
    assert louder.logit_std == pytest.approx(4 * tiny.logit_std)
    ids, options = [[7, 250]], {"n_mem": 4, "trace": True}
    one, other = (fitting.fit(frozen, ids, RELATIVE, **options) for frozen in (tiny, louder))
    rights = [fit.curve[0] and fit.curve[0].right for fit in (one, other)]
    assert (one.status, rights[0]) == (["solved"], rights[1])
    torch.testing.assert_close(one.mem, other.mem, atol=1e-3, rtol=0)
    # Another margin is another fit:
    absolute = fitting.fit(louder, ids, dataclasses.replace(RELATIVE.scaled_to(tiny), margin=8.0), **options)
    assert (absolute.mem - one.mem).abs().max() > 0.05


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown loss 'mse'; known are cross_entropy, wrong_tokens, hinge, squared_h"):
        Recipe(loss="mse", lr=0.1)
    with pytest.raises(ValueError, match="unknown recipe 'papr'; known are paper, progressive, default"):
        recipe("papr")


def test_a_recipe_of_other_steps():
    assert recipe("progressive:300") == dataclasses.replace(recipe("progressive"), steps=300)


@pytest.mark.parametrize(
    "name", ["progressive:", "progressive:0", "progressive:03", "progressive:-1", "paper:1e3", "paper:٣"]
)
def test_steps_that_are_no_whole_number_are_refused(name):
    with pytest.raises(ValueError, match="give a whole number above 0"):
        recipe(name)


@pytest.mark.parametrize(
    ("field", "value"),
    [("lr", -1.0), ("lr", math.nan), ("lr", math.inf), ("eps", -1e-8), ("margin", -0.1), ("steps", -1),
     ("patience", -5), ("weight_decay", math.nan), ("betas", (0.9, 1.0)), ("betas", (-0.1, 0.9))],
)  # fmt: skip
def test_numbers_that_no_optimiser_takes_are_refused(field, value):
    with pytest.raises(ValueError, match=rf"^{field} is .*; give a "):
        Recipe(**{"loss": "hinge", "lr": 0.1} | {field: value})
