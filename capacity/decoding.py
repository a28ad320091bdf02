"""The truth about a [mem] vector: its teacher-forced score, and what it decodes to when running free."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice, takewhile
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from capacity.models import Frozen, is_exhausted
from capacity.texts import Text

__all__ = [
    "AT_ONCE", "Ended", "Score", "all_decoded_back", "bos_costs", "counts", "decoded_back", "decoded_side_by_side",
    "decoded_tokens", "free_running", "stream", "teacher_forced", "walk",
]  # fmt: skip

# Ended texts that are decoded side by side: on a processor each alone, whose bits these are; a GPU takes hardly longer
# for many than for one.
AT_ONCE = {"cpu": 1, "cuda": 64}


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


def bos_costs(frozen: Frozen, sample: Sequence[Text]) -> list[tuple[str, float]]:
    """Return for each BOS policy without [mem] that the tokenizer allows its mean bits a token, of tokens 2 to N.

    `before_mem` and `after_mem` read the same without [mem]: BOS, then the text. A hint about a model that never read a
    text without BOS, not about how much a vector holds.
    """
    ids = torch.tensor([text.ids for text in sample])
    policies = ("none",) if frozen.tokenizer.bos_token_id is None else ("none", "before_mem")
    return [(p, float(np.nanmean(teacher_forced(replace(frozen, bos=p), None, ids).bits))) for p in policies]


@torch.no_grad()
def walk(
    frozen: Frozen, inputs: Float[Tensor, "1 positions dim"], choose: Callable[[Float[Tensor, " vocab"]], int]
) -> Iterator[int]:
    """Yield the tokens that `choose` takes from the logits of each in turn, after `inputs`, without end.

    What a model puts out that it also takes in (keys and values, a recurrent state) is carried on to the next token,
    which is then read alone; a model without such a state reads everything again. Where memory runs out, the inputs are
    read in parts, down to one vector at a time.
    """
    state = {}
    while True:
        logits, state = frozen.carried(inputs, state) if state else _begun(frozen, inputs)
        token = choose(logits[0, -1])
        yield token
        following = frozen.embed(torch.tensor([[token]]))
        inputs = following if state else torch.cat([inputs, following], dim=1)


def _begun(frozen: Frozen, inputs: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """Return the logits of the last of `inputs`, and the state after them."""
    size = inputs.shape[1]
    while True:
        try:
            logits, state = inputs, {}
            for part in inputs.split(size, dim=1):
                logits, state = frozen.carried(part, state)
                if not state and size < inputs.shape[1]:
                    raise MemoryError(f"{frozen.name} carries nothing on: its input can't be read in parts")
            return logits, state
        except (RuntimeError, MemoryError) as error:
            if not is_exhausted(error) or size == 1:
                raise
            size = -(-size // 2)


def stream(frozen: Frozen, mem: Float[Tensor, "n_mem dim"], *, given: Sequence[int] = ()) -> Iterator[int]:
    """Yield the greedy tokens that follow `mem` and the `given` tokens, without end; the caller stops."""
    context = frozen.embed(torch.tensor([list(given)], dtype=torch.long))
    return walk(frozen, frozen.inputs(mem.unsqueeze(0), context), lambda logits: int(logits.argmax()))


def free_running(
    frozen: Frozen, mem: Float[Tensor, "n_mem dim"], n_tokens: int, *, given: Sequence[int] | None = None
) -> list[int]:
    """Return `n_tokens` token ids decoded greedily from `mem`, the `given` ones first and counted in.

    It never receives the text: with one wrong token, what follows it is conditioned on that token.

    Args:
        frozen: the model.
        mem: one text's vectors, as stored.
        n_tokens: how many tokens to return.
        given: tokens put after [mem] before decoding begins; with `scored_from=1`, t1.

    Raises ValueError when more tokens are given than asked for, or past the context (see Frozen.check_length).
    """
    if mem.ndim != 2 or mem.shape[1] != frozen.dim:
        raise ValueError(f"mem has shape {tuple(mem.shape)}; (n_mem, {frozen.dim}) is what {frozen.name} takes")
    found = [] if given is None else [int(token) for token in given]
    if len(found) > n_tokens:
        raise ValueError(f"{len(found)} tokens are given but only {n_tokens} asked for")
    frozen.check_length(n_tokens, mem.shape[0])
    return found + list(islice(stream(frozen, mem, given=found), n_tokens - len(found)))


def decoded_tokens(frozen: Frozen, mem: Float[Tensor, "n_mem dim"], ids: Sequence[int], *, scored_from: int = 0) -> int:
    """Return how many leading tokens of `ids` come back free-running, stopping at the first wrong one.

    With `scored_from=1`, t1 is given and counts as come back.
    """
    given, rest = list(ids[:scored_from]), ids[scored_from:]
    found = stream(frozen, mem, given=given)
    return len(given) + sum(1 for _ in takewhile(lambda token: token == next(found), rest))


@torch.no_grad()
def decoded_side_by_side(
    frozen: Frozen,
    mem: Float[Tensor, "batch n_mem dim"],
    ids: Sequence[Sequence[int]],
    *,
    scored_from: int = 0,
) -> list[int]:
    """Return what `decoded_tokens` gives of each text, all decoded in one batch, which rounds as a batch does.

    One text alone is decoded by `decoded_tokens`. Where memory runs out, half of them are decoded at a time.
    """
    if len(ids) == 1:
        return [decoded_tokens(frozen, mem[0], ids[0], scored_from=scored_from)]
    try:
        return _side_by_side(frozen, mem, ids, scored_from)
    except (RuntimeError, MemoryError) as error:
        if not is_exhausted(error):
            raise
    half = len(ids) // 2
    parts = (slice(None, half), slice(half, None))
    return [n for p in parts for n in decoded_side_by_side(frozen, mem[p], ids[p], scored_from=scored_from)]


def _side_by_side(frozen: Frozen, mem: Tensor, ids: Sequence[Sequence[int]], scored_from: int) -> list[int]:
    given = torch.tensor([list(row[:scored_from]) for row in ids], dtype=torch.long)
    inputs, state = frozen.inputs(mem, frozen.embed(given)), None
    found, going = [scored_from] * len(ids), {text for text, row in enumerate(ids) if len(row) > scored_from}
    for at in range(scored_from, max(map(len, ids))):
        logits, state = frozen.carried(inputs, state)
        tokens = logits[:, -1].argmax(-1)
        chosen = tokens.tolist()
        right = {text for text in going if chosen[text] == ids[text][at]}
        for text in right:
            found[text] += 1
        going = {text for text in right if at + 1 < len(ids[text])}
        if not going:
            break
        following = frozen.embed(tokens[:, None])
        inputs = following if state else torch.cat([inputs, following], dim=1)
    return found


@dataclass(frozen=True)
class Ended:
    """A text whose fits have ended, with its exact vectors."""

    ids: Sequence[int]
    exact: Sequence[tuple[int, Float[Tensor, "n_mem dim"]]]  # length and vector, the lengths rising
    scored_from: int = 0


def all_decoded_back(frozen: Frozen, ended: Sequence[Ended]) -> list[list[int | None]]:
    """Return what `decoded_back` gives of each text, AT_ONCE of this device side by side."""
    found: list[list[int | None]] = [[None] * len(one.exact) for one in ended]
    most = [-1] * len(ended)
    places = [len(one.exact) - 1 for one in ended]
    while True:
        alike: dict[tuple, list[int]] = {}
        for text, (one, place) in enumerate(zip(ended, places, strict=True)):
            whole = place + 1 < len(one.exact) and found[text][place + 1] == one.exact[place + 1][0]
            if place >= 0 and not whole and one.exact[place][0] > most[text]:
                alike.setdefault((one.exact[place][1].shape, one.scored_from), []).append(text)
        if not alike:
            return found
        for (_, scored_from), texts in alike.items():
            at_once = AT_ONCE.get(frozen.device.type, 1)
            for group in (texts[at : at + at_once] for at in range(0, len(texts), at_once)):
                tried = [ended[text].exact[places[text]] for text in group]
                ids = [ended[text].ids[:length] for text, (length, _) in zip(group, tried, strict=True)]
                mem = torch.stack([mem for _, mem in tried])
                decoded = decoded_side_by_side(frozen, mem, ids, scored_from=scored_from)
                for text, tokens in zip(group, decoded, strict=True):
                    found[text][places[text]], most[text] = tokens, max(most[text], tokens)
                    places[text] -= 1


def decoded_back(
    frozen: Frozen, exact: Sequence[tuple[int, Float[Tensor, "n_mem dim"]]], ids: Sequence[int], *, scored_from: int = 0
) -> list[int | None]:
    """Return what `decoded_tokens` gives of a text's exact vectors, from the last back to one that decodes whole.

    Those before it are not decoded (None), nor is one that could not give more than a later one gave. What is exact
    token by token may decode otherwise, where two logits are as close as rounding.

    exact: length and vector, the lengths rising.
    """
    return all_decoded_back(frozen, [Ended(ids, exact, scored_from)])[0]


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
