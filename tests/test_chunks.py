from collections import Counter

import numpy as np
import pytest
from scipy import stats

from capacity.texts import chunks

# 12 sentences of 1 to 5 words.
BOOK = " ".join("So " * (n * 7 % 5) + f"end{n}." for n in range(12))
LIMITS = {"above": 6, "below": 15, "least": 2}


def n_words(run):
    return sum(len(one.split()) for one in run)


def test_sentences_end_where_a_reader_would_end_them():
    text = (
        'Mr. Fox left at 5 p.m. on Monday.\n"Will he\ncome  back?" she asked.\n\nA heading\n\nNobody knew; it was so!'
    )
    assert chunks.sentences(text) == (
        "Mr. Fox left at 5 p.m. on Monday.", '"Will he come back?" she asked.', "A heading", "Nobody knew; it was so!"
    )  # fmt: skip


@pytest.mark.parametrize("text", ["", " \n\n", "bell", BOOK, 'An open "quote. Then more.\n\nAnd (more. Still'])
def test_no_word_is_lost(text):
    assert " ".join(chunks.sentences(text)).split() == text.split()
    assert all(one == " ".join(one.split()) != "" for one in chunks.sentences(text))


@pytest.mark.parametrize(("n", "kept"), [(0, 0), (1, 1), (2, 1), (3, 2), (10, 5)])
def test_the_second_half_has_the_sentence_in_the_middle(n, kept):
    run = [f"End{i}." for i in range(n)]
    assert chunks.second_half(run) == " ".join(run[n - kept :])


def test_a_chunk_is_a_run_of_whole_sentences_with_words_between_the_limits():
    whole = chunks.sentences(BOOK)
    assert len(whole) == 12
    for seed in range(200):
        start, run = chunks.chunk(BOOK, np.random.default_rng(seed), **LIMITS)
        assert run == whole[start : start + len(run)]
        assert 6 < n_words(run) < 15
        assert len(run) >= 2


def by_rejection(rng):
    """The paper's way: draw start and end until the number of words is right."""
    whole = chunks.sentences(BOOK)
    while True:
        start = int(rng.integers(0, len(whole) - 2, endpoint=True))
        end = int(rng.integers(start + 2, len(whole), endpoint=True))
        if 6 < n_words(whole[start:end]) < 15:
            return start, end - start


def test_chunks_come_as_often_as_by_drawing_again():
    rng = np.random.default_rng(0)
    expected = Counter(by_rejection(rng) for _ in range(3000))
    drawn = [chunks.chunk(BOOK, rng, **LIMITS) for _ in range(3000)]
    found = Counter((start, len(run)) for start, run in drawn)
    assert found.keys() == expected.keys()
    table = [[counts[key] for key in sorted(expected)] for counts in (found, expected)]
    assert stats.chi2_contingency(table).pvalue > 0.001


def test_the_same_state_gives_the_same_chunk():
    assert chunks.chunk(BOOK, np.random.default_rng(3), **LIMITS) == chunks.chunk(
        BOOK, np.random.default_rng(3), **LIMITS
    )


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("", {}),
        ("One. Two. Three.", {}),
        (BOOK, {}),  # the paper's limits
        (BOOK, {"above": 6, "below": 15, "least": 13}),
        (BOOK, {"above": 100, "below": 200, "least": 2}),
        (BOOK, {"above": 6, "below": 7, "least": 2}),  # no number is between
        ("So it goes on and on without an end " * 4, {"above": 3, "below": 20, "least": 1}),  # one long sentence
    ],
)
def test_a_text_without_such_a_run_gives_none(text, limits):
    assert chunks.chunk(text, np.random.default_rng(0), **limits) is None


def test_the_papers_limits():
    book = " ".join(f"This is sentence number {n} of the long book." for n in range(6000))
    starts = set()
    for seed in range(20):
        start, run = chunks.chunk(book, np.random.default_rng(seed))
        assert 12_000 < n_words(run) < 25_000
        starts.add(start)
    assert len(starts) == 20
