"""Sources of whole texts by name: alone (`SOURCES`), or with what follows a colon (`PREFIXES`)."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from math import log2
from os.path import isfile
from pathlib import Path

import numpy as np

from capacity import extensions, files, resources
from capacity.texts import chunks, documents, hub
from capacity.texts.documents import Documents, TextError


@dataclass(frozen=True)
class Draws:
    """What a source gives for one tokenizer, length and seed; draw `index` is the same however many are asked for."""

    n: int | None  # how many there are; None: without end, each as long as asked for
    at: Callable[[int], tuple[str, str | list[int]]]  # index -> (id, text or token ids); an empty text where none fits
    # the first tokens of a draw -> -log2 of the chance that a draw begins with them; None where it is not known
    bits: Callable[[Sequence[int]], float | None] = lambda ids: None


Source = Callable[..., Draws]  # (tokenizer, length in tokens, seed)

_LONGEST = 1000  # characters of a name
_BATCH = 64, 65_536  # documents that a pass over the files brings: the first, and at most
_PER_BOOK = 20  # chunks; the paper draws 1000 from 50 books


def named(name: str) -> Source:
    """Return the source of a name: a key of SOURCES, or a key of PREFIXES, a colon and what that one takes.

    Raises TextError for an unknown name, and as `documents.load` and `hub.fetch` where there is nothing to read.
    """
    head, colon, rest = name.partition(":")
    if head in PREFIXES and colon and len(name) <= _LONGEST:
        return PREFIXES[head](rest)
    if name not in SOURCES:
        if name in (own := extensions.own("sources", {*SOURCES, *PREFIXES})):
            return of_texts(name, own[name]())
        known = ", ".join([*SOURCES, *own, *FORMS])
        raise TextError(f"unknown source {name[:120]!r}; known are {known}{files.list_hint(name)}")
    return SOURCES[name]()


def check_name(name: str) -> None:
    """Raise TextError as `named`, but fetch nothing: of what lies on the hub the form of its name is checked alone."""
    inner = base(name)
    if inner.partition(":")[0] == "hub" and len(name) <= _LONGEST:
        hub.check_name(inner.partition(":")[2])
    elif inner not in ("pg19", "pg19_books", "fanfics"):
        named(name)


# Documents


def embedded() -> Source:
    """Return the source of `data/texts/`: original passages of varied register, from their beginning."""
    paths = sorted((resources.data() / "texts").glob("*.txt"))
    return _documents(
        Documents("", len(paths), lambda at: [paths[i].read_text(encoding="utf-8") for i in at]),
        ids=[path.stem for path in paths],
    )


def of_texts(name: str, texts: Iterable[str]) -> Source:
    """Return the source of texts in memory, in seeded order; raises TextError for what is no list of texts."""
    found = [] if isinstance(texts, str) else list(texts)
    if not found or not all(isinstance(text, str) for text in found):
        raise TextError(f"source {name!r} gives {str(texts)[:80]!r}; it is to return a list of texts, at least one")
    return _documents(Documents(name, len(found), lambda at: [found[i] for i in at]))


def file(rest: str) -> Source:
    """Return the source of `PATH` (a text file) or `PATH#COLUMN` (CSV, JSONL, Parquet)."""
    cuts = [len(rest), *(at for at in reversed(range(len(rest))) if rest[at] == "#")]
    cut = next((at for at in cuts if isfile(rest[:at])), cuts[min(1, len(cuts) - 1)])  # either may hold a #
    return _documents(documents.load(rest[:cut], rest[cut + 1 :] if cut < len(rest) else None))


def on_hub(rest: str) -> Source:
    """Return the source of a dataset on the hub, named as in `hub.FORM`."""
    return _documents(_dataset(rest))


def pg19() -> Source:
    """Return the source of the paper's PG-19 texts; with seed 0 its 50 are the first 50."""
    return _halved(_documents(_dataset("yurakuratov/pg19_valid_1k_chunks#text"), in_order=True))


def fanfics() -> Source:
    """Return the source of the paper's fan fiction; with seed 0 its 50 are the first 50."""
    return _halved(_documents(_dataset("yurakuratov/fanfics_1k_chunks#text"), in_order=True))


def pg19_books() -> Source:
    """Return the source of PG-19's validation books, cut by `chunked`."""
    return chunked("hub:emozilla/pg19:default/validation#text")


def _dataset(name: str) -> Documents:
    found = hub.fetch(name)
    return documents.load_all(found.paths, found.column, name=found.name)


def _documents(found: Documents, *, ids: list[str] | None = None, in_order: bool = False) -> Source:
    """Return the source of documents in seeded order; in_order: seed 0 keeps their own."""

    def source(tokenizer: object, length: int, seed: int) -> Draws:
        order = np.arange(found.n) if in_order and not seed else np.random.default_rng(seed).permutation(found.n)
        held: dict[int, str] = {}

        def at(index: int) -> tuple[str, str]:
            if index not in held:  # each pass over the files brings more
                places = range(index, min(found.n, index + min(max(_BATCH[0], index), _BATCH[1])))
                held.clear()
                held.update(zip(places, found.read(order[places].tolist()), strict=True))
            place = int(order[index])
            return ids[place] if ids else f"{found.name}-{place}", held[index]

        return Draws(found.n, at)

    return source


# Changes to the texts of another source


