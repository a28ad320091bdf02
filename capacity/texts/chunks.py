"""Chunks of long texts as the paper cuts them: a run of whole sentences, of which the second half is crammed."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import sentencex

ABOVE, BELOW = 12_000, 25_000  # words of a chunk, both left out
LEAST = 10  # sentences of a chunk


@lru_cache(maxsize=64)  # the same books and chunks are asked for at every length
def sentences(text: str) -> tuple[str, ...]:
    """Return the sentences of an English text, runs of white space in them made one space; a paragraph ends one.

    The paper splits by NLTK, which has to download its rules; sentencex carries its own, so boundaries may differ.
    """
    segments = sentencex.segment("en", text)  # pyright: ignore[reportAttributeAccessIssue]: a compiled module
    segment_texts = (" ".join(segment.split()) for segment in segments)
    return tuple(sentence for sentence in segment_texts if sentence)


def second_half(run: Sequence[str]) -> str:
    """Return the second half of a run of sentences, joined by spaces: what the paper crams of a chunk.

    Source: Kuratov et al. 2025, train.py of its repository.
    """
    return " ".join(run[len(run) // 2 :])


def chunk(
    text: str, rng: np.random.Generator, *, above: int = ABOVE, below: int = BELOW, least: int = LEAST
) -> tuple[int, Sequence[str]] | None:
    """Return the number of a random run's first sentence, from 0, and the run; None where there is no such run.

    The first sentence is even over all that leave `least`, the last even over all that follow; runs of a wrong number
    of words are then left out. That is drawn at once, from the distribution that drawing again and again would give.

    Args:
        text: a book.
        rng: a generator; the same state gives the same chunk.
        above: words, fewer than the chunk has.
        below: words, more than the chunk has.
        least: sentences of the chunk.

    Source: Kuratov et al. 2025, preprocess_pg19.ipynb of its repository.
    """
    all_sentences = sentences(text)
    words = np.concatenate([[0], np.cumsum([len(sentence.split()) for sentence in all_sentences])])  # before each
    starts = np.arange(len(all_sentences) - least + 1)
    first = np.maximum(starts + least, np.searchsorted(words, words[starts] + above, side="right"))  # allowed end
    past = np.searchsorted(words, words[starts] + below, side="left")  # of the allowed ends
    chances = np.maximum(past - first, 0) / (len(all_sentences) - starts - least + 1)
    if not chances.any():
        return None
    start = int(rng.choice(starts, p=chances / chances.sum()))
    end = int(rng.integers(first[start], past[start]))
    return start, all_sentences[start:end]
