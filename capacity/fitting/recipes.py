"""How a fit is optimised: named, frozen sets of settings."""

from dataclasses import dataclass, replace

from capacity.fitting.losses import LOSSES
from capacity.models import Frozen


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of the optimisation of one fit; AdamW at a constant rate, no clipping."""

    loss: str  # a key of losses.LOSSES
    margin: float = 0.0  # of the hinges, in logits
    lr: float  # learning rate
    betas: tuple[float, float] = (0.9, 0.9)
    weight_decay: float = 0.01
    eps: float = 1e-8
    steps: int = 5000  # optimiser steps at one length, at most
    patience: int = 2000  # consecutive steps without a rise in the number of right tokens
    relative: bool = False  # lr counts in standard deviations of the input embeddings, margin in those of the logits

    def __post_init__(self):
        """Refuse a loss that does not exist."""
        if self.loss not in LOSSES:
            raise ValueError(f"unknown loss {self.loss!r}; known are {', '.join(LOSSES)}")

    def of(self, frozen: Frozen) -> "Recipe":
        """Return the recipe with learning rate and margin in the model's own units."""
        if not self.relative:
            return self
        return replace(self, relative=False, lr=self.lr * frozen.embedding_std, margin=self.margin * frozen.logit_std)


RECIPES: dict[str, Recipe] = {
    # Kuratov et al. 2025, as in their repository's train.py: stop at the first pre-step accuracy of 1.0.
    "paper": Recipe(loss="cross_entropy", lr=0.01, steps=5000, patience=2000),
    # Tarasov et al. 2026: for searches that grow, 1000 steps a length; their warm-up and cosine are left out.
    "progressive": Recipe(loss="cross_entropy", lr=0.1, steps=1000, patience=1000),
    # Spends nothing on tokens that are right already; cross-entropy goes on making them surer. What was tried:
    # papers/fitting-notes.md.
    "default": Recipe(loss="squared_hinge", margin=0.05, lr=10.0, steps=1000, patience=500, relative=True),
}


def recipe(name: str) -> Recipe:
    """Return the recipe called `name`; raises ValueError with the known ones."""
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; known are {', '.join(RECIPES)}")
    return RECIPES[name]
