"""A model whose logits are entries of [mem], so that what it decodes is known by hand; rows of vectors."""

from collections.abc import Mapping, Sequence
from copy import deepcopy

import polars as pl
import torch

from capacity import models
from capacity.models import Frozen


def reader(tiny: Frozen, entries: Mapping[int, int]) -> Frozen:
    """Return a copy of a Llama-like model that passes its inputs on: a token's logit is one entry of the last input.

    entries: the entry of each token, of the vector scaled to a mean square of 1; other tokens have logit 0.
    """
    model = deepcopy(tiny.model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if name.endswith("norm.weight") else 0.0)
        for token, entry in entries.items():
            model.lm_head.weight[token, entry] = 1.0
    return models.freeze(model, tiny.tokenizer, name="reader", revision="")


def fit_rows(
    frozen: Frozen, mem: Mapping[str, Sequence[float]], *, length: int = 1, scored_from: int = 0
) -> pl.DataFrame:
    """Return rows of one vector each, filled up with zeros; the key and the text are named by `mem`'s."""
    return pl.DataFrame([
        {
            "key": name, "model": frozen.name, "source": "s", "text_id": name, "scored_from": scored_from,
            "length": length, "n_mem": 1, "d_model": frozen.dim, "mem": [*own, *[0.0] * (frozen.dim - len(own))],
        }
        for name, own in mem.items()
    ], schema_overrides={"mem": pl.List(pl.Float32)})  # fmt: skip
