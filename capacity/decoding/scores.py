"""What a model predicts of a text after a [mem] vector, teacher-forced."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from capacity.models import Frozen, is_exhausted
from capacity.texts import Text


@dataclass(frozen=True)
class Score:
    """What a model predicts of texts (batch, tokens), position by position, given the true tokens before it."""

    predicted: Int[np.ndarray, "batch tokens"]  # argmax; -1 where nothing predicts (t1 without [mem])
    correct: np.ndarray  # bool (batch, tokens)
    bits: Float[np.ndarray, "batch tokens"]  # surprisal; NaN where nothing predicts

    def exact(self, *, scored_from: int = 0) -> np.ndarray:
        """Return bool (batch,): every scored position's argmax is right."""
        return np.all(self.correct[:, scored_from:], axis=1)


def teacher_forced(
    frozen: Frozen, mem: Float[Tensor, "batch n_mem dim"] | None, ids: Int[Tensor, "batch tokens"]
) -> Score:
    """Return the score of `ids` after `mem`, or of `ids` alone where `mem` is None.

    Without [mem] t1 is not scored (nothing stands before it, or BOS alone): its prediction is -1, its surprisal NaN,
    its correctness False. Where memory runs out, half of the texts are scored at a time, and of one text half of the
    logits; it raises where one position's don't fit.
    """
    try:
        return _scored(frozen, mem, ids, at_once=ids.shape[1])
    except (RuntimeError, MemoryError) as error:
        if not is_exhausted(error):
            raise
    if len(ids) > 1:
        half = len(ids) // 2
        parts = [
            teacher_forced(frozen, None if mem is None else mem[some], ids[some])
            for some in (slice(None, half), slice(half, None))
        ]
        return Score(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Score)))
    at_once = ids.shape[1] // 2
    while at_once > 1:
        try:
            return _scored(frozen, mem, ids, at_once=at_once)
        except (RuntimeError, MemoryError) as error:
            if not is_exhausted(error):
                raise
        at_once //= 2
    return _scored(frozen, mem, ids, at_once=1)


@torch.no_grad()
def _scored(frozen: Frozen, mem: Tensor | None, ids: Tensor, *, at_once: int) -> Score:
    """Return the score, the logits of `at_once` tokens at a time."""
    ids = ids.to(frozen.device)
    inputs = frozen.inputs(mem, frozen.embed(ids[:, :-1]))
    skipped = 1 if mem is None else 0
    before = frozen.n_before + (0 if mem is None else mem.shape[1])
    predicted = np.full(ids.shape, -1)
    bits = np.full(ids.shape, np.nan)
    if inputs.shape[1]:
        hidden = frozen.hidden(inputs)
        whole = frozen.head(hidden) if at_once >= ids.shape[1] else None  # a product of other sizes rounds otherwise
        for at in range(skipped, ids.shape[1], at_once):
            some, places = slice(at, at + at_once), slice(before - 1 + at, before - 1 + at + at_once)
            logits = (frozen.head(hidden[:, places]) if whole is None else whole[:, places]).float()
            nats = torch.logsumexp(logits, -1) - logits.gather(-1, ids[:, some].unsqueeze(-1)).squeeze(-1)
            predicted[:, some] = logits.argmax(-1).cpu().numpy()
            bits[:, some] = nats.cpu().double().numpy() / math.log(2)  # MPS has no float64
    return Score(predicted, predicted == ids.cpu().numpy(), bits)


def scored_together(
    frozen: Frozen,
    mem: Float[Tensor, "texts n_mem dim"] | None,
    texts: Sequence[Sequence[int]],
    *,
    at_once: int = 64,
) -> list[Score]:
    """Return the score of each of texts of any lengths, `at_once` of them padded on the right to one length."""
    scores = []
    for at in range(0, len(texts), at_once):
        some = texts[at : at + at_once]
        longest = max(map(len, some))
        padded = torch.tensor([[*text, *[0] * (longest - len(text))] for text in some])
        score = teacher_forced(frozen, None if mem is None else mem[at : at + at_once], padded)
        for place, text in enumerate(some):
            own = (getattr(score, field.name)[place : place + 1, : len(text)] for field in fields(Score))
            scores.append(Score(*own))
    return scores


def bos_costs(frozen: Frozen, sample: Sequence[Text]) -> list[tuple[str, float]]:
    """Return for each BOS policy without [mem] that the tokenizer allows its mean bits a token, of tokens 2 to N.

    `before_mem` and `after_mem` read the same without [mem]: BOS, then the text. A hint about a model that never read a
    text without BOS, not about how much a vector holds.
    """
    ids = torch.tensor([text.ids for text in sample])
    policies = ("none",) if frozen.tokenizer.bos_token_id is None else ("none", "before_mem")
    return [(p, float(np.nanmean(teacher_forced(replace(frozen, bos=p), None, ids).bits))) for p in policies]


def counts(with_mem: Score, without: Score, length: int) -> dict:
    """Return the counts and sums of positions 2..length of one text, and t1's own."""
    rest = slice(1, length)
    return {
        "correct_without": int(without.correct[0, rest].sum()),
        "correct_with": int(with_mem.correct[0, rest].sum()),
        "bits_without": float(without.bits[0, rest].sum()),
        "bits_with": float(with_mem.bits[0, rest].sum()),
        "first_bits_with": float(with_mem.bits[0, 0]),
        "first_correct": bool(with_mem.correct[0, 0]),
    }
