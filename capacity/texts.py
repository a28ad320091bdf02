"""Where texts come from: named sources, seeded samples, tokens of an exact length."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from capacity import resources


class TextError(ValueError):
    """A source or text that can't be used: says what was given, what is allowed, what to do."""


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


def encode(tokenizer, text: str) -> list[int]:
    """Return the token ids of `text`, with no special token added; raises TextError as `check_text`."""
    check_text(text)
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


# A source is a function (tokenizer, length, seed) -> function (index) -> (id, ids) | None; None ends it. Text `index`
# of a seed is the same however many are asked for.
Draw = Callable[[int], tuple[str, list[int]] | None]


def _passages(tokenizer, length: int, seed: int, documents: Sequence[tuple[str, str]]) -> Draw:
    order = np.random.default_rng(seed).permutation(len(documents))

    def draw(index: int) -> tuple[str, list[int]] | None:
        if index >= len(order):
            return None
        name, text = documents[order[index]]
        return name, encode(tokenizer, text) if text else []

    return draw


def embedded(tokenizer, length: int, seed: int) -> Draw:
    """Return the draws of `data/texts/`: original passages of varied register, from their first token on."""
    files = sorted((resources.data() / "texts").glob("*.txt"))
    return _passages(tokenizer, length, seed, [(file.stem, file.read_text(encoding="utf-8")) for file in files])


def words() -> list[str]:
    """Return the 20,000 most frequent words of the training books, most frequent first."""
    return (resources.data() / "words.txt").read_text(encoding="utf-8").split()


def random_words(tokenizer, length: int, seed: int) -> Draw:
    """Return draws of words, uniform over `words()`, joined by spaces: no syntax, no meaning."""
    known = words()

    def draw(index: int) -> tuple[str, list[int]]:
        rng = np.random.default_rng([seed, index])
        # A word is at least one token, so `length` words are enough.
        return f"random_words-{seed}-{index}", encode(tokenizer, " ".join(rng.choice(known, size=length)))

    return draw


def random_tokens(tokenizer, length: int, seed: int) -> Draw:
    """Return draws of token ids, uniform over the tokenizer's ordinary (not special) tokens."""
    special = set(tokenizer.all_special_ids)
    ordinary = np.array([i for i in range(len(tokenizer)) if i not in special])

    def draw(index: int) -> tuple[str, list[int]]:
        ids = np.random.default_rng([seed, index]).choice(ordinary, size=length)
        return f"random_tokens-{seed}-{index}", ids.tolist()

    return draw


SOURCES: dict[str, Callable[..., Draw]] = {
    "embedded": embedded,
    "random_words": random_words,
    "random_tokens": random_tokens,
}

_READERS = {
    ".csv": pl.scan_csv,
    ".jsonl": pl.scan_ndjson,
    ".ndjson": pl.scan_ndjson,
    ".parquet": pl.scan_parquet,
}


def read(path: str | Path, column: str | None = None) -> list[str]:
    """Return the texts of a file: a whole text file, or one column of a CSV, JSONL or Parquet file.

    Raises TextError if there is no such file or column, no text in it, or it is not UTF-8.
    """
    path = Path(path)
    if not os.path.isfile(path):  # unlike Path.is_file, also False for a name too long
        raise TextError(f"no file {str(path)[:300]!r}; give file:PATH, or file:PATH#COLUMN for CSV, JSONL and Parquet")
    reader = _READERS.get(path.suffix.lower())
    try:
        if reader is None:
            found = [path.read_text(encoding="utf-8")]
        else:
            frame = reader(path)
            columns = frame.collect_schema()
            allowed = [name for name, kind in columns.items() if kind == pl.String]
            if column is None or column not in allowed:
                raise TextError(f"{path} has no text column {column!r}; it has {allowed}: give file:{path}#COLUMN")
            found = frame.select(column).collect().to_series().drop_nulls().to_list()
            if reader is pl.scan_ndjson and any("\0" in text for text in found):  # polars makes NUL of \ud800
                raise TextError(f"{path} holds a lone surrogate or a NUL in column {column!r}; remove it")
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is not UTF-8 (byte {error.start}); convert it first") from error
    except pl.exceptions.PolarsError as error:
        raise TextError(f"{path} can't be read as {path.suffix[1:]}: {str(error).splitlines()[0]}") from error
    found = [text for text in found if text.strip()]
    if not found:
        raise TextError(f"{path} holds no text; give a file that does")
    return found


def _source(name: str) -> Callable[..., Draw]:
    if name.startswith("file:"):
        path, _, column = name.removeprefix("file:").partition("#")
        documents = [(f"{Path(path).name}-{i}", text) for i, text in enumerate(read(path, column or None))]
        return lambda tokenizer, length, seed: _passages(tokenizer, length, seed, documents)
    if name not in SOURCES:
        raise TextError(f"unknown source {name[:120]!r}; known are {', '.join(SOURCES)} and file:PATH[#COLUMN]")
    return SOURCES[name]


def check(source: str) -> None:
    """Raise TextError if `source` is no known source, or its file can't be read."""
    _source(source)


def sample(source: str, tokenizer, *, n_texts: int, length: int, seed: int = 0) -> list[Text]:
    """Return `n_texts` texts of exactly `length` tokens, the same for a seed on every machine.

    A text that is too short is skipped; the first n of a larger sample are the sample of n.

    Args:
        source: a key of SOURCES, or `file:PATH[#COLUMN]`.
        tokenizer: of transformers.
        n_texts: at least 1.
        length: tokens a text, at least 1.
        seed: of the order of passages, or of the draws.

    Raises TextError for an unknown source or when fewer texts are long enough; it says how many there are.
    """
    if n_texts < 1 or length < 1:
        raise TextError(f"n_texts is {n_texts} and length {length}; both are at least 1")
    draw = _source(source)(tokenizer, length, seed)
    found: list[Text] = []
    skipped = index = 0
    while len(found) < n_texts:
        drawn = draw(index)
        if drawn is None:
            raise TextError(
                f"{n_texts} texts of {length} tokens asked for, but {source} has only {len(found)} "
                f"({skipped} are shorter); ask for fewer or shorter texts"
            )
        name, ids = drawn
        if len(ids) < length:
            skipped += 1
        else:
            found.append(Text(source=source, index=len(found), id=name, ids=tuple(ids[:length])))
        index += 1
    return found
