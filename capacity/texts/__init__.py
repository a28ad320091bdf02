"""Texts as token ids of an exact length, sampled from a named source by a seed."""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np

from capacity.files import first_line, whole_number
from capacity.texts import sources
from capacity.texts.documents import TextError
from capacity.texts.pieces import difference, token_bytes
from capacity.texts.sources import FORMS, SOURCES, base

__all__ = [
    "FORMS", "SOURCES", "Text", "TextError", "base", "check", "check_name", "check_text", "difference", "digest",
    "drawn_lengths", "encode", "others", "sample", "source_bits", "token_bytes", "whole_lengths",
]  # fmt: skip
__dir__ = __all__.copy  # what completion shows

_TRIES = 100  # draws a text, of a source without end: some tokenizer may make few tokens of many words


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text to be stored: its first `len(ids)` tokens under one tokenizer."""

    source: str
    index: int  # place in the seeded sample
    id: str  # which passage, row or draw it is
    ids: tuple[int, ...]  # token ids

    @property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of the token ids."""
        return digest(self.ids)


def digest(ids: Sequence[int]) -> str:
    """Return the first 16 hex digits of the SHA-256 of token ids, as little-endian 32-bit integers."""
    return hashlib.sha256(np.asarray(ids, dtype="<u4").tobytes()).hexdigest()[:16]