def base(name: str) -> str:
    """Return the source that is changed by whatever stands before it: `embedded` of `after:8:shuffled:embedded`."""
    while (head := name.partition(":")[0]) in (*_CHANGES, "after"):
        name = name.partition(":")[2].partition(":")[2] if head == "after" else name.partition(":")[2]
    return name


def halves(rest: str) -> Source:
    """Return the source of the second half, by sentences, of each text of another source."""
    return _halved(named(rest))


def shuffled(rest: str) -> Source:
    """Return the source of another source's texts, each with its words in seeded order: the same words, no syntax."""

    def shuffle(text: str, seed: int, index: int) -> str:
        found = text.split()
        return " ".join(found[i] for i in np.random.default_rng([seed, index, 1]).permutation(len(found)))

    return _changed(named(rest), shuffle)


def chunked(rest: str) -> Source:
    """Return the source of chunks of another source's books, the second half of each: how the paper made its texts.

    Books come in turn, 20 times each.
    """
    inner = named(rest)

    def source(tokenizer: object, length: int, seed: int) -> Draws:
        books = inner(tokenizer, length, seed)
        n_books = books.n
        if n_books is None:
            raise TextError(f"{rest} has no books to cut chunks from; take it as it is, without chunks:")
        short: dict[int, str] = {}  # books that give no chunk, not read again: place -> id

        def at(index: int) -> tuple[str, str]:
            book = index % n_books
            name, text = (short[book], "") if book in short else books.at(book)
            found = chunks.chunk(_words_of(text), np.random.default_rng([seed, index]))
            if found is None:
                short[book] = name
                return name, ""
            return f"{name}-s{found[0]}", chunks.second_half(found[1])

        return Draws(n_books * _PER_BOOK, at)

    return source


def _halved(inner: Source) -> Source:
    return _changed(inner, lambda text, seed, index: chunks.second_half(chunks.sentences(text)))


def _changed(inner: Source, change: Callable[[str, int, int], str]) -> Source:
    def source(tokenizer: object, length: int, seed: int) -> Draws:
        draws = inner(tokenizer, length, seed)

        def at(index: int) -> tuple[str, str]:
            name, text = draws.at(index)
            return name, change(_words_of(text), seed, index)

        return Draws(draws.n, at)

    return source


def _words_of(text: str | list[int]) -> str:
    if not isinstance(text, str):
        raise TextError(
            "random tokens have no words or sentences, nor has what after: has cut; take random_tokens as it is, and "
            "put after: outermost"
        )
    return text


def after(rest: str) -> Source:
    """Return the source of `TOKENS:SOURCE`: another source's texts from behind that many tokens on, as token ids.

    What stands before is a real prefix of each: the other source's texts of TOKENS + length tokens have both.
    """
    tokens, colon, name = rest.partition(":")
    if not (colon and tokens.isascii() and tokens.isdigit() and len(tokens) <= 9):
        raise TextError(
            f"after:{rest[:120]!r} is not after:TOKENS:SOURCE; give a count of tokens, as after:64:embedded"
        )
    inner, before = named(name), int(tokens)

    def source(tokenizer, length: int, seed: int) -> Draws:
        draws = inner(tokenizer, before + length, seed)

        def at(index: int) -> tuple[str, list[int]]:
            name, text = draws.at(index)
            ids = (
                tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if isinstance(text, str) else text
            )
            return name, list(ids[before:])

        return Draws(draws.n, at)

    return source


# Random texts


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
            found = [line.split(" ", 1)[0].strip() for line in islice(lines, n_words)]
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is not UTF-8 text (byte {error.start}); convert it first") from error
    found = [word for word in found if word]
    if not found:
        raise TextError(f"{path} holds no words; give a list of words, one a line, or a GloVe file")
    return found


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
    found = []
    for spelled in (alone, [ids[len(lead) :] for ids in behind if ids[: len(lead)] == lead]):
        starts = Counter(tuple(ids[:n]) for ids in spelled for n in range(len(ids) + 1))
        found.append((Counter(map(tuple, spelled)), starts))
    return found


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


SOURCES: dict[str, Callable[[], Source]] = {
    "embedded": embedded,
    "pg19": pg19,
    "pg19_books": pg19_books,
    "fanfics": fanfics,
    "random_words": random_words,
    "random_tokens": random_tokens,
}
_CHANGES: dict[str, Callable[[str], Source]] = {"shuffled": shuffled, "halves": halves, "chunks": chunked}
PREFIXES: dict[str, Callable[[str], Source]] = {
    "file": file, "hub": on_hub, "random_words": random_words, "random_tokens": random_tokens, "after": after,
} | _CHANGES  # fmt: skip
FORMS = {  # of names with a colon, and what they mean
    "file:PATH[#COLUMN]": "a text file; a column of CSV, JSONL or Parquet",
    hub.FORM: "a column of a dataset on the hub",
    "random_tokens:K": "ids drawn evenly from a seeded subset of K ordinary tokens",
    "random_words:PATH": "words drawn evenly from a word list or GloVe file",
    "shuffled:SOURCE": "another source's texts, each with its words in seeded order",
    "halves:SOURCE": "the second half, by sentences, of each text of another source",
    "chunks:SOURCE": "chunks of another source's books, the second half of each",
    "after:TOKENS:SOURCE": "another source's texts from behind that many tokens on",
}
