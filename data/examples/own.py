"""A recipe, a loss, a source and a preset of one's own: `capacity ... --with own.py`."""

import torch


def softplus_margin(logits, targets, margin):
    """Return log(1 + exp(margin - (target's logit - best other logit))): a hinge without a kink."""
    right = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    other = logits.scatter(-1, targets.unsqueeze(-1), float("-inf")).amax(-1)
    return torch.nn.functional.softplus(margin - (right - other))


LOSSES = {"softplus_margin": softplus_margin}

RECIPES = {  # fields of capacity.fitting.Recipe
    "soft": {"loss": "softplus_margin", "lr": 10.0, "margin": 0.05, "steps": 1000, "patience": 500, "relative": True}
}

SOURCES = {  # a function that returns texts, the same ones at every call
    "counting": lambda: [f"{n} bottles stood on the wall, and {n - 1} when one fell." for n in range(40, 60)]
}

PRESETS = {  # as papers/PAPER/presets/*.toml
    "own/quick": {
        "title": "Two texts that count, in one vector",
        "where": "data/examples/own.py",
        "grid": {"source": "counting", "recipe": ["soft", "default"], "n_texts": 2, "length": 12, "budget": 300},
    }
}