def check_text(text: str) -> None:
    """Raise TextError if `text` is empty or holds lone surrogates, which no tokenizer can give back."""
    if not text:
        raise TextError("the text is empty; give at least one character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TextError(f"the text holds a lone surrogate at character {error.start}; remove it") from error


def encode(tokenizer, text: str, *, least: int = 1) -> list[int]:
    """Return the token ids of `text`, with no special token added.

    Raises TextError as `check_text`, and for fewer than `least` tokens (2 where the first one is given).
    """
    check_text(text)
    ids = _ids(tokenizer, text)
    if len(ids) < least:
        raise TextError(f"the text has {len(ids)} tokens, at least {least} are needed; give a longer one")
    return ids


def _ids(tokenizer, text: str) -> list[int]:
    if not callable(tokenizer):
        raise TextError(
            f"a {type(tokenizer).__name__} is in place of the tokenizer; give that of a model, frozen.tokenizer"
        )
    encoder: Any = tokenizer
    try:
        return list(encoder(text, add_special_tokens=False, verbose=False)["input_ids"])
    except Exception as error:  # the tokenizers library raises no other type
        raise TextError(
            f"the tokenizer can't encode the text ({first_line(error)}); give another text, or a model whose tokenizer "
            "knows every character"
        ) from error


def check(source: str) -> None:
    """Raise TextError if `source` names no source, or what it names can't be had."""
    sources.named(source)


def check_name(source: str) -> None:
    """Raise TextError if `source` names no source; nothing is fetched for it."""
    sources.check_name(source)


def sample(source: str, tokenizer, *, n_texts: int, length: int, seed: int = 0) -> list[Text]:
    """Return `n_texts` texts of exactly `length` tokens, the same for a seed on every machine.

    A text that is too short is skipped; the first n of a larger sample are the sample of n.

    Args:
        source: a name as `sources.named` takes.
        tokenizer: of transformers.
        n_texts: at least 1.
        length: tokens a text, at least 1.
        seed: of the order of documents, or of the draws; 0 or more.

    A document that is there several times is one text.

    Raises TextError for an unknown source or when fewer texts are long enough; it says how many there are.
    """
    try:
        sources.check_name(source)
        for name, value, least in (("n_texts", n_texts, 1), ("length", length, 1), ("seed", seed, 0)):
            whole_number(name, value, least=least)
    except ValueError as error:
        raise TextError(str(error)) from error
    draws = sources.named(source)(tokenizer, length, seed)
    n_draws = _TRIES * n_texts if draws.n is None else draws.n
    short: list[int] = []
    again: list[str] = []
    texts = list(islice(_drawn(source, draws, tokenizer, length, n_draws, short, again), n_texts))
    if len(texts) == n_texts:
        return texts
    raise TextError(
        f"{n_texts} texts of {length} tokens asked for, but {source} has only {len(texts)} "
        f"({len(short)} are shorter{f', {len(again)} are there a second time' if again else ''}); "
        f"{_asked_instead(n_texts - len(texts), len(texts), short)}"
    )


def _asked_instead(n_lacking: int, n_found: int, short: list[int]) -> str:
    """Return what can be asked for where texts are lacking; short: the lengths of those that were too short, tokens."""
    ways = [f"fewer (n_texts={n_found})"] if n_found else []
    if n_lacking <= len(short) and (most := sorted(short, reverse=True)[n_lacking - 1]) > 0:
        ways.append(f"texts of at most {most} tokens (length, or longest of a search)")
    return f"ask for {' or '.join(ways)}" if ways else "give a source with longer texts"


def _whole(draws: sources.Draws, tokenizer, n_draws: int, again: list[str] | None = None) -> Iterator:
    """Yield id and token ids of the first draws; of a document that is there several times the first, `again` the rest.

    Means over texts take each for a sample of its own. What is drawn at random may well come twice.
    """
    seen = set[bytes]()
    for name, drawn in map(draws.at, range(n_draws)):
        data = drawn.encode("utf-8", "surrogatepass") if isinstance(drawn, str) else str(drawn).encode()
        key = hashlib.sha256(data).digest()
        if drawn and draws.n is not None and key in seen:
            if again is not None:
                again.append(name)
            continue
        seen.add(key)
        yield name, _ids(tokenizer, drawn) if isinstance(drawn, str) else drawn


def _drawn(
    source: str, draws: sources.Draws, tokenizer, length: int, n_draws: int, short: list[int] | None = None,
    again: list[str] | None = None,
) -> Iterator[Text]:  # fmt: skip
    """Yield the texts among the first draws that are long enough, cut to `length` tokens; `short` gets the rest."""
    index = 0
    for name, ids in _whole(draws, tokenizer, n_draws, again):
        if len(ids) >= length:
            yield Text(source=source, index=index, id=name, ids=tuple(ids[:length]))
            index += 1
        elif short is not None:
            short.append(len(ids))


def others(source: str, tokenizer, *, beside: Collection[str], n_texts: int, length: int, seed: int = 0) -> list[Text]:
    """Return `n_texts` texts of a source whose ids are not among those `beside`, nor documents that begin as they do.

    Where a source has too few, they are cut from further on in the same: the texts of `after:length:source`, of
    `after:2*length:source` and so on, all by one id.

    Raises TextError as `sample`.
    """
    texts: list[Text] = []
    for skipped in count(0, length):
        name = f"after:{skipped}:{source}" if skipped else source
        draws = sources.named(name)(tokenizer, length, seed)
        n_draws = _TRIES * n_texts if draws.n is None else draws.n
        every = _drawn(source, draws, tokenizer, length, n_draws)
        drawn = list(islice(_not_among(every, beside, documents=draws.n is not None), n_texts - len(texts)))
        texts += drawn
        if len(texts) == n_texts:
            return texts
        if not drawn and all(text.id in beside for text in _drawn(source, draws, tokenizer, length, n_draws)):
            break  # and not where they only begin alike here
    raise TextError(
        f"{n_texts} other texts of {length} tokens asked for, but {source} has only {len(texts)} beside "
        f"{len(beside)}; ask for fewer or shorter texts"
    )


def _not_among(texts: Iterator[Text], beside: Collection[str], *, documents: bool) -> Iterator[Text]:
    """Yield the texts of other ids; of documents, which may be there twice, not those of the same tokens."""
    awaited, same, kept = set(beside) if documents else set(), set[tuple[int, ...]](), list[Text]()
    for text in texts:
        if text.id in beside:
            awaited.discard(text.id)
            same.add(text.ids)
        else:
            kept.append(text)
        if not awaited:  # a sample comes first in its source, so that little waits
            yield from (text for text in kept if not (documents and text.ids in same))
            kept.clear()
    yield from (text for text in kept if text.ids not in same)


def source_bits(source: str, tokenizer, ids: Sequence[int], *, seed: int = 0) -> float | None:
    """Return -log2 of the chance that a text of this source and seed begins with these tokens; None: not known.

    Its mean over texts is the source's entropy, which no code of its texts undercuts, in the mean. Known of
    `random_tokens` (N log2 K) and `random_words`.
    """
    return sources.named(source)(tokenizer, len(ids), seed).bits(ids)


def whole_lengths(source: str, tokenizer, *, n_texts: int, seed: int = 0) -> list[int]:
    """Return how many tokens the first texts of a seed have before they are cut, shortest first.

    Empty for a source that draws texts as long as asked for; fewer than `n_texts` where there are fewer.
    """
    draws = sources.named(source)(tokenizer, 1, seed)
    return sorted(len(ids) for _, ids in islice(_whole(draws, tokenizer, draws.n or 0), n_texts))


def drawn_lengths(n_texts: int, *, longest: int, seed: int = 0) -> list[int]:
    """Return a length for each text, even over 2 to `longest` tokens: how the paper draws those of its random texts.

    Raises TextError for fewer than 1 text or a longest below 2.

    Source: Kuratov et al. 2025, train.py of its repository.
    """
    if n_texts < 1 or longest < 2:
        raise TextError(f"n_texts is {n_texts} and longest {longest}; at least 1 and 2 are allowed")
    return np.random.default_rng(seed).integers(2, longest + 1, size=n_texts).tolist()
