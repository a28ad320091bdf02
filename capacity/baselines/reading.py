"""How well a text is predicted after real tokens in the place of [mem]."""

from collections.abc import Sequence
from typing import Any

import torch

from capacity.decoding import counts, decoded_tokens, teacher_forced
from capacity.models import Frozen
from capacity.texts import Text

Row = dict[str, Any]


def read_first(frozen: Frozen, sample: Sequence[Text], contexts: Sequence[Sequence[int]]) -> list[Row]:
    """Return how well each text is predicted after real tokens in the place of [mem]: one row a text.

    The columns are named as in a row of the store, `bits_with` and `correct_with` being those after the context;
    `n_context` counts its tokens. All positions are scored, t1 being predicted from the context.

    Args:
        frozen: the model.
        sample: texts.
        contexts: token ids read before each text, at least one.

    Raises ValueError for another number of contexts than of texts, an empty one, or one that does not fit into the
    model's context with its text.
    """
    if len(contexts) != len(sample):
        raise ValueError(f"{len(contexts)} contexts for {len(sample)} texts; give one for each")
    rows = []
    for text, context in zip(sample, contexts, strict=True):
        if not len(context):
            raise ValueError(f"no token stands before {text.id}; give at least one")
        frozen.check_length(len(text.ids), len(context))
        mem, ids = frozen.embed(torch.tensor([list(context)])), torch.tensor([text.ids])
        score = counts(teacher_forced(frozen, mem, ids), teacher_forced(frozen, None, ids), len(text.ids))
        rows.append(
            named(frozen, text) | score
            | {"n_context": len(context), "length": len(text.ids), "scored_from": 0, "n_scored": len(text.ids),
               "decoded_tokens": decoded_tokens(frozen, mem[0], text.ids)}
        )  # fmt: skip
    return rows


def named(frozen: Frozen, text: Text) -> Row:
    """Return the columns that name a model and a text."""
    return {"model": frozen.name, "source": text.source, "text_id": text.id}
