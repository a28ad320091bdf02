"""What a [mem] vector decodes to when running free, one alone or many side by side."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from capacity.files import whole_number
from capacity.models import Frozen, is_exhausted

# Ended texts that are decoded side by side: on a processor each alone, whose bits these are; a GPU takes hardly longer
# for many than for one.
AT_ONCE = {"cpu": 1, "cuda": 64}


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


def _check_mem(frozen: Frozen, mem: Tensor) -> None:
    """Raise ValueError for what are no vectors of one text, finite and as wide as the model's."""
    if not isinstance(mem, Tensor) or mem.ndim != 2 or mem.shape[1] != frozen.dim or not mem.is_floating_point():
        fault = f"has shape {tuple(mem.shape)}" if isinstance(mem, Tensor) else f"is a {type(mem).__name__}"
        raise ValueError(f"mem {fault}; (n_mem, {frozen.dim}) floats in a tensor are what {frozen.name} takes")
    if n_broken := int((~mem.isfinite()).sum()):
        raise ValueError(f"mem has {n_broken} numbers that are not finite; fit it again, or from another seed")


def check_rows(frozen: Frozen, rows: pl.DataFrame) -> None:
    """Raise ValueError for rows whose vectors were fitted to another model, or under another BOS policy.

    rows: of the store; columns `revision` and `bos`, where there are any.
    """
    for name in ("revision", "bos"):
        own = getattr(frozen, name)
        if name in rows.columns and (others := sorted(map(repr, {*rows[name]} - {own}))):
            raise ValueError(
                f"{frozen.name} has {name} {own!r}, the rows' vectors were fitted with {', '.join(others)}; "
                "load the model as the rows say"
            )


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
    _check_mem(frozen, mem)
    tokens = [] if given is None else [whole_number("a given token", token, least=0) for token in given]
    if any(token >= frozen.vocab_size for token in tokens):
        raise ValueError(f"given are {tokens[:9]}; tokens below {frozen.vocab_size} are what {frozen.name} takes")
    if len(tokens) > whole_number("n_tokens", n_tokens, least=0):
        raise ValueError(f"{len(tokens)} tokens are given but only {n_tokens} asked for")
    frozen.check_length(n_tokens, mem.shape[0])
    return tokens + list(islice(stream(frozen, mem, given=tokens), n_tokens - len(tokens)))


@torch.no_grad()
def together(
    frozen: Frozen,
    mem: Float[Tensor, "texts n_mem dim"],
    lengths: Sequence[int],
    *,
    given: Sequence[Sequence[int]] | None = None,
    cache: bool = True,
    at_once: int = 64,
) -> list[list[int]]:
    """Return for each vector so many tokens as `free_running` does, decoded in batches: rounding differs from it.

    Args:
        frozen: the model.
        mem: the vectors of each text.
        lengths: tokens to return of each.
        given: tokens put after each text's [mem] first and counted in, as many for every text; none, if None.
        cache: carry keys and values on, where the model does; else all is read again for every token.
        at_once: vectors in a batch, alike in length as far as can be.
    """
    texts: list[list[int]] = [[] for _ in lengths]
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    for some in (order[at : at + at_once] for at in range(0, len(order), at_once)):
        longest = lengths[some[-1]]
        frozen.check_length(longest, mem.shape[1])
        begun = [list(given[place]) if given is not None else [] for place in some]
        tokens = torch.tensor(begun, dtype=torch.long).reshape(len(some), -1).to(frozen.device)
        inputs, state = frozen.inputs(mem[some], frozen.embed(tokens)), {}
        while tokens.shape[1] < longest:
            if cache:
                logits, state = frozen.carried(inputs, state)
            else:
                logits = frozen.head(frozen.hidden(inputs)[:, -1:])
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
            following = frozen.embed(tokens[:, -1:])
            inputs = following if state else torch.cat([inputs, following], dim=1)
        for place, row in zip(some, tokens.tolist(), strict=True):
            texts[place] = row[: lengths[place]]
    return texts


def decoded_tokens(frozen: Frozen, mem: Float[Tensor, "n_mem dim"], ids: Sequence[int], *, scored_from: int = 0) -> int:
    """Return how many leading tokens of `ids` come back free-running, stopping at the first wrong one.

    With `scored_from=1`, t1 is given and counts as come back.
    """
    given, rest = list(ids[:scored_from]), ids[scored_from:]
    tokens = stream(frozen, mem, given=given)
    return len(given) + sum(1 for _ in takewhile(lambda token: token == next(tokens), rest))


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
    given = [row[:scored_from] for row in ids]
    try:
        back = together(frozen, mem, [len(row) for row in ids], given=given, at_once=len(ids))
    except (RuntimeError, MemoryError) as error:
        if not is_exhausted(error):
            raise
    else:
        pairs = (zip(decoded, row, strict=True) for decoded, row in zip(back, ids, strict=True))
        return [sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both)) for both in pairs]
    half = len(ids) // 2
    parts = (slice(None, half), slice(half, None))
    return [n for p in parts for n in decoded_side_by_side(frozen, mem[p], ids[p], scored_from=scored_from)]


@dataclass(frozen=True)
class Ended:
    """A text whose fits have ended, with its exact vectors."""

    ids: Sequence[int]
    exact: Sequence[tuple[int, Float[Tensor, "n_mem dim"]]]  # length and vector, the lengths rising
    scored_from: int = 0


def all_decoded_back(frozen: Frozen, ended: Sequence[Ended]) -> list[list[int | None]]:
    """Return what `decoded_back` gives of each text, AT_ONCE of this device side by side."""
    counts: list[list[int | None]] = [[None] * len(search.exact) for search in ended]
    most = [-1] * len(ended)
    places = [len(search.exact) - 1 for search in ended]
    while True:
        alike: dict[tuple, list[int]] = {}
        for text, (search, place) in enumerate(zip(ended, places, strict=True)):
            whole = place + 1 < len(search.exact) and counts[text][place + 1] == search.exact[place + 1][0]
            if place >= 0 and not whole and search.exact[place][0] > most[text]:
                alike.setdefault((search.exact[place][1].shape, search.scored_from), []).append(text)
        if not alike:
            return counts
        for (_, scored_from), texts in alike.items():
            at_once = AT_ONCE.get(frozen.device.type, 1)
            for group in (texts[at : at + at_once] for at in range(0, len(texts), at_once)):
                tried = [ended[text].exact[places[text]] for text in group]
                ids = [ended[text].ids[:length] for text, (length, _) in zip(group, tried, strict=True)]
                mem = torch.stack([mem for _, mem in tried])
                decoded = decoded_side_by_side(frozen, mem, ids, scored_from=scored_from)
                for text, tokens in zip(group, decoded, strict=True):
                    counts[text][places[text]], most[text] = tokens, max(most[text], tokens)
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
