"""How a fit is optimised: named, frozen sets of settings."""

import re
import warnings
from dataclasses import MISSING, dataclass, fields, replace
from math import isfinite
from typing import Any, get_origin

from capacity import extensions
from capacity.files import whole_number
from capacity.fitting import losses
from capacity.models import Frozen


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of the optimisation of one fit; AdamW at a constant rate, no clipping."""

    loss: str  # a key of losses.LOSSES, or one of a file in use (extensions)
    margin: float = 0.0  # of the hinges, in logits
    lr: float  # learning rate
    betas: tuple[float, float] = (0.9, 0.9)
    weight_decay: float = 0.01
    eps: float = 1e-8
    steps: int = 5000  # optimiser steps at one length, at most
    patience: int = 2000  # consecutive steps without a rise in the number of right tokens
    relative: bool = False  # lr counts in standard deviations of the input embeddings, margin in those of the logits

    def __post_init__(self):
        """Refuse a loss that does not exist, and numbers that no optimiser can take."""
        losses.check(self.loss)
        for name in ("steps", "patience"):
            whole_number(name, getattr(self, name), least=0)
        if not (isinstance(self.betas, tuple) and len(self.betas) == 2):
            raise ValueError(f"betas are {str(self.betas)[:80]}; give two numbers, as (0.9, 0.9)")
        numbers = {"lr": self.lr, "margin": self.margin, "weight_decay": self.weight_decay, "eps": self.eps}
        for name, value in (*numbers.items(), *(("betas", beta) for beta in self.betas)):
            known = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
            if not known or value < 0 or (name == "betas" and value >= 1):
                raise ValueError(
                    f"{name} is {str(value)[:80]}; give a number from 0 on{', below 1' * (name == 'betas')}"
                )

    def scaled_to(self, frozen: Frozen) -> "Recipe":
        """Return the recipe with learning rate and margin in the model's own units."""
        if not self.relative:
            return self
        return replace(self, relative=False, lr=self.lr * frozen.embedding_std, margin=self.margin * frozen.logit_std)


def check_margin(recipe: Recipe, frozen: Frozen) -> None:
    """Warn where a margin, in logits, is smaller than what the model's number type tells apart."""
    if recipe.margin and frozen.dtype != "float32" and recipe.margin < (apart := frozen.logit_resolution):
        warnings.warn(
            f"{frozen.name} in {frozen.dtype}: neighbouring logits are {apart:.2g} apart, the recipe's margin is "
            f"{recipe.margin:.2g}, which rounding hides: fewer tokens fit, and exact vectors may not decode; take "
            "dtype float32, or a recipe of a larger margin",
            stacklevel=2,
        )


RECIPES: dict[str, Recipe] = {
    # Kuratov et al. 2025, as in their repository's train.py: stop at the first pre-step accuracy of 1.0.
    "paper": Recipe(loss="cross_entropy", lr=0.01, steps=5000, patience=2000),
    # Tarasov et al. 2026: for searches that grow, 1000 steps a length; their warm-up and cosine are left out.
    "progressive": Recipe(loss="cross_entropy", lr=0.1, steps=1000, patience=1000),
    # Spends nothing on tokens that are right already; cross-entropy goes on making them surer. What was tried:
    # papers/fitting-notes.md.
    "default": Recipe(loss="squared_hinge", margin=0.05, lr=10.0, steps=1000, patience=500, relative=True),
}


def recipe(name: str | Recipe) -> Recipe:
    """Return the recipe called `name`, of RECIPES or a file in use, or itself; `NAME:STEPS` has so many steps a length.

    Raises ValueError with the known ones, or for steps that are no whole number above 0.
    """
    if isinstance(name, Recipe):
        return name
    if not isinstance(name, str):
        raise ValueError(f"{str(name)[:80]!r} is no recipe; give the name of one, or a fitting.Recipe")
    known, colon, steps = name.partition(":")
    own = extensions.own("recipes", RECIPES)
    if known not in RECIPES and known not in own:
        raise ValueError(f"unknown recipe {name!r}; known are {', '.join([*RECIPES, *own])}, and each as NAME:STEPS")
    chosen = RECIPES[known] if known in RECIPES else _described(known, own[known])
    if not colon:
        return chosen
    if re.fullmatch("[1-9][0-9]{0,8}", steps) is None:
        raise ValueError(f"recipe {name!r} has {steps!r} steps; give a whole number above 0, as in {known}:300")
    return replace(chosen, steps=int(steps))


def base(name: str) -> str:
    """Return the name of a recipe without its number of steps."""
    return name.partition(":")[0]


def _described(name: str, described: Any) -> Recipe:
    """Return the recipe that a dict of its fields describes; ValueError for another field or type, or below 0."""
    known = {field.name: field for field in fields(Recipe)}
    values = described if isinstance(described, dict) else {}
    needed = {key for key, field in known.items() if field.default is MISSING}
    if not needed <= values.keys() <= known.keys():
        raise ValueError(
            f"recipe {name!r} is {described!r}; give a dict of {', '.join(known)}, the first and lr at least"
        )
    made: dict[str, Any] = {}
    for key, value in values.items():
        value = tuple(value) if key == "betas" and isinstance(value, list) else value
        value = float(value) if known[key].type is float and type(value) is int else value
        numbers = () if key in ("loss", "relative") else value if isinstance(value, tuple) else (value,)
        kind = get_origin(known[key].type) or known[key].type
        if type(value) is not kind or any(type(number) not in (int, float) or number < 0 for number in numbers):
            raise ValueError(f"recipe {name!r}: {key} is {value!r}; {known[key].type} is needed, no number below 0")
        made[key] = value
    try:
        return Recipe(**made)
    except ValueError as error:
        raise ValueError(f"recipe {name!r}: {error}") from error
