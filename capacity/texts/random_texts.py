"""Texts drawn at random, whose source's entropy is known: words of a list, tokens of a tokenizer."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from math import log2
from os.path import isfile
from pathlib import Path

import numpy as np

from capacity import resources
from capacity.texts.documents import TextError


@dataclass(frozen=True)
class Draws:
    """What a source gives for one tokenizer, length and seed; draw `index` is the same however many are asked for."""

    n: int | None  # how many there are; None: without end, each as long as asked for
    at: Callable[[int], tuple[str, str | list[int]]]  # index -> (id, text or token ids); an empty text where none fits
    # the first tokens of a draw -> -log2 of the chance that a draw begins with them; None where it is not known
    bits: Callable[[Sequence[int]], float | None] = lambda ids: None


Source = Callable[..., Draws]  # (tokenizer, length in tokens, seed)


def make_vocab(path: Path | str, *, n_words: int = 100_000) -> list[str]:
    """Return the first words of a word list or a GloVe file: what stands before the first space of each line.

    GloVe lists words by frequency; of glove.6B.50d.txt the first 100,000 are the paper's vocabulary.
    Raises TextError for a file that is not there, has no words, or is not UTF-8.

    Source: Kuratov et al. 2025, make_vocab.py of its repository.
    """
    if not isfile(path):
        raise TextError(f"no file {str(path)[:300]!r}; give a list of words, one a line, or a GloVe file")
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as lines:
            word_list = [line.split(" ", 1)[0].strip() for line in islice(lines, n_words)]
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from error
    word_list = [word for word in word_list if word]
    if not word_list:
        raise TextError(f"{path} holds no words; give a list of words, one a line, or a GloVe file")
    return word_list


def words() -> list[str]:
    """Return the 20,000 most frequent words of the training books, most frequent first."""
    return make_vocab(resources.data() / "words.txt")


@lru_cache(maxsize=8)
def _known(path: Path, stamp: tuple[int, int] | None) -> np.ndarray:
    return np.array(make_vocab(path))


def random_words(path: str | None = None) -> Source:
    """Return the source of words drawn evenly from `words()`, or from a word list or GloVe file: no syntax."""
    place = Path(resources.data() / "words.txt" if path is None else path)
    stamp = (place.stat().st_mtime_ns, place.stat().st_size) if isfile(place) else None
    known = _known(place, stamp)

    def source(tokenizer: object, length: int, seed: int) -> Draws:
        def at(index: int) -> tuple[str, str]:
            drawn = np.random.default_rng([seed, index]).choice(known, size=length)
            return f"random_words-{seed}-{index}", " ".join(drawn)  # a word is at least one token

        return Draws(None, at, lambda ids: _word_bits(tokenizer, place, stamp, tuple(ids)))

    return source


@lru_cache(maxsize=8)
def _spellings(tokenizer, place: Path, stamp: tuple[int, int] | None) -> list[tuple[Counter, Counter]]:
    """Return how many words of a list have these tokens, and begin with these: of a text's first word, of others."""
    known = _known(place, stamp).tolist()
    lead = tokenizer(known[0], add_special_tokens=False, verbose=False)["input_ids"]
    alone = tokenizer(known, add_special_tokens=False, verbose=False)["input_ids"]
    behind = tokenizer([f"{known[0]} {word}" for word in known], add_special_tokens=False, verbose=False)["input_ids"]
    counts = []
    for spelled in (alone, [ids[len(lead) :] for ids in behind if ids[: len(lead)] == lead]):
        starts = Counter(tuple(ids[:n]) for ids in spelled for n in range(len(ids) + 1))
        counts.append((Counter(map(tuple, spelled)), starts))
    return counts


def _word_bits(tokenizer, place: Path, stamp: tuple[int, int] | None, ids: tuple[int, ...]) -> float | None:
    """Return -log2 of the chance of words drawn evenly from a list to begin with these tokens.

    A whole word has log2 of the list's length; the last one, which may be cut, that less log2 of the words that begin
    so. None where tokens do not tell words apart.
    """
    (first, first_starts), (later, later_starts) = _spellings(tokenizer, place, stamp)
    begins = {spelled[0] for spelled in later if spelled}
    if any(token in begins for spelled in (*first, *later) for token in spelled[1:]):
        return None
    cuts = [0, *(at for at, token in enumerate(ids) if at and token in begins), len(ids)]
    groups = [ids[start:end] for start, end in pairwise(cuts)]
    counts = [
        (first_starts if at == 0 else later_starts)[group] if at == len(groups) - 1 else (later if at else first)[group]
        for at, group in enumerate(groups)
    ]
    n_words = len(_known(place, stamp))
    return sum(log2(n_words / count) for count in counts) if all(counts) else None


def random_tokens(number: str | None = None) -> Source:
    """Return the source of token ids drawn evenly from the tokenizer's own: none that is special or was added.

    number: of tokens to draw from, at least 2, taken by the seed; those of a smaller number are among a larger one's.
    """
    if number is not None and not (number.isascii() and number.isdigit() and len(number) <= 9 and int(number) >= 2):
        raise TextError(f"random_tokens:{number[:120]!r} is not random_tokens:K; give a count of tokens, 2 or more")

    def source(tokenizer, length: int, seed: int) -> Draws:
        added = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        ordinary = np.array(sorted(set(tokenizer.get_vocab().values()) - added))
        if number is not None:
            if int(number) > len(ordinary):
                raise TextError(f"random_tokens:{number} asks for more than the tokenizer's {len(ordinary)} tokens")
            ordinary = np.random.default_rng(seed).permutation(ordinary)[: int(number)]

        def at(index: int) -> tuple[str, list[int]]:
            ids = np.random.default_rng([seed, index]).choice(ordinary, size=length)
            return f"random_tokens-{seed}-{index}", ids.tolist()

        return Draws(None, at, lambda ids: len(ids) * log2(len(ordinary)))

    return source
